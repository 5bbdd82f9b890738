package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/farm"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run one service of a grid",
		Long: `Run one service of a grid until it is told to end (SIGTERM or Ctrl-C). Each prints
one line on standard output when it is ready; its log goes to standard error.`,
	}
	cmd.AddCommand(a.serveLedgerCommand(), a.serveHubCommand(), a.serveBootCommand(), a.serveRendezvousCommand(), a.serveFarmCommand())
	return cmd
}

// serviceLog writes what a service says to standard error.
func (a *app) serviceLog() *slog.Logger {
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
}

// readyLine says that a service is ready, and where.
func (a *app) readyLine(service string, facts ...[2]string) error {
	if a.format == "json" {
		line := map[string]string{"service": service}
		for _, f := range facts {
			line[f[0]] = f[1]
		}
		return a.jsonLine(line)
	}
	words := []string{service, "is ready"}
	for _, f := range facts {
		words = append(words, f[1])
	}
	_, err := fmt.Fprintln(a.out, strings.Join(words, " "))
	return err
}

func (a *app) serveLedgerCommand() *cobra.Command {
	var cfg ledger.Config
	var genesis, key string
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "Run a node of the ledger: a validator with its key, else a follower",
		Example: `  zos serve ledger --genesis genesis.cbor --dir /var/lib/zos/ledger --validator-key validator.seed \
    --rpc 0.0.0.0:26657 --p2p 0.0.0.0:26656 --peer NODEID@host:26656`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Genesis, err = a.genesisOf(genesis); err != nil {
				return err
			}
			if key != "" {
				if cfg.ValidatorKey, err = readSeed(key); err != nil {
					return err
				}
			}
			cfg.Logger = a.serviceLog()
			return a.serveLedger(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&genesis, "genesis", "", "file with the grid's genesis (default: the context's)")
	f.StringVar(&cfg.Dir, "dir", "", "directory of its data")
	f.StringVar(&key, "validator-key", "", "file with the validator's seed, 32 bytes")
	f.StringVar(&cfg.RPC, "rpc", "127.0.0.1:26657", "address for light clients")
	f.StringVar(&cfg.P2P, "p2p", "127.0.0.1:26656", "address for other ledger nodes")
	f.StringArrayVar(&cfg.PersistentPeers, "peer", nil, "ledger node to keep connected to, NODEID@host:port; repeat it")
	_ = cmd.MarkFlagRequired("dir")
	return cmd
}

func (a *app) serveLedger(ctx context.Context, cfg ledger.Config) error {
	n, err := ledger.Start(ctx, cfg)
	if err != nil {
		return fmt.Errorf("start the ledger: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- n.Wait() }()
	// A follower without peers and a validator without the others wait here for
	// their first block: they serve, and say so once they can prove something.
	if err := n.Ready(ctx); err == nil {
		err = a.readyLine("ledger", [2]string{"url", n.URL()}, [2]string{"p2p", n.P2PAddr()})
		if err != nil {
			return errors.Join(err, n.Stop())
		}
	} else if ctx.Err() == nil {
		return errors.Join(fmt.Errorf("wait for the ledger: %w", err), n.Stop())
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return n.Stop()
	}
}

// readSeed reads a validator's seed.
func readSeed(path string) ([]byte, error) {
	b, err := readBounded(path, 1<<10)
	if err != nil {
		return nil, fmt.Errorf("read the validator's key: %w", err)
	}
	if len(b) != 32 {
		return nil, problem.New("key-invalid", "the validator's key %s has %d bytes, want 32", path, len(b)).WithFix("make one with: zos genesis create")
	}
	return b, nil
}

// serveHTTP runs an HTTP service on an address until ctx ends.
func (a *app) serveHTTP(ctx context.Context, service, listen string, serve func(context.Context, net.Listener) error) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return problem.New("address-unavailable", "listen on %s: %w", listen, err).WithFix("choose another address with --listen")
	}
	if err := a.readyLine(service, [2]string{"url", "http://" + l.Addr().String()}); err != nil {
		return errors.Join(err, l.Close())
	}
	if err := serve(ctx, l); err != nil && !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
		return fmt.Errorf("serve the %s: %w", service, err)
	}
	return nil
}

