package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

func (a *app) contractCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "contract",
		Short: "Contracts: what was approved, by whom, and the proof",
	}
	cmd.AddCommand(a.contractListCommand(), a.contractShowCommand(), a.contractLogCommand(), a.contractVerifyCommand())
	return cmd
}

// contractRow is a contract for people and machines.
type contractRow struct {
	Contract  string     `json:"contract"` // group/deployment
	ID        canon.Hash `json:"id"`
	Group     string     `json:"group"`
	GroupID   canon.Hash `json:"group_id"`
	State     string     `json:"state"`
	Version   uint64     `json:"version"`
	PlanHash  canon.Hash `json:"plan_hash"`
	Workloads int        `json:"workloads"`
	Created   uint64     `json:"created"`
	Changed   uint64     `json:"changed"`
}

func contractRowOf(k client.Contract, names client.Names) contractRow {
	return contractRow{names.Of(k.Group) + "/" + k.Name, k.ID, names.Of(k.Group), k.Group, k.State, k.Version, k.ContractRecord.Plan,
		len(k.Plan.Workloads), k.Created, k.Changed}
}

func (a *app) contractListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the contracts, cancelled ones included",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				list, err := c.Contracts(ctx)
				if err != nil {
					return err
				}
				data, rows := []contractRow{}, [][]string{}
				for _, k := range list {
					r := contractRowOf(k, names)
					data = append(data, r)
					rows = append(rows, []string{r.Contract, r.ID.Short(), r.State, fmt.Sprint(r.Version), fmt.Sprint(r.Workloads), when(r.Changed)})
				}
				return a.table(data, []string{"CONTRACT", "ID", "STATE", "VERSION", "WORKLOADS", "CHANGED"}, rows)
			})
		},
	}
}

func (a *app) contractShowCommand() *cobra.Command {
	var export string
	cmd := &cobra.Command{
		Use:   "show CONTRACT",
		Short: "Show a contract, or export its proof for ssh-keygen",
		Long: `Show a contract by group/name or its id. --export writes its proof into a
directory: the newest approval's bytes as they were signed, the members' keys,
each approver's signature, and the whole history. It needs no grid to check:

  ssh-keygen -Y verify -n zos-approval-v1 -f DIR/allowed_signers -I red \
    -s DIR/red.sig < DIR/statement
  zos contract verify DIR`,
		Example:           "  zos contract show demo/hello\n  zos contract show demo/hello --export proof",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(contractNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				k, err := c.FindContract(ctx, args[0])
				if err != nil {
					return err
				}
				e, err := c.Evidence(ctx, k)
				if err != nil {
					return err
				}
				j, err := e.Judge()
				if err != nil {
					return fmt.Errorf("judge %s: %w", args[0], err)
				}
				files := []string{}
				if export != "" {
					if files, err = e.Export(export); err != nil {
						return err
					}
				}
				return a.showContract(k, j, names, export, files)
			})
		},
	}
	cmd.Flags().StringVar(&export, "export", "", "write the proof into this directory")
	return cmd
}

func (a *app) showContract(k client.Contract, j client.Judged, names client.Names, export string, files []string) error {
	r := contractRowOf(k, names)
	newest := j.Versions[len(j.Versions)-1]
	lines := []string{}
	for _, p := range parts(&k.Plan, names) {
		lines = append(lines, p.lines...)
	}
	if a.format == "json" {
		return a.json(map[string]any{
			"contract": r.Contract, "id": r.ID, "group": r.Group, "group_id": r.GroupID, "state": r.State, "version": r.Version,
			"plan_hash": r.PlanHash, "approval": newest.ID, "approvers": newest.Signers, "threshold": j.Group.Threshold,
			"created": r.Created, "changed": r.Changed, "plan": lines, "exported": files,
		})
	}
	a.fields([][2]string{
		{"contract", r.Contract}, {"id", r.ID.String()}, {"state", r.State}, {"version", fmt.Sprint(r.Version)}, {"plan hash", r.PlanHash.String()},
		{"approved by", strings.Join(newest.Signers, ", ")}, {"created", when(r.Created)}, {"changed", when(r.Changed)},
	})
	for _, l := range lines {
		fmt.Fprintln(a.out, "  "+printable(l))
	}
	if export != "" {
		a.progress("exported to %s: %s", export, strings.Join(files, " "))
	}
	return nil
}

// logRow is a version of a contract for people and machines.
type logRow struct {
	Version   uint64     `json:"version"`
	Action    string     `json:"action"`
	Proposal  canon.Hash `json:"proposal"`
	PlanHash  canon.Hash `json:"plan_hash"`
	Approvers []string   `json:"approvers"`
	Opened    uint64     `json:"opened"`  // block time, Unix seconds
	Decided   uint64     `json:"decided"` // likewise
}

