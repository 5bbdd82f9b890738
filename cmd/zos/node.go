package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

func (a *app) nodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Nodes: what they offer and how they are"}
	cmd.AddCommand(a.nodeListCommand(), a.nodeShowCommand())
	return cmd
}

// answerIn is how long a node may take to say that it is alive.
const answerIn = 5 * time.Second

// States of a node as people see it.
const (
	nodeUnbound = "unbound" // nothing has joined the slot yet
	nodeSilent  = "silent"  // it does not answer
	nodeJoined  = "joined"  // it answers and is not ready yet
	nodeReady   = "ready"
	nodeUnknown = "unknown" // the bus can't be reached, so nobody can tell
)

// nodeRow is a node for people and machines.
type nodeRow struct {
	Name        string       `json:"name"`
	Slot        canon.Hash   `json:"slot"`
	Farm        string       `json:"farm"`
	State       string       `json:"state"`
	Identity    string       `json:"identity"`
	Hint        string       `json:"hint"`
	Epoch       uint64       `json:"epoch"`
	Fingerprint string       `json:"fingerprint"` // of the node's key; empty while unbound
	Capacity    capacityJSON `json:"capacity"`
	Used        capacityJSON `json:"used"`
	Free        capacityJSON `json:"free"`
	Boot        string       `json:"boot"` // differs between any two boots; empty without an answer
	Running     uint64       `json:"running"`
	Head        uint64       `json:"head"`    // height of the last header it has proven
	Release     uint64       `json:"release"` // sequence
	Time        uint64       `json:"time"`    // of its clock, Unix seconds; 0 without an answer
	Problems    []string     `json:"problems"`
}

// nodeRowOf asks the node whether it is there. That it is not is no error.
func nodeRowOf(ctx context.Context, c *client.Client, n client.Node, names client.Names) (nodeRow, error) {
	r := nodeRow{
		Name: n.Name, Slot: n.Slot, Farm: names.Of(n.Farm), State: nodeUnbound, Identity: n.Identity, Hint: n.Hint, Epoch: n.Epoch,
		Capacity: capacityJSON(n.Capacity), Used: capacityJSON(n.Used), Free: capacityJSON(n.Free()), Problems: []string{},
	}
	if n.Epoch == 0 {
		return r, nil
	}
	r.Fingerprint = sign.PublicKey(n.Bound.SigningKey).Fingerprint()
	beat, err := heartbeat(ctx, c, n.Slot)
	switch code := problem.Code(err); {
	case err == nil:
		r.State = nodeJoined
		if beat.Status.Ready {
			r.State = nodeReady
		}
		r.Running, r.Head, r.Release, r.Time = beat.Status.Running, beat.Status.Head, beat.Release, beat.Time
		r.Boot = hex.EncodeToString(beat.BootNonce)
		r.Problems = append(r.Problems, beat.Status.Problems...)
	case code == "bus-unreachable":
		r.State = nodeUnknown
	case code == "node-silent" || code == "node-rekeyed" || errors.Is(err, context.DeadlineExceeded):
		r.State = nodeSilent
	default:
		return r, err
	}
	return r, nil
}

func heartbeat(ctx context.Context, c *client.Client, slot canon.Hash) (bus.Heartbeat, error) {
	wait, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	return c.Heartbeat(wait, slot)
}

func (a *app) nodeListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the nodes, and ask each whether it is there",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				nodes, err := c.Nodes(ctx)
				if err != nil {
					return err
				}
				data, err := nodeRows(ctx, c, nodes, names)
				if err != nil {
					return err
				}
				rows := [][]string{}
				for _, r := range data {
					free := "-"
					if r.Epoch > 0 {
						free = fmt.Sprintf("%g cpu, %s", float64(r.Free.CPU)/1000, mib(r.Free.Memory))
					}
					rows = append(rows, []string{r.Name, r.Slot.Short(), r.Farm, r.State, r.Identity, fmt.Sprint(r.Epoch), fmt.Sprint(r.Running), free})
				}
				return a.table(data, []string{"NODE", "SLOT", "FARM", "STATE", "KEYS", "EPOCH", "RUNNING", "FREE"}, rows)
			})
		},
	}
}

// nodeRows asks all nodes at once, at most askAtOnce at a time.
func nodeRows(ctx context.Context, c *client.Client, nodes []client.Node, names client.Names) ([]nodeRow, error) {
	const askAtOnce = 32
	rows, errs := make([]nodeRow, len(nodes)), make([]error, len(nodes))
	slots := make(chan struct{}, askAtOnce)
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			rows[i], errs[i] = nodeRowOf(ctx, c, n, names)
		})
	}
	all.Wait()
	return rows, errors.Join(errs...)
}

