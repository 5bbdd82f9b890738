package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

func (a *app) nameCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "name",
		Short: "Names under the grid's domain: whose they are",
		Long: `A group reserves a name directly under the grid's domain and publishes under it, and
under everything below it. Who came first has it, until the reservation ends; then only
that group can renew it for 30 days, and after them it is free. Names that look like
another group's are refused. Every change is a proposal that the group approves.`,
	}
	cmd.AddCommand(a.nameReserveCommand(), a.nameRenewCommand(), a.nameTransferCommand(), a.nameReleaseCommand(), a.nameListCommand())
	return cmd
}

func (a *app) nameReserveCommand() *cobra.Command {
	var group string
	p := client.NameProposal{Action: contract.ActionReserve}
	cmd := &cobra.Command{
		Use:     "reserve LABEL",
		Short:   "Propose that a group reserves a name, with your own approval",
		Example: "  zos name reserve shop --group demo --as red",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.proposeName(cmd.Context(), args[0], group, p)
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "the group (default: the only one that your key is a member of)")
	_ = cmd.RegisterFlagCompletionFunc("group", a.completeFirst(groupNames))
	cmd.Flags().DurationVar(&p.Span, "for", year, "how long from now, at most 366 days")
	a.proposalLife(cmd, &p.Life)
	return cmd
}

func (a *app) nameRenewCommand() *cobra.Command {
	p := client.NameProposal{Action: contract.ActionRenew}
	cmd := &cobra.Command{
		Use:               "renew LABEL",
		Short:             "Propose a later end of a reservation",
		Example:           "  zos name renew shop --as red",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(hostNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.proposeName(cmd.Context(), args[0], "", p)
		},
	}
	cmd.Flags().DurationVar(&p.Span, "for", year, "how much longer; the end is at most 366 days from now")
	a.proposalLife(cmd, &p.Life)
	return cmd
}

func (a *app) nameTransferCommand() *cobra.Command {
	p := client.NameProposal{Action: contract.ActionTransfer}
	cmd := &cobra.Command{
		Use:               "transfer LABEL GROUP",
		Short:             "Propose to give a name to another group",
		Long:              "Propose to give a name to another group. What is published under it ends when that is approved.",
		Example:           "  zos name transfer shop sales --as red",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeFirst(hostNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				to, err := c.GroupID(ctx, args[1])
				if err != nil {
					return err
				}
				p.To = to
				return a.proposeNameWith(ctx, c, args[0], "", p)
			})
		},
	}
	a.proposalLife(cmd, &p.Life)
	return cmd
}

func (a *app) nameReleaseCommand() *cobra.Command {
	p := client.NameProposal{Action: contract.ActionRelease}
	cmd := &cobra.Command{
		Use:               "release LABEL",
		Short:             "Propose that a name is free again",
		Example:           "  zos name release shop --as red",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(hostNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.proposeName(cmd.Context(), args[0], "", p)
		},
	}
	a.proposalLife(cmd, &p.Life)
	return cmd
}

func (a *app) proposalLife(cmd *cobra.Command, life *time.Duration) {
	cmd.Flags().DurationVar(life, "expiry", client.ProposalLife, "how long it can gather approvals, at most 90 days")
}

func (a *app) proposeName(ctx context.Context, label, group string, p client.NameProposal) error {
	return a.withClient(ctx, func(ctx context.Context, c *client.Client) error {
		return a.proposeNameWith(ctx, c, label, group, p)
	})
}

// proposeNameWith proposes for the group that is meant: who reserves says it, for
// all else it is the name's.
func (a *app) proposeNameWith(ctx context.Context, c *client.Client, label, group string, p client.NameProposal) error {
	by, err := c.DefaultSigner(ctx, a.as)
	if err != nil {
		return err
	}
	zone, err := c.Zone(ctx)
	if err != nil {
		return err
	}
	// What people read is a host; both are understood.
	p.Label = strings.TrimSuffix(label, "."+zone.Domain)
	switch {
	case p.Action != contract.ActionReserve:
		name, err := c.HostName(ctx, p.Label)
		if err != nil {
			return err
		}
		p.Group = name.Group
	case group != "":
		if p.Group, err = c.GroupID(ctx, group); err != nil {
			return err
		}
	default:
		if p.Group, err = onlyGroup(ctx, c, by.Public()); err != nil {
			return err
		}
	}
	if p.Action == contract.ActionReserve && zone.Domain == "" {
		a.progress("this grid has no domain yet; the name counts once it has one: zos zone set DOMAIN")
	}
	id, err := c.ProposeName(ctx, p, by)
	if err != nil {
		return fmt.Errorf("%s the name %s: %w", p.Action, p.Label, err)
	}
	return a.showProposal(ctx, c, id, canon.Hash{})
}

