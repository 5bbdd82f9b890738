package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec"
	"github.com/zero-os/zos/spec/plan"
)

// readSpec parses a spec file; "-" is standard input.
func readSpec(path string) (*spec.Deployment, error) {
	var data []byte
	var err error
	if path == "-" {
		data, err = io.ReadAll(io.LimitReader(os.Stdin, spec.MaxSize+1))
	} else {
		data, err = readBounded(path, spec.MaxSize+1)
	}
	if err != nil {
		return nil, problem.New("source-unreadable", "read the spec: %w", err).WithFix("name a file, or - for standard input")
	}
	return spec.Parse(path, data)
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

func (a *app) planCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "plan FILE",
		Short: "Show what a deployment would change, and the hash that people approve",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				d, err := readSpec(args[0])
				if err != nil {
					return err
				}
				p, err := c.Plan(ctx, d)
				if err != nil {
					return err
				}
				names, err := c.Names(ctx)
				if err != nil {
					return err
				}
				if a.format == "json" {
					return a.json(planJSON(p, names))
				}
				a.showPlan(p, names)
				return nil
			})
		},
	}
}

// planJSON is the machine's form of a plan.
func planJSON(p client.Planned, names client.Names) map[string]any {
	out := map[string]any{
		"contract": names.Of(p.Plan.Group) + "/" + p.Plan.Name, "action": p.Action(), "version": p.Version,
		"plan_hash": p.Hash, "threshold": p.Group.Threshold, "changes": diff(p.Standing, &p.Plan, names),
		"attention": attention(p.Standing, &p.Plan), "read": append([]string{}, p.Read...),
	}
	if !p.Contract.IsZero() {
		out["contract_id"] = p.Contract
	}
	return out
}

// showPlan prints a plan as a difference to what stands.
func (a *app) showPlan(p client.Planned, names client.Names) {
	fmt.Fprintf(a.out, "%s %s/%s version %d\n", p.Action(), names.Of(p.Plan.Group), p.Plan.Name, p.Version)
	a.showDiff(diff(p.Standing, &p.Plan, names))
	for _, l := range attention(p.Standing, &p.Plan) {
		fmt.Fprintln(a.out, a.paint(a.out, care, "! "+printable(l)))
	}
	for _, from := range p.Read {
		fmt.Fprintf(a.out, "sealed     what %s holds here\n", printable(from))
	}
	fmt.Fprintf(a.out, "plan hash  %s\n", a.paint(a.out, loud, p.Hash.String()))
	fmt.Fprintf(a.out, "decided by %d of the group's votes\n", p.Group.Threshold)
}

func (a *app) showDiff(lines []string) {
	if len(lines) == 0 {
		fmt.Fprintln(a.out, "  nothing changes")
	}
	for _, l := range lines {
		switch l[0] {
		case '+':
			l = a.paint(a.out, good, l)
		case '-':
			l = a.paint(a.out, bad, l)
		}
		fmt.Fprintln(a.out, "  "+l)
	}
}

// part is a network or a workload of a plan, as people read it.
type part struct {
	key   string
	lines []string // a fact each; the first says what it is
}

// parts are what a plan is made of. Routers are shown as their network's nodes.
func parts(p *plan.Plan, names client.Names) []part {
	var out []part
	if p == nil {
		return nil
	}
	if p.Update != plan.DefaultUpdate() && p.Update != (plan.Update{}) {
		out = append(out, part{"update", []string{describeUpdate(p.Update)}})
	}
	for _, n := range p.Networks {
		out = append(out, part{"network " + n.Name, network.Describe(n, names.Of)})
	}
	for _, w := range p.Workloads {
		if w.Kind != plan.KindNetwork {
			out = append(out, part{"workload " + w.Name, describe(w, names)})
		}
	}
	return out
}

// diff lists what changes from one plan to another, a line each, with + or -
// in front, or a blank for what stays.
func diff(from, to *plan.Plan, names client.Names) []string {
	old := map[string][]string{}
	for _, p := range parts(from, names) {
		old[p.key] = p.lines
	}
	out := []string{}
	for _, p := range parts(to, names) {
		out = append(out, diffPart(old[p.key], p.lines)...)
		delete(old, p.key)
	}
	for _, p := range parts(from, names) {
		for _, l := range old[p.key] {
			out = append(out, "- "+l)
		}
	}
	return out
}

// diffPart compares the facts of one part: first what it is, then what changes of
// it, the old beside the new. What only moves is shown as well, for the plan is
// another one then.
func diffPart(before, lines []string) []string {
	if slices.Equal(before, lines) {
		return nil
	}
	var out []string
	if len(before) > 0 && len(lines) > 0 && before[0] == lines[0] {
		out = append(out, "  "+lines[0])
		before, lines = before[1:], lines[1:]
	}
	stays, stood := setOf(lines), setOf(before)
	for len(before) > 0 || len(lines) > 0 {
		removed, added := 0, 0
		for removed < len(before) && !stays[before[removed]] {
			removed++
		}
		for added < len(lines) && !stood[lines[added]] {
			added++
		}
		out = append(out, besides(before[:removed], lines[:added])...)
		before, lines = before[removed:], lines[added:]
		switch {
		case len(before) == 0:
			out = append(out, besides(nil, lines)...)
			lines = nil
		case len(lines) == 0:
			out = append(out, besides(before, nil)...)
			before = nil
		default: // both know both lines
			if before[0] != lines[0] {
				out = append(out, "- "+before[0], "+ "+lines[0])
			}
			before, lines = before[1:], lines[1:]
		}
	}
	return out
}

func setOf(lines []string) map[string]bool {
	set := make(map[string]bool, len(lines))
	for _, l := range lines {
		set[l] = true
	}
	return set
}