func (a *app) nodeShowCommand() *cobra.Command {
	var resources, status bool
	cmd := &cobra.Command{
		Use:   "show NODE",
		Short: "Show a node by the ledger and by its own word",
		Long: `Show a node by the ledger and by its heartbeat, which it signs. --status and
--resources ask the node itself, over the sealed bus; it answers only its farm.`,
		Example:           "  zos node show node-1\n  zos node show node-1 --resources -o json",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				n, err := c.FindNode(ctx, args[0])
				if err != nil {
					return err
				}
				switch {
				case resources:
					return a.showResources(ctx, c, n)
				case status:
					return a.showStatus(ctx, c, n)
				}
				r, err := nodeRowOf(ctx, c, n, names)
				if err != nil {
					return err
				}
				return a.showNode(r, n)
			})
		},
	}
	cmd.Flags().BoolVar(&resources, "resources", false, "what stands on the node: mounts, cgroups, namespaces, interfaces, processes, bytes")
	cmd.Flags().BoolVar(&status, "status", false, "release, uptime, boot steps, memory, and contracts that it refuses")
	cmd.MarkFlagsMutuallyExclusive("resources", "status")
	return cmd
}

func (a *app) showNode(r nodeRow, n client.Node) error {
	if a.format == "json" {
		return a.json(r)
	}
	rows := [][2]string{
		{"node", r.Name}, {"state", r.State}, {"slot", r.Slot.String()}, {"farm", r.Farm}, {"machine", r.Hint}, {"keys", r.Identity},
		{"offers", amount(n.Capacity)}, {"free", amount(n.Free())},
	}
	if r.Epoch > 0 {
		rows = append(rows, [2]string{"key", r.Fingerprint}, [2]string{"epoch", fmt.Sprint(r.Epoch)})
	}
	if r.Time > 0 {
		rows = append(rows, [2]string{"boot", r.Boot}, [2]string{"running", fmt.Sprint(r.Running)}, [2]string{"ledger head", fmt.Sprint(r.Head)},
			[2]string{"release", fmt.Sprint(r.Release)}, [2]string{"clock", when(r.Time)})
	}
	for _, p := range r.Problems {
		rows = append(rows, [2]string{"problem", p})
	}
	a.fields(rows)
	return nil
}

// farmKey finds the key of the node's farm among those at hand.
func (a *app) farmKey(ctx context.Context, c *client.Client, n client.Node) (sign.Signer, error) {
	f, err := c.Farm(ctx, n.Farm)
	if err != nil {
		return nil, err
	}
	by, err := c.SignerAmong(ctx, a.as, sign.PublicKey(f.Key).Equal)
	if err != nil {
		return nil, fmt.Errorf("ask node %s in the name of farm %s: %w", n.Name, f.Name, err)
	}
	return by, nil
}

func (a *app) showResources(ctx context.Context, c *client.Client, n client.Node) error {
	by, err := a.farmKey(ctx, c, n)
	if err != nil {
		return err
	}
	r, err := c.Resources(ctx, n.Slot, by)
	if err != nil {
		return err
	}
	r = whole(r)
	if a.format == "json" {
		return a.json(r)
	}
	for _, part := range []struct {
		name string
		list []string
	}{{"mounts", r.Mounts}, {"cgroups", r.Cgroups}, {"namespaces", r.Namespaces}, {"interfaces", r.Interfaces}, {"processes", r.Processes}} {
		fmt.Fprintf(a.out, "%s (%d)\n", a.paint(a.out, loud, part.name), len(part.list))
		for _, l := range part.list {
			fmt.Fprintln(a.out, "  "+printable(l))
		}
	}
	a.fields([][2]string{{"bytes", fmt.Sprint(r.Bytes)}, {"files", fmt.Sprint(r.Files)}, {"cached", mib(r.Cached)}})
	return nil
}

// whole has empty lists where nothing is, so that machines find lists.
func whole(r protocol.Resources) protocol.Resources {
	for _, l := range []*[]string{&r.Mounts, &r.Cgroups, &r.Namespaces, &r.Interfaces, &r.Processes} {
		if *l == nil {
			*l = []string{}
		}
	}
	return r
}

func (a *app) showStatus(ctx context.Context, c *client.Client, n client.Node) error {
	by, err := a.farmKey(ctx, c, n)
	if err != nil {
		return err
	}
	s, err := c.NodeStatus(ctx, n.Slot, by)
	if err != nil {
		return err
	}
	if a.format == "json" {
		return a.json(s)
	}
	rows := [][2]string{
		{"node", n.Name}, {"epoch", fmt.Sprint(s.Epoch)}, {"release", fmt.Sprintf("%d, OS %s", s.Release, s.OS.Short())},
		{"ledger head", fmt.Sprintf("%d at %s", s.Head, when(s.HeadTime))}, {"up", (time.Duration(s.Uptime) * time.Second).String()},
		{"store", fmt.Sprintf("%s, files %s", s.Store, verity(s.Verity))}, {"contracts", fmt.Sprint(len(s.Contracts))},
	}
	for _, p := range s.Problems {
		rows = append(rows, [2]string{"problem", p})
	}
	for _, r := range s.Refused {
		rows = append(rows, [2]string{"refused", fmt.Sprintf("%s [%s] %s", r.Contract.Short(), r.Code, r.Message)})
	}
	for _, st := range s.Steps {
		rows = append(rows, [2]string{"boot", fmt.Sprintf("%6.1f s  %s", float64(st.Milliseconds)/1000, st.Name)})
	}
	for _, m := range s.Memory {
		rows = append(rows, [2]string{"memory", fmt.Sprintf("%10s  %s (%d)", mib(m.Resident), m.Name, m.PID)})
	}
	a.fields(rows)
	return nil
}