// onlyGroup is the group that a key speaks in, if it is one alone.
func onlyGroup(ctx context.Context, c *client.Client, key []byte) (canon.Hash, error) {
	account, ok, err := c.AccountOf(ctx, key)
	if err != nil {
		return canon.Hash{}, err
	}
	groups, err := c.Groups(ctx)
	if err != nil {
		return canon.Hash{}, err
	}
	var own []canon.Hash
	var named []string
	for _, g := range groups {
		if ok && g.Is.Weight(account) > 0 {
			own, named = append(own, g.ID), append(named, g.Is.Name)
		}
	}
	if len(own) == 1 {
		return own[0], nil
	}
	p := problem.New("group-unknown", "which group? the key speaks in %d", len(own))
	if len(own) == 0 {
		return canon.Hash{}, p.WithFix("name one with --group, and one of its members' keys with --as")
	}
	return canon.Hash{}, p.WithFix("name it with --group: %s", strings.Join(named, ", "))
}

// nameRow is a name for people and machines.
type nameRow struct {
	Label   string     `json:"label"`
	Host    string     `json:"host"` // the label itself if the grid has no domain
	Group   string     `json:"group"`
	GroupID canon.Hash `json:"group_id"`
	Until   uint64     `json:"until"`
	State   string     `json:"state"` // held, ended or lapsed
	Version uint64     `json:"version"`
	ID      canon.Hash `json:"id"`
}

func (a *app) nameListCommand() *cobra.Command {
	var group string
	cmd := &cobra.Command{
		Use:   "ls [LABEL]",
		Short: "List names, whose they are and until when",
		Long: `List names, whose they are and until when. A name that is held can be published under.
One that has ended can only be renewed by its group; one that has lapsed is free.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeFirst(hostNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				zone, err := c.Zone(ctx)
				if err != nil {
					return err
				}
				var list []client.HostName
				if len(args) == 1 {
					one, err := c.HostName(ctx, strings.TrimSuffix(args[0], "."+zone.Domain))
					if err != nil {
						return err
					}
					list = append(list, one)
				} else if list, err = c.HostNames(ctx); err != nil {
					return err
				}
				if group != "" {
					id, err := c.GroupID(ctx, group)
					if err != nil {
						return err
					}
					list = slices.DeleteFunc(list, func(n client.HostName) bool { return n.Group != id })
				}
				data, rows := []nameRow{}, [][]string{}
				now := uint64(time.Now().Unix())
				for _, n := range list {
					r := nameRow{n.Label, underZone(n.Label, zone), names.Of(n.Group), n.Group, n.Until, n.State(now), n.Version, n.ID}
					data = append(data, r)
					rows = append(rows, []string{r.Host, r.Group, r.State, when(r.Until)})
				}
				return a.table(data, []string{"NAME", "GROUP", "STATE", "UNTIL"}, rows)
			})
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "only this group's")
	_ = cmd.RegisterFlagCompletionFunc("group", a.completeFirst(groupNames))
	return cmd
}

// underZone is a label's full name.
func underZone(label string, zone contract.Zone) string {
	if zone.Domain == "" {
		return label
	}
	return label + "." + zone.Domain
}

func hostNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, err := c.HostNames(ctx)
	var out []string
	for _, n := range list {
		out = append(out, n.Label)
	}
	return out, err
}

// nameChange says what approving a proposal about a name does to it; standing is
// the name as it is, nil if nobody has it.
func nameChange(p client.Proposal, standing *client.HostName, zone contract.Zone, names client.Names) []string {
	host := underZone(p.Name.Label, zone)
	was := "nobody's"
	if standing != nil {
		was = fmt.Sprintf("of %s until %s", names.Of(standing.Group), when(standing.Until))
	}
	var is string
	switch p.Approval.Action {
	case contract.ActionTransfer:
		is = fmt.Sprintf("of %s until %s; %s publishes nothing under it any more", names.Of(p.Name.To), when(p.Name.Until), names.Of(p.Approval.Group))
	case contract.ActionRelease:
		is = "nobody's: anyone can reserve it at once"
	default:
		is = fmt.Sprintf("of %s until %s", names.Of(p.Approval.Group), when(p.Name.Until))
	}
	return []string{"- " + host + " is " + was, "+ " + host + " is " + is}
}
