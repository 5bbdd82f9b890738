package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/gateway/domain"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

func (a *app) gatewayCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "What is published: where, with which certificate, and how its backends do",
		Long: `What a deployment publishes stands in its contract. How it does is asked of the
gateways' nodes over the sealed bus, which answer members of the contract's group
only.`,
	}
	cmd.AddCommand(a.gatewayListCommand(), a.gatewayShowCommand(), a.gatewayCheckCommand())
	return cmd
}

func (a *app) gatewayListCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List what your groups' deployments publish, and how it does",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				list, err := c.AllPublished(ctx)
				if err != nil {
					return err
				}
				c.AskGateways(ctx, list, a.as)
				if !all {
					list = slices.DeleteFunc(list, func(p client.Published) bool { return problem.Code(p.Err) == "not-permitted" })
				}
				return a.showGateways(gatewayRows(list, names))
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also those of groups that no key here is a member of; their nodes are not asked")
	return cmd
}

func (a *app) gatewayShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show DEPLOYMENT[/GATEWAY]",
		Short:             "Show all about what a deployment publishes: counters, certificates, backends",
		Example:           "  zos gateway show demo/shop\n  zos gateway show shop/www -o json",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(publishedNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				all, err := c.AllPublished(ctx)
				if err != nil {
					return err
				}
				list, err := client.FindPublished(all, args[0], names)
				if err != nil {
					return err
				}
				c.AskGateways(ctx, list, a.as)
				return a.showPublished(list, names)
			})
		},
	}
}

func (a *app) gatewayCheckCommand() *cobra.Command {
	var resolver, connect string
	cmd := &cobra.Command{
		Use:   "check HOST|DEPLOYMENT",
		Short: "Explain why the world does not reach what is published",
		Long: `Check what is published, as the public sees it and as its nodes say: the host's
records against the gateways' addresses, the gateways, the backends, and the
certificate with which port 443 answers.

It ends with an error if something does not hold.`,
		Example:           "  zos gateway check www.shop.example\n  zos gateway check demo/shop",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(checkNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask, err := domain.System()
			if resolver != "" {
				if _, err := netip.ParseAddrPort(resolver); err != nil {
					return usageError{fmt.Errorf("--resolver %s: want an address and a port, like 192.0.2.1:53", resolver)}
				}
				ask = domain.NewClient(resolver)
			} else if err != nil {
				return fmt.Errorf("find this machine's resolver: %w", err)
			}
			var at []netip.AddrPort
			if connect != "" {
				p, err := netip.ParseAddrPort(connect)
				if err != nil {
					return usageError{fmt.Errorf("--connect %s: want an address and a port, like 127.0.0.1:40443", connect)}
				}
				at = append(at, p)
			}
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				all, err := c.AllPublished(ctx)
				if err != nil {
					return err
				}
				list := client.FindHost(all, args[0])
				if len(list) == 0 {
					if list, err = client.FindPublished(all, args[0], names); err != nil {
						return err
					}
				}
				c.AskGateways(ctx, list, a.as)
				checks, err := a.checkPublished(ctx, c, list, names, ask, at)
				if err != nil {
					return err
				}
				return a.showChecks(checks)
			})
		},
	}
	cmd.Flags().StringVar(&resolver, "resolver", "", "ADDRESS:PORT of the resolver to ask (default: this machine's)")
	cmd.Flags().StringVar(&connect, "connect", "", "ADDRESS:PORT that leads to port 443 of the gateway, as on a grid of zos up")
	return cmd
}

// checkTime is what looking at one host may take.
const checkTime = 15 * time.Second

// checkPublished checks every route of gateways; those that several gateways share
// are checked once. at is where port 443 is reached; nil: at their addresses.
func (a *app) checkPublished(ctx context.Context, c *client.Client, list []client.Published, names client.Names, ask domain.Resolver, at []netip.AddrPort) ([]client.HostCheck, error) {
	zone, err := c.Zone(ctx)
	if err != nil {
		return nil, err
	}
	var order []string
	routes, by := map[string]plan.Route{}, map[string][]client.Published{}
	for _, p := range list {
		for _, r := range p.Gateway.Routes {
			name := r.String()
			if r.Host == "" { // a port is an address's
				name = strings.Join(p.Gateway.Addresses, ",") + " " + name
			}
			if _, seen := routes[name]; !seen {
				order = append(order, name)
			}
			routes[name], by[name] = r, append(by[name], p)
		}
	}
	out := make([]client.HostCheck, 0, len(order))
	for _, name := range order {
		check, err := checkRoute(ctx, c, name, routes[name], by[name], names, zone.Domain, ask, at)
		if err != nil {
			return nil, err
		}
		out = append(out, check)
	}
	return out, nil
}

