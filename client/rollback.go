package client

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// Rollback is a former version of a contract as its next one.
type Rollback struct {
	Planned
	From uint64 // the former version
	// Unreadable are its secrets that no node can open any more: those that were sealed
	// to keys which the slot doesn't have now.
	Unreadable []UnreadableSecret
}

// UnreadableSecret is a secret that is sealed to former keys of its node.
type UnreadableSecret struct {
	Workload string `json:"workload"`
	Name     string `json:"secret"`
	Node     string `json:"node"`
	Epoch    uint64 `json:"epoch"` // that it is sealed to
	Now      uint64 `json:"now"`   // epoch of the slot's keys; 0: nobody is bound to it
}

// PlanRollback makes a former version of a contract its next one: version to, or with
// 0 the newest one that differs from what stands in more than people's devices. The
// devices stay those of now: who was let in or revoked since was so by a decision of
// its own. Codes: "version-unknown", "contract-cancelled", "rollback-impossible".
func (c *Client) PlanRollback(ctx context.Context, id canon.Hash, to uint64) (Rollback, error) {
	k, err := c.Contract(ctx, id)
	if err != nil {
		return Rollback{}, err
	}
	if k.State != contract.ContractActive {
		return Rollback{}, problem.New("contract-cancelled", "contract %s is cancelled", k.Name).WithFix("deploy it anew: zos deploy FILE")
	}
	former, err := formerVersions(c.Grid(), k)
	if err != nil {
		return Rollback{}, err
	}
	p, from, err := pickVersion(k, former, to)
	if err != nil {
		return Rollback{}, err
	}
	r := Rollback{From: from, Planned: Planned{Plan: p, Contract: id, Version: k.Version + 1, Standing: &k.Plan}}
	if r.Group, r.Epoch, err = c.Group(ctx, k.Group); err != nil {
		return r, err
	}
	if r.Bytes, err = plan.Encode(p); err != nil {
		return r, problem.New("rollback-impossible", "version %d with the devices of now: %w", from, err).WithFix("deploy the former spec file again")
	}
	r.Hash = plan.Hash(r.Bytes)
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return r, err
	}
	r.Unreadable = unreadable(p, nodes)
	return r, nil
}

// version is a former version of a contract.
type version struct {
	number uint64
	plan   plan.Plan
}

// formerVersions are what the ledger has kept of a contract's versions before the
// present one, newest first.
func formerVersions(grid canon.Hash, k Contract) ([]version, error) {
	var out []version
	for _, s := range k.History[:len(k.History)-1] {
		a, _, _, err := contract.Open[contract.Approval](s, contract.KindApproval, grid)
		if err != nil {
			return nil, err
		}
		p, err := plan.Decode(a.Plan)
		if err != nil {
			return nil, fmt.Errorf("version %d of %s: %w", a.Version, k.Name, err)
		}
		out = append(out, version{a.Version, p})
	}
	slices.Reverse(out)
	return out, nil
}

// pickVersion chooses a version, and gives it the devices of now.
func pickVersion(k Contract, former []version, to uint64) (plan.Plan, uint64, error) {
	now, err := plan.Encode(k.Plan)
	if err != nil {
		return plan.Plan{}, 0, err
	}
	kept := make([]string, 0, len(former))
	for _, v := range former {
		kept = append(kept, fmt.Sprint(v.number))
		if to != 0 && v.number != to {
			continue
		}
		p := withDevices(v.plan, k.Plan)
		// One that isn't valid is for the caller to say: it is not what stands.
		if b, err := plan.Encode(p); err == nil && bytes.Equal(b, now) {
			if to != 0 {
				return p, 0, problem.New("rollback-impossible", "version %d is what stands already", to).WithFix("nothing is left to do")
			}
			continue
		}
		return p, v.number, nil
	}
	fix := "see them all: zos contract log " + k.ID.Short()
	if to == 0 {
		return plan.Plan{}, 0, problem.New("version-unknown", "contract %s has no version before %d that differs from it", k.Name, k.Version).WithFix("%s", fix)
	}
	if len(kept) > 0 {
		fix = "the ledger has kept: " + strings.Join(kept, ", ")
	}
	return plan.Plan{}, 0, problem.New("version-unknown", "the ledger has no version %d of contract %s", to, k.Name).WithFix("%s", fix)
}

// withDevices is p with the devices of now, in networks that p has.
func withDevices(p, now plan.Plan) plan.Plan {
	networks := map[string]bool{}
	for _, n := range p.Networks {
		networks[n.Name] = true
	}
	out := p
	out.Workloads = nil
	for _, w := range p.Workloads {
		if w.Kind != plan.KindDevice {
			out.Workloads = append(out.Workloads, w)
		}
	}
	for _, w := range now.Workloads {
		if w.Kind != plan.KindDevice {
			continue
		}
		if a, err := plan.AttachmentsOf(w); err == nil && networks[a[0].Network] {
			out.Workloads = append(out.Workloads, w)
		}
	}
	slices.SortFunc(out.Workloads, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// unreadable lists the secrets of a plan that no node can open.
func unreadable(p plan.Plan, nodes []Node) []UnreadableSecret {
	out := []UnreadableSecret{}
	for _, w := range p.Workloads {
		node := Node{Name: "node " + w.Slot.Short()}
		if i := slices.IndexFunc(nodes, func(n Node) bool { return n.Slot == w.Slot }); i >= 0 {
			node = nodes[i]
		}
		for _, s := range plan.SecretsOf(w) {
			if s.Epoch != node.Epoch {
				out = append(out, UnreadableSecret{Workload: w.Name, Name: s.Name, Node: node.Name, Epoch: s.Epoch, Now: node.Epoch})
			}
		}
	}
	return out
}
