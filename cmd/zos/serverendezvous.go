package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous/server"
)

func (a *app) serveRendezvousCommand() *cobra.Command {
	var cfg server.Config
	var genesis string
	var ledgers []string
	cmd := &cobra.Command{
		Use:   "rendezvous",
		Short: "Run a rendezvous: nodes and people dial it to reach each other",
		Long: `Run a rendezvous: the one service that nodes dial out to. It carries sealed messages
between people and nodes, and passes encrypted packets between nodes. It reads
neither, but sees who is connected and who sends to whom: a grid should have two or
more, run by different people.

One port is used, on TCP for TLS and on UDP where that passes. The URL that the
ready line shows carries the pin of the server's key, which is made in --dir at the
first start. Servers that name each other's URLs with --peer pass on what is meant
for the other's clients; start each of them once to learn its URL.

Keys of nodes are read from the ledger of the context, or of --genesis and --ledger.`,
		Example: `  zos serve rendezvous --dir /var/lib/zos/rendezvous --listen 0.0.0.0:443 \
    --advertise r1.example.org:443 --peer tls://r2.example.net:443#PIN`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Logger = a.serviceLog()
			c, err := a.ledgerClient(cmd.Context(), genesis, ledgers)
			if err != nil {
				return err
			}
			return errors.Join(a.serveRendezvous(cmd.Context(), c, cfg), c.Close())
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:8443", "address to listen on, TCP and UDP")
	f.StringVar(&cfg.Advertise, "advertise", "", "host:port by which others reach it (default: the address that it listens on)")
	f.StringVar(&cfg.CertDir, "dir", "", "directory of its key and certificate")
	f.StringVar(&cfg.CertFile, "cert", "", "file with a certificate (PEM) to use instead of its own")
	f.StringVar(&cfg.KeyFile, "key", "", "file with the certificate's key (PEM)")
	f.StringArrayVar(&cfg.Routes, "peer", nil, "URL of another server of the cluster, which names this one; repeat it")
	f.IntVar(&cfg.MaxClients, "max-clients", 10_000, "connections at once, of each protocol")
	f.StringVar(&genesis, "genesis", "", "file with the grid's genesis (default: the context's)")
	f.StringArrayVar(&ledgers, "ledger", nil, "URL of a ledger node, two or more (default: the context's)")
	cmd.MarkFlagsRequiredTogether("cert", "key")
	cmd.MarkFlagsOneRequired("dir", "cert")
	cmd.MarkFlagsMutuallyExclusive("dir", "cert")
	return cmd
}

// ledgerClient reads the ledger of the context, or of a grid that no context
// names yet.
func (a *app) ledgerClient(ctx context.Context, genesis string, ledgers []string) (*client.Client, error) {
	if genesis == "" && len(ledgers) == 0 {
		return a.client(ctx)
	}
	if err := checkLedgers(ledgers); err != nil {
		return nil, err
	}
	b, err := a.genesisOf(genesis)
	if err != nil {
		return nil, err
	}
	return client.Open(ctx, client.Config{}, &client.Context{Name: "rendezvous", Genesis: b, Ledgers: ledgers}, a.serviceLog())
}

// checkLedgers refuses a list by which a ledger node could not be caught lying.
func checkLedgers(urls []string) error {
	if len(urls) < 2 || slices.Contains(urls[1:], urls[0]) {
		return problem.New("option-invalid", "a ledger node is believed only if another one confirms what it says").
			WithFix("name two or more with --ledger, run by different people")
	}
	return nil
}

func (a *app) serveRendezvous(ctx context.Context, c *client.Client, cfg server.Config) error {
	cfg.Grid, cfg.Bound = c.Grid(), c.Bound
	s, err := server.Serve(ctx, cfg)
	if err != nil {
		return fmt.Errorf("start the rendezvous: %w", err)
	}
	if err := a.readyLine("rendezvous", [2]string{"url", s.URL()}); err != nil {
		return errors.Join(err, s.Stop())
	}
	<-ctx.Done()
	return s.Stop()
}
