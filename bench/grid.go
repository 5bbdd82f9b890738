package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/examples"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/grid"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec"
)

// Deadlines on a busy machine; a figure that is missed is still measured.
const (
	bootTime = 10 * time.Minute
	actTime  = 10 * time.Minute
)

// up starts a grid of one node with a disk.
func (b *bench) up(ctx context.Context, name string, memory int) (*grid.Grid, time.Duration, error) {
	began := time.Now()
	g, err := grid.Up(ctx, grid.Options{
		Dir: filepath.Join(b.tmp, name), Image: b.image, Nodes: 1, Identity: grid.IdentityDisk, Firmware: qemu.BIOS, Memory: memory,
		Progress: func(string, ...any) {}, Log: b.log,
	})
	if err != nil {
		return nil, 0, err
	}
	wait, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	if err := g.Ready(wait); err != nil {
		return nil, 0, errors.Join(err, g.Close())
	}
	return g, time.Since(began), nil
}

// upAndDeploy measures a node of 512 MB: from nothing to ready, from the last
// approval to the first output, and its memory after idling.
func (b *bench) upAndDeploy(ctx context.Context) (err error) {
	g, took, err := b.up(ctx, "up", 512)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	b.Add("`zos up` to node ready", fmt.Sprintf("%.1f s", took.Seconds()), "≤ 60 s", took <= time.Minute)
	c := g.Client()
	// The first run fetches the objects, the second finds them.
	first, id, err := deploy(ctx, c, examples.Hello)
	if err != nil {
		return err
	}
	if err := cancelContract(ctx, c, id); err != nil {
		return err
	}
	second, id, err := deploy(ctx, c, examples.Hello)
	if err != nil {
		return err
	}
	b.Add("last approval to first output, objects fetched", fmt.Sprintf("%.1f s", first.Seconds()), "–", true)
	b.Add("last approval to first output, objects present", fmt.Sprintf("%.1f s", second.Seconds()), "≤ 5 s", second <= 5*time.Second)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.idle):
	}
	k, err := c.Contract(ctx, id)
	if err != nil {
		return err
	}
	farmer, err := c.Signer(ctx, "farmer")
	if err != nil {
		return err
	}
	st, err := c.NodeStatus(ctx, k.Plan.Workloads[0].Slot, farmer)
	if err != nil {
		return err
	}
	var total, private uint64
	list := ""
	for _, m := range st.Memory {
		total += m.Resident
		private += m.Private
		list += fmt.Sprintf(" %s %.0f", m.Name, float64(m.Resident)/1e6)
	}
	b.Add(fmt.Sprintf("resident memory of the node's programs after %s idle (512 MB node:%s)", b.idle, list),
		fmt.Sprintf("%.0f MB, %.0f private", float64(total)/1e6, float64(private)/1e6), "≤ 150 MB", total <= 150e6)
	return nil
}

// deploy approves a deployment twice, and measures from the second approval to
// the first line of output.
func deploy(ctx context.Context, c *client.Client, text []byte) (time.Duration, canon.Hash, error) {
	ctx, cancel := context.WithTimeout(ctx, actTime)
	defer cancel()
	fail := func(err error) (time.Duration, canon.Hash, error) { return 0, canon.Hash{}, err }
	d, err := spec.Parse("bench.yaml", text)
	if err != nil {
		return fail(err)
	}
	p, err := c.Plan(ctx, d)
	if err != nil {
		return fail(err)
	}
	red, green, err := redAndGreen(ctx, c)
	if err != nil {
		return fail(err)
	}
	id, err := c.Propose(ctx, p, red)
	if err != nil {
		return fail(err)
	}
	proposal, err := c.Proposal(ctx, id)
	if err != nil {
		return fail(err)
	}
	began := time.Now()
	if err := c.Approve(ctx, proposal, green); err != nil {
		return fail(err)
	}
	w := p.Plan.Workloads[0]
	var out time.Time
	err = client.Poll(ctx, func(ctx context.Context) (bool, error) {
		// Until the node has proven the contract it refuses to show its log.
		err := c.Logs(ctx, w.Slot, id, protocol.LogsParams{Workload: w.Name}, red, func(r protocol.LogRecord) error {
			if r.Stream == "stdout" && out.IsZero() {
				out = time.Unix(0, r.Time)
			}
			return nil
		})
		if ctx.Err() != nil {
			return false, err
		}
		return !out.IsZero(), nil
	})
	if err != nil {
		return fail(fmt.Errorf("wait for the first output: %w", err))
	}
	// The guest's clock follows the host's; its word is cross-checked by when
	// the line was seen here.
	return min(time.Since(began), max(0, out.Sub(began))), id, nil
}

