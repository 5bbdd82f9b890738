package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
)

func (a *app) farmPoolCommand(farm *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pool",
		Short: "Public addresses of the farm's nodes",
		Long: `A node with public addresses can run gateways. They live on a network card of their own,
of which the node itself takes no part. Some are shared by all groups, by host name and
by port; the others are leased whole by contracts.`,
	}
	cmd.AddCommand(a.poolSetCommand(farm), a.poolClearCommand(farm), a.poolListCommand())
	return cmd
}

func (a *app) poolSetCommand(farm *string) *cobra.Command {
	p := contract.Pool{}
	var ranges []string
	var ports, root string
	cmd := &cobra.Command{
		Use:   "set SLOT",
		Short: "Give a slot public addresses, in place of those that it has",
		Long: `Give a slot public addresses, in place of those that it has. A range is written
PREFIX,ROUTER,FIRST[-LAST]. What contracts hold of addresses that are not in it any more is
not served any more, and stays theirs until they are updated or removed.`,
		Example: `  zos farm pool set node-3 --mac 52:54:00:12:34:56 \
    --range 198.51.100.0/24,198.51.100.1,198.51.100.10-198.51.100.19 \
    --shared 198.51.100.10 --ports 20000-29999`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := readPool(&p, ranges, ports, root); err != nil {
				return err
			}
			return a.setPool(cmd.Context(), *farm, args[0], p)
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.MAC, "mac", "", "the public network card, aa:bb:cc:dd:ee:ff")
	f.StringArrayVar(&ranges, "range", nil, "addresses: PREFIX,ROUTER,FIRST[-LAST]; repeat it")
	f.StringSliceVar(&p.Shared, "shared", nil, "address that all share; repeat it (default: the first of each range)")
	f.StringVar(&ports, "ports", "", "ports of shared addresses that contracts lease: FIRST-LAST, from 1024")
	f.StringVar(&p.ACME, "acme", "", "directory of the authority that certifies hosts whose TLS ends at the gateway")
	f.StringVar(&root, "acme-root", "", "file of PEM certificates by which the authority itself is checked (default: the public ones)")
	_ = cmd.MarkFlagRequired("mac")
	_ = cmd.MarkFlagRequired("range")
	return cmd
}

// readPool fills p with what the command line says of addresses.
func readPool(p *contract.Pool, ranges []string, ports, root string) error {
	first := len(p.Shared) == 0
	for _, text := range ranges {
		parts := strings.Split(text, ",")
		if len(parts) != 3 {
			return usageError{fmt.Errorf("--range %q: want PREFIX,ROUTER,FIRST[-LAST]", text)}
		}
		from, to, several := strings.Cut(parts[2], "-")
		if !several {
			to = from
		}
		prefix, err := netip.ParsePrefix(parts[0])
		if err != nil {
			return usageError{fmt.Errorf("--range %q: %w", text, err)}
		}
		r := contract.Range{Prefix: prefix.Masked().String()}
		for _, one := range []struct {
			text string
			to   *string
		}{{parts[1], &r.Router}, {from, &r.First}, {to, &r.Last}} {
			addr, err := netip.ParseAddr(one.text)
			if err != nil {
				return usageError{fmt.Errorf("--range %q: %w", text, err)}
			}
			*one.to = addr.String()
		}
		p.Ranges = append(p.Ranges, r)
		if first {
			p.Shared = append(p.Shared, r.First)
		}
	}
	if ports != "" {
		from, to, _ := strings.Cut(ports, "-")
		lo, err1 := strconv.ParseUint(from, 10, 16)
		hi, err2 := strconv.ParseUint(to, 10, 16)
		if err := errors.Join(err1, err2); err != nil {
			return usageError{fmt.Errorf("--ports %q: want FIRST-LAST", ports)}
		}
		p.First, p.Last = uint16(lo), uint16(hi)
	}
	if root != "" {
		b, err := readBounded(root, 64<<10)
		if err != nil {
			return fmt.Errorf("read the authority's certificates: %w", err)
		}
		for {
			block, rest := pem.Decode(b)
			if block == nil {
				break
			}
			p.Roots, b = append(p.Roots, block.Bytes), rest
		}
		if len(p.Roots) == 0 {
			return usageError{fmt.Errorf("--acme-root %s: it has no PEM certificate", root)}
		}
	}
	return nil
}

