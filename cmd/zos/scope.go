package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// scope is the workloads of one contract that a verb is about, and a key at hand
// that may ask for them.
type scope struct {
	name      string // group/deployment
	contract  client.Contract
	workloads []plan.Workload
	by        sign.Signer
}

// scope finds what is named: a contract, a workload, or a replica set.
func (a *app) scope(ctx context.Context, c *client.Client, ref string) (scope, error) {
	k, found, err := c.FindWorkloads(ctx, ref)
	if err != nil {
		return scope{}, err
	}
	names, err := c.Names(ctx)
	if err != nil {
		return scope{}, err
	}
	by, err := a.memberOf(ctx, c, k)
	return scope{names.Of(k.Group) + "/" + k.Name, k, found, by}, err
}

// scopes finds what is named or, without a name, every contract of a group in which
// a key at hand is.
func (a *app) scopes(ctx context.Context, c *client.Client, refs []string) ([]scope, error) {
	var out []scope
	for _, ref := range refs {
		at, err := a.scope(ctx, c, ref)
		if err != nil {
			return nil, err
		}
		out = append(out, at)
	}
	if len(refs) > 0 {
		return out, nil
	}
	names, err := contractNames(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, ref := range names {
		at, err := a.scope(ctx, c, ref)
		if problem.Code(err) == "not-permitted" {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, at)
	}
	return out, nil
}

// slots are the nodes on which the workloads of a scope are, each once.
func (s scope) slots() []canon.Hash {
	var out []canon.Hash
	for _, w := range s.workloads {
		if !slices.Contains(out, w.Slot) {
			out = append(out, w.Slot)
		}
	}
	return out
}

// has tells whether a workload of that name on that node is meant.
func (s scope) has(name string, slot canon.Hash) bool {
	return slices.ContainsFunc(s.workloads, func(w plan.Workload) bool { return w.Name == name && w.Slot == slot })
}

// one is the name of the workload, if there is only one; "" asks for all.
func (s scope) one() string {
	if len(s.workloads) == 1 {
		return s.workloads[0].Name
	}
	return ""
}

// completeAll completes every argument, not the first alone.
func (a *app) completeAll(names func(context.Context, *client.Client) ([]string, error)) completion {
	first := a.completeFirst(names)
	return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return first(cmd, nil, typed)
	}
}
