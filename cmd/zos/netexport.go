package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/device"
	"github.com/zero-os/zos/spec/plan"
)

func (a *app) netExportCommand() *cobra.Command {
	var f memberFlags
	var out string
	var dns, keyFile bool
	cmd := &cobra.Command{
		Use:   "export [DEPLOYMENT/]NETWORK",
		Short: "Write a WireGuard file for a network, for stock WireGuard programs",
		Long: `Make a machine a member of a network, as zos net join does, and write the plain
wg-quick file that brings it there: with wg-quick, or with the WireGuard programs
of telephones and other systems. The file holds the private key. It stays good
until the device is revoked; if its gateways or its entry change, export it again.`,
		Example:           "  zos net export front --name red-phone --out zos-front.conf\n  sudo wg-quick up ./zos-front.conf",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(networkNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				m, err := a.member(ctx, c, args[0], f)
				if err != nil || m == nil {
					return err
				}
				config, err := a.deviceConfig(ctx, c, m)
				if err != nil {
					return err
				}
				o := device.QuickOptions{DNS: dns}
				if keyFile {
					if o.KeyFile, err = filepath.Abs(c.DeviceKeyPath(m.k.ID, m.n.Name, m.name)); err != nil {
						return err
					}
				}
				text, err := config.Quick(o)
				if err != nil {
					return err
				}
				return a.writeQuick(out, text)
			})
		},
	}
	f.define(cmd)
	cmd.Flags().StringVar(&out, "out", "", "file to write, for its owner alone (default: standard output)")
	cmd.Flags().BoolVar(&dns, "dns", false, "ask the network's resolver for all names while it is up; it knows the network's only")
	cmd.Flags().BoolVar(&keyFile, "key-file", false, "leave the private key in its own file, from which wg-quick reads it")
	return cmd
}

// quickName is what wg-quick takes as a file's name, and the interface's.
var quickName = regexp.MustCompile(`^[a-zA-Z0-9_=+.-]{1,15}\.conf$`)

// writeQuick writes the file, so that at no moment others can read it.
func (a *app) writeQuick(path string, text []byte) error {
	if path == "" {
		_, err := a.out.Write(text)
		return err
	}
	if !quickName.MatchString(filepath.Base(path)) {
		a.progress("wg-quick takes files named INTERFACE.conf, with 15 characters at most before the dot; %s is not", filepath.Base(path))
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".zos-*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	a.progress("wrote %s; bring it up with: sudo wg-quick up %s", path, quoted(dotted(path)))
	return nil
}

// dotted is a path that wg-quick does not take for an interface's name.
func dotted(path string) string {
	if filepath.Base(path) == path {
		return "./" + path
	}
	return path
}

func (a *app) netRevokeCommand() *cobra.Command {
	var f memberFlags
	cmd := &cobra.Command{
		Use:   "revoke [DEPLOYMENT/]NETWORK DEVICE",
		Short: "Propose that a device is no member of a network any more",
		Long: `Propose the deployment without a device, with your own approval. Once enough
members have approved it, its node cuts the device off within a second.`,
		Example: "  zos net revoke front red-laptop",
		Args:    cobra.ExactArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completeFirst(networkNames)(cmd, args, toComplete)
			}
			return a.completeDevices(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				return a.revoke(ctx, c, args[0], args[1], f)
			})
		},
	}
	f.defineAsking(cmd)
	return cmd
}

func (a *app) revoke(ctx context.Context, c *client.Client, ref, name string, f memberFlags) error {
	k, n, err := c.NetworkOfMine(ctx, ref)
	if err != nil {
		return err
	}
	by, _, err := a.memberSigner(ctx, c, k)
	if err != nil {
		return err
	}
	names, err := c.Names(ctx)
	if err != nil {
		return err
	}
	p, err := c.PlanChange(ctx, k, func(p plan.Plan) (plan.Plan, error) { return client.WithoutDevice(p, n.Name, name) })
	if err != nil {
		return err
	}
	// The same change gives the same bytes, so who comes second approves the first
	// one's proposal.
	open, found, err := c.OpenProposal(ctx, k, func(o plan.Plan) bool {
		b, err := plan.Encode(o)
		return err == nil && canon.Sum(b) == p.Hash
	})
	if err != nil {
		return err
	}
	if found {
		return a.approve(ctx, c, open.ID.String(), p.Hash.String(), f.yes)
	}
	id, err := a.proposeChange(ctx, c, p, by, names, f.yes)
	if err != nil {
		return err
	}
	return a.showProposal(ctx, c, id, p.Hash)
}

// completeDevices completes the devices of the network that the first argument
// names.
func (a *app) completeDevices(cmd *cobra.Command, args []string) ([]string, cobra.ShellCompDirective) {
	var out []string
	if len(args) == 1 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctxOf(cmd)), completeFor)
		defer cancel()
		_ = a.withClient(ctx, func(ctx context.Context, c *client.Client) error {
			k, n, err := c.NetworkOfMine(ctx, args[0])
			if err != nil {
				return err
			}
			for _, w := range k.Plan.Workloads { // in their order
				if d, ok := client.Devices(&k.Plan)[w.Name]; ok && d.Network.Network == n.Name {
					out = append(out, w.Name+"\t"+d.Network.IPv4)
				}
			}
			return nil
		})
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