func checkRoute(ctx context.Context, c *client.Client, name string, r plan.Route, gateways []client.Published, names client.Names, zone string, ask domain.Resolver, at []netip.AddrPort) (client.HostCheck, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	check := client.HostCheck{Name: name, OK: true}
	var want []netip.Addr
	for _, p := range gateways {
		for _, text := range p.Gateway.Addresses {
			if addr, err := netip.ParseAddr(text); err == nil && !slices.Contains(want, addr) {
				want = append(want, addr)
			}
		}
	}
	if r.Host != "" {
		report, err := domain.Check(ctx, ask, r.Host, want)
		if err != nil {
			return check, err
		}
		records := client.CheckRecords(report)
		check.Steps = append(check.Steps, records)
		if zone != "" && domain.Covers(zone, r.Host) {
			if !records.OK && len(want) > 0 {
				check.Steps[0].Fix = fmt.Sprintf("the gateways answer for %s themselves: have it delegated to them, and ask one with --resolver %s", zone, netip.AddrPortFrom(want[0], 53))
			}
		} else {
			group := gateways[0].Contract.Group
			g, _, err := c.Group(ctx, group)
			if err != nil {
				return check, err
			}
			keys, err := c.KeysOf(ctx, g)
			if err != nil {
				return check, err
			}
			check.Steps = append(check.Steps, client.CheckProof(report, domain.Statement{Grid: c.Grid(), Group: group}, g, keys))
		}
	}
	check.Steps = append(check.Steps, client.CheckServing(r, gateways, names)...)
	if r.Host != "" {
		if at == nil {
			for _, addr := range want {
				at = append(at, netip.AddrPortFrom(addr, 443))
			}
		}
		check.Steps = append(check.Steps, client.CheckTLS(ctx, r.Host, at, nil, time.Now()))
	}
	for _, s := range check.Steps {
		check.OK = check.OK && s.OK
	}
	return check, nil
}

// showChecks prints what was found; what does not hold is the verb's error.
func (a *app) showChecks(list []client.HostCheck) error {
	if a.format == "json" {
		if err := a.json(list); err != nil {
			return err
		}
	}
	var bads []string
	fix := ""
	for i, c := range list {
		if a.format != "json" {
			if i > 0 {
				fmt.Fprintln(a.out)
			}
			fmt.Fprintln(a.out, a.paint(a.out, loud, printable(c.Name)))
		}
		for _, s := range c.Steps {
			if a.format != "json" {
				mark := a.paint(a.out, good, "ok")
				if !s.OK {
					mark = a.paint(a.out, bad, "✗ ")
				}
				const indent = 14
				fmt.Fprintf(a.out, "%s  %-9s %s\n", mark, s.Name, wrapped(printable(s.Detail), 100-indent, strings.Repeat(" ", indent)))
				if !s.OK {
					fmt.Fprintf(a.out, "%s%s\n", strings.Repeat(" ", indent), wrapped(printable("fix: "+s.Fix), 100-indent, strings.Repeat(" ", indent)))
				}
			}
			if !s.OK && fix == "" {
				fix = s.Fix
			}
		}
		if !c.OK {
			bads = append(bads, c.Name)
		}
	}
	if len(bads) == 0 {
		return nil
	}
	return problem.New("publication-broken", "%s: not as it should be", strings.Join(bads, ", ")).WithFix("%s", fix)
}

// publishedNames completes deployments that publish something.
func publishedNames(ctx context.Context, c *client.Client) ([]string, error) {
	names, err := c.Names(ctx)
	if err != nil {
		return nil, err
	}
	all, err := c.AllPublished(ctx)
	var out []string
	for _, p := range all {
		full := names.Of(p.Contract.Group) + "/" + p.Contract.Name
		if !slices.Contains(out, full) {
			out = append(out, full)
		}
		out = append(out, full+"/"+p.Workload.Name)
	}
	return out, err
}

// checkNames completes hosts, and deployments that publish something.
func checkNames(ctx context.Context, c *client.Client) ([]string, error) {
	out, err := publishedNames(ctx, c)
	if err != nil {
		return nil, err
	}
	all, err := c.AllPublished(ctx)
	for _, p := range all {
		for _, r := range p.Gateway.Routes {
			if r.Host != "" && !slices.Contains(out, r.Host) {
				out = append(out, r.Host)
			}
		}
	}
	return out, err
}
