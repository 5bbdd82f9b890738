package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

func (a *app) netCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "net",
		Short: "Private networks: who is in them, how their nodes reach each other, and the way in",
		Long: `A deployment's networks stand in its contract. How they do is asked of their
nodes over the sealed bus, which answer members of the contract's group only.`,
	}
	cmd.AddCommand(a.netListCommand(), a.netShowCommand(), a.netJoinCommand(), a.netExportCommand(), a.netRevokeCommand())
	return cmd
}

// netRow is one network for machines.
type netRow struct {
	Contract   string     `json:"contract"` // group/deployment
	ContractID canon.Hash `json:"contract_id"`
	Network    string     `json:"network"`
	IPv4       string     `json:"ipv4"`
	IPv6       string     `json:"ipv6"`
	Nodes      int        `json:"nodes"`
	Workloads  int        `json:"workloads"`
	State      string     `json:"state"` // a client.Network… constant
	Problems   []string   `json:"problems"`
}

func (a *app) netListCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the networks of your groups' deployments, and how they do",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				contracts, err := c.Networked(ctx)
				if err != nil {
					return err
				}
				rows, err := a.netRows(ctx, c, contracts, names, all)
				if err != nil {
					return err
				}
				return a.showNetworks(rows)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also those of groups that no key here is a member of; their nodes are not asked")
	return cmd
}

// netRows asks the nodes of all contracts at once.
func (a *app) netRows(ctx context.Context, c *client.Client, contracts []client.Contract, names client.Names, everyone bool) ([]netRow, error) {
	found, errs := make([][]netRow, len(contracts)), make([]error, len(contracts))
	const askAtOnce = 8
	places := make(chan struct{}, askAtOnce)
	var all sync.WaitGroup
	for i, k := range contracts {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			views, err := a.views(ctx, c, k)
			switch {
			case problem.Code(err) == "not-permitted" && !everyone:
				return
			case problem.Code(err) != "not-permitted" && err != nil:
				errs[i] = err
				return
			}
			for _, n := range k.Plan.Networks {
				r := netRow{Contract: names.Of(k.Group) + "/" + k.Name, ContractID: k.ID, Network: n.Name, IPv4: n.IPv4, IPv6: n.IPv6,
					Nodes: len(n.Nodes), Workloads: len(client.AttachedTo(&k.Plan, n.Name))}
				r.State, r.Problems = client.NetworkState(&k.Plan, n, views, names)
				found[i] = append(found[i], r)
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return slices.Concat(found...), nil
}

// views asks all nodes of a contract's networks, with a key that may.
func (a *app) views(ctx context.Context, c *client.Client, k client.Contract) (map[canon.Hash]client.View, error) {
	by, err := c.MemberSigner(ctx, k, a.as)
	if err != nil {
		return nil, err
	}
	slots := map[canon.Hash]bool{}
	for _, n := range k.Plan.Networks {
		for _, s := range client.Slots(n) {
			slots[s] = true
		}
	}
	return c.Views(ctx, k, slices.Collect(maps.Keys(slots)), by), nil
}

func (a *app) showNetworks(rows []netRow) error {
	if rows == nil {
		rows = []netRow{}
	}
	var lines [][]string
	for _, r := range rows {
		lines = append(lines, []string{r.Contract, r.Network, r.IPv4, fmt.Sprint(r.Nodes), fmt.Sprint(r.Workloads), r.State + more(r.Problems)})
	}
	return a.table(rows, []string{"CONTRACT", "NETWORK", "SUBNET", "NODES", "WORKLOADS", "STATE"}, lines)
}

// more is the first of several problems for one line.
func more(problems []string) string {
	switch len(problems) {
	case 0:
		return ""
	case 1:
		return ": " + problems[0]
	}
	return fmt.Sprintf(": %s, and %d more", problems[0], len(problems)-1)
}

func (a *app) netShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show CONTRACT [NETWORK]",
		Short: "Show a network: nodes, workloads, rules, and the path between each two nodes",
		Long: `Show a network by its contract and by the word of its nodes. Of a deployment with
one network its name may be left out.`,
		Example:           "  zos net show demo/shop\n  zos net show demo/shop front -o json",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeNetwork,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				k, err := c.FindContract(ctx, args[0])
				if err != nil {
					return err
				}
				name := ""
				if len(args) > 1 {
					name = args[1]
				}
				n, err := client.FindNetwork(&k.Plan, name)
				if err != nil {
					return err
				}
				views, why := a.views(ctx, c, k)
				if why != nil && problem.Code(why) != "not-permitted" {
					return why
				}
				return a.showNetwork(netShownOf(k, n, views, names), why)
			})
		},
	}
}

// completeNetwork completes a contract that has networks, and then a network.
func (a *app) completeNetwork(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeContract(cmd, args, func(p *plan.Plan) (out []string) {
		for _, n := range p.Networks {
			out = append(out, n.Name+"\t"+n.IPv4)
		}
		return out
	}, 1)
}

// completeContract completes the first argument with contracts that have networks,
// and some behind it with what is found in its plan.
func (a *app) completeContract(cmd *cobra.Command, args []string, within func(*plan.Plan) []string, behind int) ([]string, cobra.ShellCompDirective) {
	if len(args) > behind {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctxOf(cmd)), completeFor)
	defer cancel()
	var out []string
	_ = a.withClient(ctx, func(ctx context.Context, c *client.Client) error {
		if len(args) > 0 {
			k, err := c.FindContract(ctx, args[0])
			if err == nil {
				out = slices.DeleteFunc(within(&k.Plan), func(s string) bool {
					name, _, _ := strings.Cut(s, "\t")
					return slices.Contains(args[1:], name)
				})
			}
			return err
		}
		names, err := c.Names(ctx)
		if err != nil {
			return err
		}
		contracts, err := c.Networked(ctx)
		for _, k := range contracts {
			out = append(out, names.Of(k.Group)+"/"+k.Name)
		}
		return err
	})
	return out, cobra.ShellCompDirectiveNoFileComp
}
