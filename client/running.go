package client

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// Running is a workload of an approved contract, and who asks for it.
type Running struct {
	Contract Contract
	Workload plan.Workload
	By       sign.Signer
}

func (r Running) ask(method string, params any) (bus.Ask, error) {
	b, err := canon.Marshal(params)
	return bus.Ask{Slot: r.Workload.Slot, Contract: r.Contract.ID, Workload: r.Workload.Name, Method: method, Params: b}, err
}

// FindWorkloads resolves group/deployment to all workloads of a contract,
// group/deployment/name to one of them, or to all of the replica set of that name.
func (c *Client) FindWorkloads(ctx context.Context, ref string) (Contract, []plan.Workload, error) {
	parts := strings.Split(ref, "/")
	name := ""
	if len(parts) == 3 {
		ref, name = parts[0]+"/"+parts[1], parts[2]
	}
	k, err := c.FindContract(ctx, ref)
	if err != nil {
		return k, nil, err
	}
	found, err := pick(k.Plan.Workloads, ref, name)
	return k, found, err
}

// FindRunning is FindWorkloads where one workload is wanted.
func (c *Client) FindRunning(ctx context.Context, ref string) (Contract, plan.Workload, error) {
	k, found, err := c.FindWorkloads(ctx, ref)
	if err != nil {
		return k, plan.Workload{}, err
	}
	if len(found) == 1 {
		return k, found[0], nil
	}
	base := strings.Join(strings.Split(ref, "/")[:2], "/")
	names := make([]string, len(found))
	for i, w := range found {
		names[i] = base + "/" + w.Name
	}
	return k, plan.Workload{}, problem.New("workload-ambiguous", "%s are %d workloads", ref, len(found)).WithFix("name one of: %s", strings.Join(names, ", "))
}

// pick chooses workloads by name or by replica set; an empty name is all.
func pick(all []plan.Workload, ref, name string) ([]plan.Workload, error) {
	var found []plan.Workload
	for _, w := range all {
		if w.Name == name {
			return []plan.Workload{w}, nil
		}
		if name == "" || w.Set == name {
			found = append(found, w)
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	names := make([]string, 0, len(all))
	for _, w := range all {
		names = append(names, ref+"/"+w.Name)
		if w.Set != "" {
			names = append(names, ref+"/"+w.Set)
		}
	}
	slices.Sort(names)
	return nil, problem.New("workload-unknown", "contract %s has no workload %q", ref, name).WithFix("name one of: %s", strings.Join(slices.Compact(names), ", "))
}

// Dialog is what goes both ways between a person and a running workload.
type Dialog struct{ d *bus.Dialog }

func (c *Client) dialog(ctx context.Context, r Running, method string, params any) (*Dialog, error) {
	a, err := r.ask(method, params)
	if err != nil {
		return nil, err
	}
	asker, err := c.asker(ctx, r.By)
	if err != nil {
		return nil, err
	}
	d, err := asker.Duplex(ctx, a)
	if err != nil {
		return nil, advise(err, r)
	}
	return &Dialog{d}, nil
}

// advise says what mends a refusal: what a node says of it does not come along.
func advise(err error, r Running) error {
	if problem.Fix(err) != "" {
		return err
	}
	var p *problem.Error
	if !errors.As(err, &p) {
		return err
	}
	switch p.Code {
	case "access-not-granted":
		class := "exec"
		for _, other := range []string{"console", "files", "restart"} {
			if strings.HasSuffix(p.What, " grants nobody "+other) {
				class = other
			}
		}
		return p.WithFix("add to workload %s in its spec, and have the change approved:  access: {%s: members}", r.Workload.Name, class)
	case "head-stale":
		return p.WithFix("wait until the node reaches the ledger again; reading works meanwhile")
	case "not-permitted":
		return p.WithFix("ask with the own key of a member of the contract's group: --as NAME")
	}
	return err
}

// Send sends one frame; it waits while the workload has too much to read.
func (d *Dialog) Send(ctx context.Context, f protocol.UpFrame) error {
	b, err := canon.Marshal(f)
	if err != nil {
		return err
	}
	return d.d.Send(ctx, b)
}

// Receive returns the next frame. It returns io.EOF when the node ended the stream
// properly, else what the node says went wrong.
func (d *Dialog) Receive(ctx context.Context) (protocol.DownFrame, error) {
	b, err := d.d.Receive(ctx)
	if err != nil {
		return protocol.DownFrame{}, err
	}
	return protocol.DecodeDownFrame(b)
}

// Close ends it. What runs in it ends too.
func (d *Dialog) Close() { d.d.Close() }

// input sends bytes for the program to read, at most MaxData in a frame.
func (d *Dialog) input(ctx context.Context, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), protocol.MaxData)
		if err := d.Send(ctx, protocol.UpFrame{Kind: protocol.FrameStdin, Data: b[:n]}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// feed sends all of r as input, and that it ended.
func (d *Dialog) feed(ctx context.Context, r io.Reader) error {
	buf := make([]byte, protocol.MaxData)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := d.input(ctx, buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return d.Send(ctx, protocol.UpFrame{Kind: protocol.FrameClose})
		}
		if err != nil {
			return err
		}
	}
}

// cutShort is the error for a stream that ended without saying how.
func cutShort(method string) error {
	return problem.New("stream-lost", "%s: the stream ended without a result", method).WithFix("ask again")
}
