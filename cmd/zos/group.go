package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
)

func (a *app) groupCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "group", Short: "Groups: accounts that decide together"}
	cmd.AddCommand(a.groupCreateCommand(), a.groupListCommand(), a.groupShowCommand())
	return cmd
}

func (a *app) groupCreateCommand() *cobra.Command {
	var members []string
	var threshold uint64
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Found a group with its members and threshold",
		Example: "  zos group create demo --member red --member green --member blue=2 --threshold 2",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				list, err := parseMembers(ctx, c, members)
				if err != nil {
					return err
				}
				by, err := c.DefaultSigner(ctx, a.as)
				if err != nil {
					return err
				}
				id, err := c.FoundGroup(ctx, args[0], list, threshold, by)
				if err != nil {
					return fmt.Errorf("found group %s: %w", args[0], err)
				}
				return a.created("group", args[0], id)
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&members, "member", nil, "account, with =WEIGHT if its approval weighs more than 1; repeat it")
	f.Uint64Var(&threshold, "threshold", 0, "weight of approvals that decides")
	_ = cmd.MarkFlagRequired("member")
	_ = cmd.MarkFlagRequired("threshold")
	_ = cmd.RegisterFlagCompletionFunc("member", a.completeFirst(accountNames))
	return cmd
}

// parseMembers resolves NAME and NAME=WEIGHT.
func parseMembers(ctx context.Context, c *client.Client, members []string) ([]contract.Member, error) {
	var list []contract.Member
	for _, m := range members {
		name, text, given := strings.Cut(m, "=")
		weight := uint64(1)
		if given {
			var err error
			if weight, err = strconv.ParseUint(text, 10, 64); err != nil || weight == 0 {
				return nil, usageError{fmt.Errorf("--member %s: the weight is a whole number from 1", m)}
			}
		}
		id, err := c.AccountID(ctx, name)
		if err != nil {
			return nil, err
		}
		list = append(list, contract.Member{Account: id, Weight: weight})
	}
	return list, nil
}

// memberRow is a member of a group for people and machines.
type memberRow struct {
	Name    string     `json:"name"`
	Account canon.Hash `json:"account"`
	Weight  uint64     `json:"weight"`
}

// groupRow is a group for people and machines.
type groupRow struct {
	Name      string      `json:"name"`
	ID        canon.Hash  `json:"id"`
	Threshold uint64      `json:"threshold"`
	Members   []memberRow `json:"members"`
}

func groupRowOf(id canon.Hash, g contract.Group, names client.Names) groupRow {
	r := groupRow{Name: g.Name, ID: id, Threshold: g.Threshold, Members: []memberRow{}}
	for _, m := range g.Members {
		r.Members = append(r.Members, memberRow{names.Of(m.Account), m.Account, m.Weight})
	}
	return r
}

// people names the members, with weights other than 1.
func (r groupRow) people() string {
	list := make([]string, 0, len(r.Members))
	for _, m := range r.Members {
		if m.Weight == 1 {
			list = append(list, m.Name)
		} else {
			list = append(list, fmt.Sprintf("%s=%d", m.Name, m.Weight))
		}
	}
	return strings.Join(list, ",")
}

func (r groupRow) total() (n uint64) {
	for _, m := range r.Members {
		n += m.Weight
	}
	return n
}

func (a *app) groupListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the groups",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				list, err := c.Groups(ctx)
				if err != nil {
					return err
				}
				data, rows := []groupRow{}, [][]string{}
				for _, g := range list {
					r := groupRowOf(g.ID, g.Is, names)
					data = append(data, r)
					rows = append(rows, []string{r.Name, r.ID.Short(), fmt.Sprintf("%d of %d", r.Threshold, r.total()), r.people()})
				}
				return a.table(data, []string{"GROUP", "ID", "DECIDES", "MEMBERS"}, rows)
			})
		},
	}
}

func (a *app) groupShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show a group",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(groupNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				id, err := c.GroupID(ctx, args[0])
				if err != nil {
					return err
				}
				g, epoch, err := c.Group(ctx, id)
				if err != nil {
					return err
				}
				r := groupRowOf(id, g, names)
				if a.format == "json" {
					return a.json(r)
				}
				a.fields([][2]string{
					{"group", r.Name}, {"id", id.String()}, {"decides", fmt.Sprintf("%d of %d", r.Threshold, r.total())},
					{"members", r.people()}, {"founder", names.Of(g.Founder)}, {"epoch", fmt.Sprint(epoch)},
				})
				return nil
			})
		},
	}
}