func redAndGreen(ctx context.Context, c *client.Client) (red, green sign.Signer, err error) {
	if red, err = c.Signer(ctx, "red"); err != nil {
		return nil, nil, err
	}
	green, err = c.Signer(ctx, "green")
	return red, green, err
}

// cancelContract ends a contract and waits until its receipt says that nothing
// is left.
func cancelContract(ctx context.Context, c *client.Client, id canon.Hash) error {
	ctx, cancel := context.WithTimeout(ctx, actTime)
	defer cancel()
	red, green, err := redAndGreen(ctx, c)
	if err != nil {
		return err
	}
	pid, err := c.ProposeCancel(ctx, id, red)
	if err != nil {
		return err
	}
	p, err := c.Proposal(ctx, pid)
	if err != nil {
		return err
	}
	if err := c.Approve(ctx, p, green); err != nil {
		return err
	}
	return client.Poll(ctx, func(ctx context.Context) (bool, error) { return c.Gone(ctx, id) })
}

const pythonSpec = `apiVersion: zos/v1
name: python
group: demo
workloads:
  - name: python
    kind: container
    isolation: namespace
    image: red/python:1
    command: ["/usr/bin/python3", "-c", "print(6*7)"]
    restart: never
    resources: {memory: 256MiB, disk: 64MiB}
`

// python measures how much of a Debian image is fetched to print from python3.
func (b *bench) python(ctx context.Context) (err error) {
	root := filepath.Join(b.tmp, "debian")
	out, err := exec.CommandContext(ctx, "debootstrap", "--variant=minbase", "--include=python3,perl", "bookworm", root).CombinedOutput()
	if err != nil {
		return fmt.Errorf("debootstrap: %w\n%s", err, out[max(0, len(out)-1000):])
	}
	g, _, err := b.up(ctx, "python", 1024)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	c := g.Client()
	w, err := hub.OpenWriter(c.Context().HubDir, hub.WriterOptions{NoSync: true})
	if err != nil {
		return err
	}
	began := time.Now()
	digest, m, stats, err := flist.BuildDir(ctx, root, w, flist.Options{})
	if err != nil {
		return err
	}
	if _, err := w.PutFlist(ctx, m); err != nil {
		return err
	}
	built := time.Since(began)
	if err := publish(ctx, c, w, "python", digest); err != nil {
		return err
	}
	if _, _, err := deploy(ctx, c, []byte(pythonSpec)); err != nil {
		return err
	}
	rows, err := c.Workloads(ctx)
	if err != nil || len(rows) != 1 {
		return fmt.Errorf("list workloads: %d, %w", len(rows), err)
	}
	red, _, err := redAndGreen(ctx, c)
	if err != nil {
		return err
	}
	st, err := c.WorkloadStatus(ctx, rows[0].Slot, rows[0].ContractID, red)
	if err != nil || len(st.Workloads) != 1 {
		return fmt.Errorf("ask for progress: %w", err)
	}
	s := st.Workloads[0]
	share := 100 * float64(s.Fetched) / float64(max(1, s.Total))
	b.Add(fmt.Sprintf("fetched to print from python3 in Debian (%d entries, %.0f MB)", len(m.Entries), float64(s.Total)/1e6),
		fmt.Sprintf("%.1f MB, %.1f %%", float64(s.Fetched)/1e6, share), "≤ 25 %, ≥ 10,000 entries", share <= 25 && len(m.Entries) >= 10_000)
	b.Add("flist built and published from that directory", fmt.Sprintf("%.1f s, %+v", built.Seconds(), stats), "–", true)
	return nil
}

// publish tags a flist as red's.
func publish(ctx context.Context, c *client.Client, w *hub.Writer, name string, digest canon.Hash) error {
	red, _, err := redAndGreen(ctx, c)
	if err != nil {
		return err
	}
	id, err := c.AccountID(ctx, "red")
	if err != nil {
		return err
	}
	now := time.Now()
	tag, err := contract.Sign(ctx, contract.NewTag(c.Grid(), id, name, "1", digest, uint64(now.Unix()), uint64(now.Add(time.Hour).Unix())), contract.KindTag, red)
	if err != nil {
		return err
	}
	return errors.Join(w.PublishTag(ctx, tag), w.Close())
}