func (a *app) poolClearCommand(farm *string) *cobra.Command {
	return &cobra.Command{
		Use:               "clear SLOT",
		Short:             "Take a slot's public addresses back; its gateways end",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.setPool(cmd.Context(), *farm, args[0], contract.Pool{})
		},
	}
}

// setPool signs a slot's pool with the farm's key.
func (a *app) setPool(ctx context.Context, farm, slot string, p contract.Pool) error {
	return a.withClient(ctx, func(ctx context.Context, c *client.Client) error {
		f, by, err := c.OwnFarm(ctx, farm, a.as)
		if err != nil {
			return err
		}
		n, err := c.FindNode(ctx, slot)
		if err != nil {
			return err
		}
		p.Farm, p.Slot = f.ID, n.Slot
		id, err := c.SetPool(ctx, p, by)
		if err != nil {
			return fmt.Errorf("farm %s: public addresses of %s: %w", f.Is.Name, slot, err)
		}
		return a.created("pool", n.Name, id)
	})
}

// poolRow is a slot's public addresses for people and machines.
type poolRow struct {
	Slot    string      `json:"slot"`
	MAC     string      `json:"mac"`
	Ranges  []poolRange `json:"ranges"`
	Shared  []string    `json:"shared"`
	First   uint16      `json:"first_port"`
	Last    uint16      `json:"last_port"`
	ACME    string      `json:"acme"`
	Leased  []poolLease `json:"leased"`
	Version uint64      `json:"sequence"`
}

type poolRange struct {
	Prefix string `json:"prefix"`
	Router string `json:"router"`
	First  string `json:"first"`
	Last   string `json:"last"`
}

// poolLease is an address that contracts use.
type poolLease struct {
	Address  string `json:"address"`
	Contract string `json:"contract"` // that has it alone; empty if it is shared
	Sharers  uint64 `json:"sharers"`  // contracts that share it
}

func (a *app) poolListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the grid's public addresses, and who has leased which",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				pools, err := c.Pools(ctx)
				if err != nil {
					return err
				}
				data, rows := []poolRow{}, [][]string{}
				for _, p := range pools {
					r, err := poolRowOf(ctx, c, p, names)
					if err != nil {
						return err
					}
					data = append(data, r)
					rows = append(rows, r.cells())
				}
				return a.table(data, []string{"SLOT", "CARD", "ADDRESSES", "SHARED", "PORTS", "LEASED"}, rows)
			})
		},
	}
}

func poolRowOf(ctx context.Context, c *client.Client, p client.SlotPool, names client.Names) (poolRow, error) {
	r := poolRow{Slot: p.Node.Name, MAC: p.Pool.MAC, Ranges: []poolRange{}, Shared: p.Pool.Shared, First: p.Pool.First, Last: p.Pool.Last,
		ACME: p.Pool.ACME, Leased: []poolLease{}, Version: p.Pool.Sequence}
	for _, one := range p.Pool.Ranges {
		r.Ranges = append(r.Ranges, poolRange(one))
	}
	for address, l := range p.Leases {
		one := poolLease{Address: address, Sharers: l.Sharers}
		if !l.Contract.IsZero() {
			k, err := c.Contract(ctx, l.Contract)
			if err != nil {
				return r, err
			}
			one.Contract = names.Of(k.Group) + "/" + k.Name
		}
		r.Leased = append(r.Leased, one)
	}
	slices.SortFunc(r.Leased, func(a, b poolLease) int { return strings.Compare(a.Address, b.Address) })
	return r, nil
}

// cells are the row's columns for people.
func (r poolRow) cells() []string {
	var ranges, leased []string
	for _, one := range r.Ranges {
		text := one.First
		if one.Last != one.First {
			text += "-" + one.Last
		}
		ranges = append(ranges, text)
	}
	for _, l := range r.Leased {
		if l.Contract != "" {
			leased = append(leased, l.Address+"="+l.Contract)
		} else {
			leased = append(leased, fmt.Sprintf("%s shared by %d", l.Address, l.Sharers))
		}
	}
	ports := "none"
	if r.First != 0 {
		ports = fmt.Sprintf("%d-%d", r.First, r.Last)
	}
	return []string{r.Slot, r.MAC, strings.Join(ranges, " "), strings.Join(r.Shared, " "), ports, strings.Join(leased, ", ")}
}
