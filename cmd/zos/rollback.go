package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/problem"
)

func (a *app) rollbackCommand() *cobra.Command {
	var to uint64
	var life time.Duration
	var dry bool
	cmd := &cobra.Command{
		Use:   "rollback [CONTRACT]",
		Short: "Propose a former version of a contract as its next one, with your own approval",
		Long: `Propose the plan of a former version, byte for byte but for people's devices,
which stay those of now. It runs once enough members of the group have approved
it, like every version. Without CONTRACT it is the only one that there is.`,
		Example: `  zos rollback demo/shop --dry-run
  zos rollback demo/shop --as red
  zos rollback demo/shop --to 3 --as red`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeFirst(contractNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				k, err := onlyContract(ctx, c, args)
				if err != nil {
					return err
				}
				r, err := c.PlanRollback(ctx, k.ID, to)
				if err != nil {
					return err
				}
				names, err := c.Names(ctx)
				if err != nil {
					return err
				}
				if dry && a.format == "json" {
					out := planJSON(r.Planned, names)
					out["from"], out["unreadable"] = r.From, r.Unreadable
					return a.json(out)
				}
				if a.format != "json" {
					fmt.Fprintf(a.out, "version %d again: ", r.From)
					a.showPlan(r.Planned, names)
				}
				for _, s := range r.Unreadable {
					a.progress("%s", a.paint(a.err, care, printable(fmt.Sprintf("! %s can't start: its secret %s is sealed to the keys %d of %s, which has %d now; deploy the former spec file with the secret's value instead",
						s.Workload, s.Name, s.Epoch, s.Node, s.Now))))
				}
				if dry {
					return nil
				}
				by, err := c.DefaultSigner(ctx, a.as)
				if err != nil {
					return err
				}
				r.Life = life
				id, err := c.Propose(ctx, r.Planned, by)
				if err != nil {
					return fmt.Errorf("propose version %d of %s again: %w", r.From, k.Name, err)
				}
				return a.showProposal(ctx, c, id, r.Hash)
			})
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&to, "to", 0, "the version (default: the newest that differs from what stands)")
	f.BoolVar(&dry, "dry-run", false, "show it only")
	f.DurationVar(&life, "expiry", client.ProposalLife, "how long it can gather approvals, at most 90 days")
	return cmd
}

// onlyContract is the contract that is named, or the only active one.
func onlyContract(ctx context.Context, c *client.Client, args []string) (client.Contract, error) {
	if len(args) > 0 {
		return c.FindContract(ctx, args[0])
	}
	all, err := c.Contracts(ctx)
	if err != nil {
		return client.Contract{}, err
	}
	var active []client.Contract
	for _, k := range all {
		if k.Active() {
			active = append(active, k)
		}
	}
	if len(active) != 1 {
		return client.Contract{}, problem.New("contract-unknown", "there are %d active contracts", len(active)).WithFix("name one: zos contract ls")
	}
	return active[0], nil
}
