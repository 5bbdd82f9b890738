package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

func (a *app) releaseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Releases: which OS the grid's nodes boot",
		Long: `A release names an OS flist. It counts once enough of the grid's release keys have
signed it: one signs a new file, others sign the same file, one publishes it.`,
	}
	cmd.AddCommand(a.releaseSignCommand(), a.releaseVerifyCommand(), a.releasePublishCommand())
	return cmd
}

func (a *app) releaseSignCommand() *cobra.Command {
	var o releaseOptions
	cmd := &cobra.Command{
		Use:   "sign FILE [--os DIGEST]",
		Short: "Sign a release: a new one with --os, or one that others have signed",
		Example: `  zos release sign r7.cbor --os 3e1dea3c… --name 2026.11.1 --as release-1
  zos release sign r7.cbor --as release-2
  zos release publish r7.cbor`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				return a.signRelease(ctx, c, args[0], o)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.os, "os", "", "digest of the OS flist: begins a new release")
	f.StringVar(&o.name, "name", "", "name for people (default: the time)")
	f.Uint64Var(&o.sequence, "sequence", 0, "its place in the order of releases (default: after the newest)")
	f.DurationVar(&o.life, "expiry", 30*24*time.Hour, "how long nodes boot it")
	return cmd
}

type releaseOptions struct {
	os, name string
	sequence uint64
	life     time.Duration
}

func (a *app) signRelease(ctx context.Context, c *client.Client, file string, o releaseOptions) error {
	genesis := c.Context().Genesis
	g, err := contract.DecodeGenesis(genesis)
	if err != nil {
		return err
	}
	var s contract.Signed
	if o.os == "" {
		if s, err = readSigned(file); err != nil {
			return err
		}
		if _, _, _, err = contract.Open[contract.Release](s, contract.KindRelease, c.Grid()); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	} else if exists(file) {
		return problem.New("already-exists", "%s is there already", file).WithFix("to add a signature to it leave --os out; or name another file")
	}
	by, err := c.SignerAmong(ctx, a.as, func(key sign.PublicKey) bool { return releaseKey(g, key) && !hasSigned(s, key) })
	if err != nil {
		return fmt.Errorf("sign with a release key of the grid: %w", err)
	}
	if o.os == "" {
		s, err = boot.CosignRelease(ctx, s, by)
	} else {
		s, err = newRelease(ctx, c, o, by)
	}
	if err != nil {
		return err
	}
	b, err := s.Encode()
	if err != nil {
		return err
	}
	if err := boot.WriteFile(file, b, 0o644); err != nil {
		return fmt.Errorf("write the release: %w", err)
	}
	return a.showRelease(s, g, c.Grid())
}

func releaseKey(g contract.Genesis, key sign.PublicKey) bool {
	for _, k := range g.ReleaseKeys {
		if key.Equal(k) {
			return true
		}
	}
	return false
}

func hasSigned(s contract.Signed, key sign.PublicKey) bool {
	for _, g := range s.Signatures {
		if key.Equal(g.Key) {
			return true
		}
	}
	return false
}

// newRelease begins a release with a fresh checkpoint of the ledger.
func newRelease(ctx context.Context, c *client.Client, o releaseOptions, by sign.Signer) (contract.Signed, error) {
	system, err := canon.ParseHash(o.os)
	if err != nil {
		return contract.Signed{}, usageError{fmt.Errorf("--os: %w", err)}
	}
	if o.sequence == 0 {
		last, err := c.NewestRelease(ctx, 0) // an expired one has its sequence too
		if err != nil && problem.Code(err) != "not-found" {
			return contract.Signed{}, fmt.Errorf("find the newest release: %w", err)
		}
		o.sequence = last.Sequence + 1
	}
	if o.name == "" {
		o.name = time.Now().UTC().Format("2006.01.02-150405")
	}
	l, err := c.Ledger(ctx)
	if err != nil {
		return contract.Signed{}, err
	}
	at, err := l.Checkpoint(ctx)
	if err != nil {
		return contract.Signed{}, err
	}
	return boot.SignRelease(ctx, contract.NewRelease(c.Grid(), o.sequence, o.name, system, until(o.life), at), c.Context().Genesis, by)
}

// showRelease prints a release and how far it is signed.
func (a *app) showRelease(s contract.Signed, g contract.Genesis, grid canon.Hash) error {
	r, _, keys, err := contract.Open[contract.Release](s, contract.KindRelease, grid)
	if err != nil {
		return err
	}
	by := make([]string, 0, len(keys))
	for _, k := range keys {
		by = append(by, k.Fingerprint())
	}
	if a.format == "json" {
		return a.json(map[string]any{
			"name": r.Name, "sequence": r.Sequence, "os": r.OS, "expiry": r.Expiry, "checkpoint_height": r.Checkpoint.Height,
			"signatures": len(keys), "threshold": g.ReleaseThreshold, "signers": by,
		})
	}
	a.fields([][2]string{
		{"release", r.Name}, {"sequence", fmt.Sprint(r.Sequence)}, {"os", r.OS.String()}, {"expires", when(r.Expiry)},
		{"checkpoint", fmt.Sprintf("height %d", r.Checkpoint.Height)},
		{"signed", fmt.Sprintf("%d of %d: %s", len(keys), g.ReleaseThreshold, strings.Join(by, " "))},
	})
	return nil
}

// readSigned reads a statement with its signatures from a file.
func readSigned(file string) (contract.Signed, error) {
	b, err := readBounded(file, contract.MaxSigned+1)
	if err != nil {
		return contract.Signed{}, fmt.Errorf("read the release: %w", err)
	}
	s, err := contract.DecodeSigned(b)
	if err != nil {
		return s, fmt.Errorf("read the release %s: %w", file, err)
	}
	return s, nil
}

func (a *app) releaseVerifyCommand() *cobra.Command {
	var genesis string
	var floor uint64
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Judge a release as a node does that boots now",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			founding, err := a.genesisOf(genesis)
			if err != nil {
				return err
			}
			s, err := readSigned(args[0])
			if err != nil {
				return err
			}
			if _, err := boot.VerifyRelease(s, founding, uint64(time.Now().Unix()), floor); err != nil {
				return err
			}
			g, err := contract.DecodeGenesis(founding)
			if err != nil {
				return err
			}
			return a.showRelease(s, g, canon.Sum(founding))
		},
	}
	cmd.Flags().StringVar(&genesis, "genesis", "", "file with the grid's genesis (default: the context's)")
	cmd.Flags().Uint64Var(&floor, "floor", 0, "lowest sequence that counts")
	return cmd
}

func (a *app) releasePublishCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "publish FILE",
		Short: "Put a release that holds into a hub's directory, for nodes to find",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			founding, err := a.genesisOf("")
			if err != nil {
				return err
			}
			to, err := a.hubDir(dir)
			if err != nil {
				return err
			}
			s, err := readSigned(args[0])
			if err != nil {
				return err
			}
			r, err := boot.VerifyRelease(s, founding, uint64(time.Now().Unix()), 0)
			if err != nil {
				return err
			}
			w, err := hub.OpenWriter(to, hub.WriterOptions{})
			if err != nil {
				return err
			}
			if err := errors.Join(w.PublishRelease(cmd.Context(), s), w.Close()); err != nil {
				return fmt.Errorf("publish release %s: %w", r.Name, err)
			}
			a.progress("release %s has sequence %d in %s", r.Name, r.Sequence, to)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "hub", "", "directory of the hub (default: the context's)")
	return cmd
}