// besides lists what went and what came, each fact's new line behind its old one.
func besides(removed, added []string) []string {
	var out []string
	for _, l := range removed {
		out = append(out, "- "+l)
		for i, n := range added {
			if factOf(n) != factOf(l) {
				continue
			}
			for _, n := range added[:i+1] {
				out = append(out, "+ "+n)
			}
			added = added[i+1:]
			break
		}
	}
	for _, l := range added {
		out = append(out, "+ "+l)
	}
	return out
}

// factOf is what a line of a part is about: its first word.
func factOf(line string) string {
	fact, _, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
	return fact
}

func (a *app) deployCommand() *cobra.Command {
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "deploy FILE",
		Short: "Propose a deployment, or its update, with your own approval",
		Long: `Resolve FILE to a plan, propose it to its group, and approve it with your key.
It runs once enough members of the group have approved the same bytes.`,
		Example: "  zos deploy examples/hello.yaml --as red",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				d, err := readSpec(args[0])
				if err != nil {
					return err
				}
				by, err := c.DefaultSigner(ctx, a.as)
				if err != nil {
					return err
				}
				p, err := c.Plan(ctx, d)
				if err != nil {
					return err
				}
				for _, from := range p.Read {
					a.progress("sealed what %s holds here", printable(from))
				}
				p.Life = life
				id, err := c.Propose(ctx, p, by)
				if err != nil {
					return fmt.Errorf("propose %s: %w", d.Name, err)
				}
				return a.showProposal(ctx, c, id, p.Hash)
			})
		},
	}
	cmd.Flags().DurationVar(&life, "expiry", client.ProposalLife, "how long it can gather approvals, at most 90 days")
	return cmd
}

func (a *app) rmCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "rm CONTRACT",
		Short:             "Propose the end of a contract, with your own approval",
		Example:           "  zos rm demo/hello --as red",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(contractNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				k, err := c.FindContract(ctx, args[0])
				if err != nil {
					return err
				}
				by, err := c.DefaultSigner(ctx, a.as)
				if err != nil {
					return err
				}
				id, err := c.ProposeCancel(ctx, k.ID, by)
				if err != nil {
					return fmt.Errorf("propose the end of %s: %w", args[0], err)
				}
				return a.showProposal(ctx, c, id, canon.Hash{})
			})
		},
	}
}

// proposalRow is a proposal for people and machines.
type proposalRow struct {
	Proposal  canon.Hash `json:"proposal"`
	PlanHash  canon.Hash `json:"plan_hash"`
	Contract  string     `json:"contract"`
	Action    string     `json:"action"`
	Version   uint64     `json:"version"`
	Approvals uint64     `json:"approvals"` // weight
	Threshold uint64     `json:"threshold"`
	Approvers []string   `json:"approvers"`
	State     string     `json:"state"`
	Expiry    uint64     `json:"expiry"` // Unix seconds
}

func rowOf(p client.Proposal, names client.Names) proposalRow {
	r := proposalRow{
		Proposal: p.ID, PlanHash: p.PlanHash, Contract: names.Of(p.Record.Group) + "/" + p.Record.Name,
		Action: p.Record.Action, Version: p.Record.Version, Approvals: p.Record.Weight, Threshold: p.Record.Threshold,
		Approvers: []string{}, State: p.Record.State, Expiry: p.Record.Expiry,
	}
	for _, id := range p.Record.Approvers {
		r.Approvers = append(r.Approvers, names.Of(id))
	}
	if r.State == contract.ProposalOpen && r.Expiry <= uint64(time.Now().Unix()) {
		r.State = "expired"
	}
	return r
}

// showProposal prints what became of a proposal. A decided one no longer holds
// its plan, so the caller says the plan's hash if it knows.
func (a *app) showProposal(ctx context.Context, c *client.Client, id, planHash canon.Hash) error {
	p, err := c.Proposal(ctx, id)
	if err != nil {
		return err
	}
	names, err := c.Names(ctx)
	if err != nil {
		return err
	}
	r := rowOf(p, names)
	if r.PlanHash.IsZero() {
		r.PlanHash = planHash
	}
	if a.format == "json" {
		return a.json(r)
	}
	a.progress("%s %s: %d of %d, %s", r.Action, r.Contract, r.Approvals, r.Threshold, r.State)
	if r.State == contract.ProposalOpen {
		a.progress("others approve with: zos approve %s --as NAME", id.Short())
	}
	fmt.Fprintln(a.out, id)
	return nil
}

func (a *app) proposalsCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "proposals",
		Short: "List what waits for approvals",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				list, err := c.Proposals(ctx, all)
				if err != nil {
					return err
				}
				names, err := c.Names(ctx)
				if err != nil {
					return err
				}
				data := make([]proposalRow, 0, len(list))
				var rows [][]string
				for _, p := range list {
					r := rowOf(p, names)
					data = append(data, r)
					rows = append(rows, []string{r.Proposal.Short(), r.Action, r.Contract, fmt.Sprint(r.Version),
						fmt.Sprintf("%d of %d", r.Approvals, r.Threshold), strings.Join(r.Approvers, ","), r.State,
						time.Unix(int64(r.Expiry), 0).Format(time.DateTime)})
				}
				return a.table(data, []string{"PROPOSAL", "ACTION", "CONTRACT", "VERSION", "APPROVED", "BY", "STATE", "EXPIRES"}, rows)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also those that are decided or expired")
	return cmd
}

// withClient opens the grid, and closes it whatever happens.
func (a *app) withClient(ctx context.Context, f func(context.Context, *client.Client) error) (err error) {
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return f(ctx, c)
}
