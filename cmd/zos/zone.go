package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

func (a *app) zoneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "zone",
		Short: "The domain under which groups reserve names",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				z, err := c.Zone(ctx)
				if err != nil {
					return err
				}
				if a.format == "json" {
					return a.json(map[string]any{"domain": z.Domain, "sequence": z.Sequence})
				}
				if z.Domain == "" {
					return problem.New("not-found", "this grid has no domain").WithFix("its release keys set one: zos zone set DOMAIN")
				}
				fmt.Fprintln(a.out, z.Domain)
				return nil
			})
		},
	}
	cmd.AddCommand(a.zoneSetCommand(), a.zoneSignCommand())
	return cmd
}

func (a *app) zoneSetCommand() *cobra.Command {
	var file string
	var farms []string
	cmd := &cobra.Command{
		Use:   "set DOMAIN",
		Short: "Set the grid's domain, with the grid's release keys",
		Long: `Set the grid's domain, with all release keys that are at hand. If they are too few, the
statement goes to a file, to which others add their signatures. Names stay reserved:
they are under the new domain then. Gateways of the farms answer for it; the servers of
the domain above have to delegate it to them.`,
		Example: "  zos zone set grid.example --farm home\n  zos zone set grid.example --farm home --file zone.cbor --as release-1\n  zos zone sign zone.cbor --as release-2",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if file != "" && exists(file) {
					return problem.New("already-exists", "%s is there already", file).WithFix("to add a signature to it: zos zone sign %s", file)
				}
				ids := []canon.Hash{}
				for _, ref := range farms {
					id, err := c.FarmID(ctx, ref)
					if err != nil {
						return err
					}
					ids = append(ids, id)
				}
				if len(ids) == 0 {
					a.progress("no farm is named: nobody will answer for %s", args[0])
				}
				s, err := c.NewZone(ctx, args[0], ids)
				if err != nil {
					return err
				}
				return a.signZone(ctx, c, s, file)
			})
		},
	}
	cmd.Flags().StringArrayVar(&farms, "farm", nil, "farm whose gateways are the domain's name servers; may be given again")
	cmd.Flags().StringVar(&file, "file", "", "where it goes if others have to sign it too")
	return cmd
}

func (a *app) zoneSignCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "sign FILE",
		Short: "Add signatures to a domain that others have begun to set",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				s, err := readSigned(args[0])
				if err != nil {
					return err
				}
				return a.signZone(ctx, c, s, args[0])
			})
		},
	}
}

// signZone signs with the release keys at hand, and sends the statement if they
// are enough, or writes it for others. What is signed is shown from its bytes.
func (a *app) signZone(ctx context.Context, c *client.Client, s contract.Signed, file string) error {
	g, err := contract.DecodeGenesis(c.Context().Genesis)
	if err != nil {
		return err
	}
	z, _, _, err := contract.Open[contract.Zone](s, contract.KindZone, c.Grid())
	if err != nil {
		return err
	}
	lines, err := contract.Describe(s.Statement)
	if err != nil {
		return err
	}
	for _, l := range lines {
		a.progress("  %s", printable(l))
	}
	signed := 0
	for uint64(len(s.Signatures)) < g.ReleaseThreshold {
		by, err := c.SignerAmong(ctx, a.as, func(key sign.PublicKey) bool { return releaseKey(g, key) && !hasSigned(s, key) })
		if problem.Code(err) == "not-permitted" && signed > 0 {
			break
		}
		if err != nil {
			return fmt.Errorf("sign with a release key of the grid: %w", err)
		}
		if s, err = contract.Countersign(ctx, s, contract.KindZone, by); err != nil {
			return err
		}
		signed++
	}
	if uint64(len(s.Signatures)) < g.ReleaseThreshold {
		if file == "" {
			return problem.New("approvals-insufficient", "%d of the %d needed release keys are at hand", len(s.Signatures), g.ReleaseThreshold).
				WithFix("write it for others to sign with --file FILE")
		}
		b, err := s.Encode()
		if err != nil {
			return err
		}
		if err := boot.WriteFile(file, b, 0o644); err != nil {
			return fmt.Errorf("write the domain's statement: %w", err)
		}
		a.progress("signed by %d of %d; the next one signs with: zos zone sign %s", len(s.Signatures), g.ReleaseThreshold, file)
		return nil
	}
	if err := c.Submit(ctx, s); err != nil {
		return fmt.Errorf("set the grid's domain: %w", err)
	}
	return a.created("zone", strings.ToLower(z.Domain), s.ID())
}
