package client

import (
	"context"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

// Node is a slot and who is bound to it.
type Node struct {
	Name     string
	Slot     canon.Hash
	Farm     canon.Hash
	Identity string // where its keys live: "disk", "tpm" or "none"
	Hint     string
	Capacity contract.Capacity
	Used     contract.Capacity
	Epoch    uint64 // 0: nothing has joined yet
	Bound    contract.Node
	// Features is what it says that it can do; nil if it has not said, or only
	// before its keys changed.
	Features *contract.Features
}

// Free is what contracts may still use.
func (n Node) Free() contract.Capacity {
	return contract.Capacity{
		CPU: less(n.Capacity.CPU, n.Used.CPU), Memory: less(n.Capacity.Memory, n.Used.Memory), Disk: less(n.Capacity.Disk, n.Used.Disk),
	}
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

// Nodes lists all slots of the grid by name.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	slots, err := List[contract.SlotRecord](ctx, c, "slot/")
	if err != nil {
		return nil, err
	}
	out := make([]Node, 0, len(slots))
	for _, r := range slots {
		n, err := c.node(ctx, r.Value)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	slices.SortStableFunc(out, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (c *Client) node(ctx context.Context, rec contract.SlotRecord) (Node, error) {
	s, id, _, err := contract.Open[contract.Slot](rec.Signed, contract.KindSlot, c.Grid())
	if err != nil {
		return Node{}, err
	}
	n := Node{Name: s.Name, Slot: id, Farm: s.Farm, Identity: s.Identity, Hint: s.Hint, Capacity: s.Capacity}
	used, _, err := Get[contract.UsedRecord](ctx, c, contract.KeyUsed(id))
	if err != nil {
		return Node{}, err
	}
	n.Used = used.Capacity
	bound, ok, err := Get[contract.BoundRecord](ctx, c, contract.KeyBound(id))
	if err != nil || !ok {
		return n, err
	}
	n.Bound, _, _, err = contract.Open[contract.Node](bound.Signed, contract.KindNode, c.Grid())
	n.Epoch = bound.Epoch
	if err != nil {
		return n, err
	}
	said, ok, err := Get[contract.FeaturesRecord](ctx, c, contract.KeyFeatures(id))
	if err != nil || !ok {
		return n, err
	}
	if f, err := contract.JudgeFeatures(c.Grid(), said.Signed, n.Bound); err == nil {
		n.Features = &f
	} else if problem.Code(err) != "stale-epoch" {
		return n, err
	}
	return n, nil
}

// FindNode resolves a node by its slot's name or at least 8 hex digits of its
// slot's id.
func (c *Client) FindNode(ctx context.Context, ref string) (Node, error) {
	all, err := c.Nodes(ctx)
	if err != nil {
		return Node{}, err
	}
	ids := map[string]canon.Hash{}
	for _, n := range all {
		if other, twice := ids[n.Name]; twice && n.Name == ref {
			return Node{}, problem.New("node-unknown", "slots %s and %s of two farms are both named %s", other.Short(), n.Slot.Short(), ref).
				WithFix("write at least 8 digits of the id")
		}
		ids[n.Name] = n.Slot
	}
	id, err := find("node", ref, ids)
	if err != nil {
		return Node{}, err
	}
	for _, n := range all {
		if n.Slot == id {
			return n, nil
		}
	}
	return Node{}, problem.New("node-unknown", "no node %s", ref)
}