func (a *app) serveHubCommand() *cobra.Command {
	var dir, listen string
	cmd := &cobra.Command{
		Use:   "hub",
		Short: "Serve a hub's directory: flists, objects, tags and releases",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("make the hub's directory: %w", err)
			}
			return a.serveHTTP(cmd.Context(), "hub", listen, func(ctx context.Context, l net.Listener) error {
				return hub.Serve(ctx, l, dir, a.serviceLog())
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the hub's directory")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address to listen on")
	_ = cmd.MarkFlagRequired("dir")
	return cmd
}

func (a *app) serveBootCommand() *cobra.Command {
	var dir, listen string
	cmd := &cobra.Command{
		Use:   "boot",
		Short: "Serve the boot files: kernel, first stage, grid archive and iPXE script",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{boot.KernelFile, boot.InitrdFile} {
				if !exists(dir + "/" + name) {
					return problem.New("image-missing", "%s holds no %s", dir, name).WithFix("build it: zos boot image --out %s", dir)
				}
			}
			return a.serveHTTP(cmd.Context(), "boot source", listen, func(ctx context.Context, l net.Listener) error {
				return boot.Serve(ctx, l, dir, a.serviceLog())
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "directory with the boot files")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8081", "address to listen on")
	_ = cmd.MarkFlagRequired("dir")
	return cmd
}

func (a *app) serveFarmCommand() *cobra.Command {
	var name string
	var rekey bool
	cmd := &cobra.Command{
		Use:   "farm",
		Short: "Run a farm's agent: it admits booting nodes into the farm's slots",
		Long: `Run a farm's agent: it admits booting nodes into the farm's slots, under the
farm's delegation. It signs with the agent's key (--as), not with the farm's.`,
		Example: "  zos farm delegate agent.pub\n  zos serve farm --farm home --as agent",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				return a.serveFarm(ctx, c, name, rekey)
			})
		},
	}
	cmd.Flags().StringVar(&name, "farm", "", "name of the farm")
	cmd.Flags().BoolVar(&rekey, "allow-rekey", false, "give new keys also to slots that keep theirs on a disk or in a TPM")
	_ = cmd.MarkFlagRequired("farm")
	_ = cmd.RegisterFlagCompletionFunc("farm", a.completeFirst(farmNames))
	return cmd
}

func (a *app) serveFarm(ctx context.Context, c *client.Client, name string, rekey bool) error {
	id, err := c.FarmID(ctx, name)
	if err != nil {
		return err
	}
	cfg := farm.AgentConfig{Grid: c.Grid(), Ledger: client.FarmLedger{Client: c}, AllowRekey: rekey, Logger: a.serviceLog()}
	if err := agentStatements(ctx, c, id, a.as, &cfg); err != nil {
		return fmt.Errorf("prepare the agent of farm %s: %w", name, err)
	}
	if cfg.Conn, err = bus.Connect(bus.ConnConfig{URLs: c.Context().Rendezvous, Role: bus.AsAgent(id), Logger: cfg.Logger}); err != nil {
		return fmt.Errorf("connect to the bus: %w", err)
	}
	defer cfg.Conn.Close()
	agent, err := farm.NewAgent(cfg)
	if err != nil {
		return err
	}
	if err := cfg.Conn.Ready(ctx); err != nil {
		return err
	}
	if err := a.readyLine("farm agent", [2]string{"farm", name}); err != nil {
		return err
	}
	if err := agent.Run(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// agentStatements reads what an agent acts under from the ledger.
func agentStatements(ctx context.Context, c *client.Client, id canon.Hash, as string, cfg *farm.AgentConfig) error {
	delegations, err := c.Delegations(ctx, id)
	if err != nil {
		return err
	}
	if cfg.Signer, err = c.SignerAmong(ctx, as, func(key sign.PublicKey) bool {
		for _, d := range delegations {
			if key.Equal(d.Key) {
				return true
			}
		}
		return false
	}); err != nil {
		return fmt.Errorf("find a key that the farm delegated to: %w", err)
	}
	rec, _, err := client.Get[contract.AgentRecord](ctx, c, contract.KeyAgent(id, cfg.Signer.Public()))
	if err != nil {
		return err
	}
	d, _, err := client.Get[contract.DelegationRecord](ctx, c, contract.KeyDelegation(rec.Delegation))
	if err != nil {
		return err
	}
	f, _, err := client.Get[contract.FarmRecord](ctx, c, contract.KeyFarm(id))
	if err != nil {
		return err
	}
	cfg.Farm, cfg.Delegation = f.Signed, d.Signed
	slots, err := client.List[contract.SlotRecord](ctx, c, "slot/")
	if err != nil {
		return err
	}
	for _, s := range slots {
		slot, _, _, err := contract.Open[contract.Slot](s.Value.Signed, contract.KindSlot, c.Grid())
		if err != nil {
			return err
		}
		if slot.Farm == id {
			cfg.Slots = append(cfg.Slots, s.Value.Signed)
		}
	}
	return nil
}