func (a *app) contractLogCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "log CONTRACT",
		Short: "List a contract's versions: who approved them, and when",
		Long: `List a contract's versions: who approved them, and when. The ledger keeps the
first version and the newest ones; very old ones between them may be gone.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(contractNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				k, err := c.FindContract(ctx, args[0])
				if err != nil {
					return err
				}
				e, err := c.Evidence(ctx, k)
				if err != nil {
					return err
				}
				j, err := e.Judge()
				if err != nil {
					return fmt.Errorf("judge %s: %w", args[0], err)
				}
				data, rows := []logRow{}, [][]string{}
				for _, v := range j.Versions {
					p, err := c.Proposal(ctx, v.ID)
					if err != nil {
						return err
					}
					r := logRow{v.Approval.Version, v.Approval.Action, v.ID, canon.Sum(v.Approval.Plan), v.Signers, p.Record.Time, p.Record.Decided}
					data = append(data, r)
					rows = append(rows, []string{fmt.Sprint(r.Version), r.Action, r.Proposal.Short(), r.PlanHash.Short(), strings.Join(r.Approvers, ","), when(r.Decided)})
				}
				return a.table(data, []string{"VERSION", "ACTION", "PROPOSAL", "PLAN", "APPROVED BY", "DECIDED"}, rows)
			})
		},
	}
}

func (a *app) contractVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify CONTRACT|DIR",
		Short: "Judge a contract's approvals again, from the ledger or an exported proof",
		Long: `Judge a contract's approvals again by the rules that nodes apply, and say each
step. A directory that "contract show --export" wrote needs no grid.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(contractNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if st, err := os.Stat(args[0]); err == nil && st.IsDir() {
				e, err := client.ReadEvidence(args[0])
				if err != nil {
					return err
				}
				return a.verify(e, nil)
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				k, err := c.FindContract(ctx, args[0])
				if err != nil {
					return err
				}
				e, err := c.Evidence(ctx, k)
				if err != nil {
					return err
				}
				return a.verify(e, &k)
			})
		},
	}
}

// step is one finding of a verification.
type step struct {
	Step  string `json:"step"`
	Found string `json:"found"`
}

// verify judges evidence, against the grid of the context if there is one, and
// against the ledger's record if one was read.
func (a *app) verify(e client.Evidence, record *client.Contract) error {
	steps := []step{}
	say := func(name, format string, args ...any) {
		steps = append(steps, step{name, fmt.Sprintf(format, args...)})
	}
	_, known, err := a.openContext()
	switch {
	case err == nil && known.Grid() != e.Grid:
		return problem.New("wrong-grid", "the proof is of grid %s, context %s is of %s", e.Grid, known.Name, known.Grid()).
			WithFix("choose that grid's context with --context NAME")
	case err == nil:
		say("grid", "%s, that of context %s", e.Grid, known.Name)
	case problem.Code(err) == "no-context":
		say("grid", "%s; compare it yourself, no context knows it", e.Grid)
	default:
		return err
	}
	j, err := e.Judge()
	if err != nil {
		return err
	}
	say("group", "%s %s decides with %d", j.Group.Name, j.GroupID, j.Group.Threshold)
	for _, m := range j.Group.Members {
		say("member", "account %s, weight %d", m.Account, m.Weight)
	}
	for _, name := range slices.Sorted(maps.Keys(j.Members)) {
		key := j.Members[name]
		say("key", "%s signs with %s", name, key.Fingerprint())
	}
	for _, v := range j.Versions {
		say("version", "%d %s, plan %s, approved by %s", v.Approval.Version, v.Approval.Action, canon.Sum(v.Approval.Plan), strings.Join(v.Signers, ", "))
	}
	newest := j.Versions[len(j.Versions)-1].Approval
	state := contract.ContractActive
	if newest.Action == contract.ActionCancel {
		state = contract.ContractCancelled
	}
	if record != nil {
		if record.ID != j.Contract || record.Version != newest.Version || record.State != state || record.Group != j.GroupID || record.ContractRecord.Plan != canon.Sum(newest.Plan) {
			return problem.New("record-mismatch", "the ledger says version %d, %s; the approvals come to version %d, %s", record.Version, record.State, newest.Version, state).
				WithFix("the ledger lies or is damaged; ask its operators")
		}
		say("ledger", "its record says the same")
	}
	say("contract", "%s/%s %s is %s at version %d", j.Group.Name, newest.Name, j.Contract, state, newest.Version)
	if a.format == "json" {
		return a.json(map[string]any{"contract": j.Contract, "grid": j.Grid, "group": j.GroupID, "version": newest.Version, "state": state, "steps": steps})
	}
	for _, s := range steps {
		fmt.Fprintf(a.out, "%s %-8s  %s\n", a.paint(a.out, good, "ok"), s.Step, printable(s.Found))
	}
	return nil
}
