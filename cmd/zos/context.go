package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

func (a *app) contextCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "context",
		Short: "Choose the grid to talk to",
		Long: `A context is what this machine knows of one grid: its genesis, where its services
are, and where your keys are. They lie in $ZOS_CONFIG, or in zos below your
configuration directory.`,
	}
	cmd.AddCommand(a.contextCreateCommand(), a.contextListCommand(), a.contextShowCommand(), a.contextUseCommand())
	return cmd
}

func (a *app) contextCreateCommand() *cobra.Command {
	var genesis, checkpoint string
	c := &client.Context{}
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Add a grid by its genesis file and the addresses of its services",
		Example: `  zos context create work --genesis genesis.cbor --ledger http://a:26657 --ledger http://b:26657 \
    --hub http://a:8080 --rendezvous tls://a:443#PIN --rendezvous tls://b:443#PIN`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			config, err := client.OpenConfig()
			if err != nil {
				return err
			}
			if _, err := config.Load(args[0]); err == nil {
				return problem.New("already-exists", "there is a context %s already", args[0]).WithFix("choose another name")
			}
			if c.Genesis, err = readBounded(genesis, 1<<20); err != nil {
				return fmt.Errorf("read the genesis: %w", err)
			}
			if _, err := contract.DecodeGenesis(c.Genesis); err != nil {
				return err
			}
			if checkpoint != "" {
				if err := json.Unmarshal([]byte(checkpoint), &c.Checkpoint); err != nil {
					return usageError{fmt.Errorf("--checkpoint: %w", err)}
				}
			}
			if err := checkLedgers(c.Ledgers); err != nil {
				return err
			}
			if c.HubDir != "" {
				if c.HubDir, err = filepath.Abs(c.HubDir); err != nil {
					return fmt.Errorf("find the hub's directory: %w", err)
				}
			}
			c.Name = args[0]
			if err := config.Save(c); err != nil {
				return err
			}
			a.progress("context %s is the current one", c.Name)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&genesis, "genesis", "", "file with the grid's genesis")
	f.StringArrayVar(&c.Ledgers, "ledger", nil, "URL of a ledger node; the first is asked, the others must confirm")
	f.StringArrayVar(&c.Hubs, "hub", nil, "URL of a hub")
	f.StringArrayVar(&c.Rendezvous, "rendezvous", nil, "URL of a rendezvous server; name two, run by different people")
	f.StringVar(&c.HubDir, "hub-dir", "", "directory of the hub, if you publish on this machine")
	f.StringVar(&checkpoint, "checkpoint", "", `ledger header to trust, as {"height":…,"hash":…,"time":…} (default: the genesis)`)
	_ = cmd.MarkFlagRequired("genesis")
	_ = cmd.MarkFlagRequired("ledger")
	return cmd
}

func (a *app) contextListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the contexts",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			config, err := client.OpenConfig()
			if err != nil {
				return err
			}
			names, current, err := config.List()
			if err != nil {
				return err
			}
			type row struct {
				Name    string `json:"name"`
				Grid    string `json:"grid"`
				Current bool   `json:"current"`
			}
			data, rows := []row{}, [][]string{}
			for _, n := range names {
				c, err := config.Load(n)
				if err != nil {
					return err
				}
				mark := ""
				if n == current {
					mark = "*"
				}
				data = append(data, row{n, c.Grid().String(), n == current})
				rows = append(rows, []string{n, c.Grid().Short(), strings.Join(c.Ledgers, ","), mark})
			}
			return a.table(data, []string{"CONTEXT", "GRID", "LEDGERS", "CURRENT"}, rows)
		},
	}
}

func (a *app) contextShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show [NAME]",
		Short:             "Show a context",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeContexts,
		RunE: func(_ *cobra.Command, args []string) error {
			config, c, err := a.openContext(args...)
			if err != nil {
				return err
			}
			if a.format == "json" {
				return a.json(c)
			}
			g, err := contract.DecodeGenesis(c.Genesis)
			if err != nil {
				return err
			}
			a.fields([][2]string{
				{"context", c.Name}, {"directory", config.Dir}, {"grid", fmt.Sprintf("%s %s", g.Name, c.Grid())},
				{"ledgers", strings.Join(c.Ledgers, " ")}, {"hubs", strings.Join(c.Hubs, " ")}, {"rendezvous", strings.Join(c.Rendezvous, " ")},
				{"hub directory", c.HubDir}, {"checkpoint", fmt.Sprintf("height %d", c.Checkpoint.Height)}, {"default key", c.Default},
			})
			return nil
		},
	}
}

func (a *app) contextUseCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "use NAME",
		Short:             "Make a context the current one",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeContexts,
		RunE: func(_ *cobra.Command, args []string) error {
			config, err := client.OpenConfig()
			if err != nil {
				return err
			}
			return config.Use(args[0])
		},
	}
}

// openContext loads a context: the named one, that of --context, or the current.
func (a *app) openContext(names ...string) (client.Config, *client.Context, error) {
	config, err := client.OpenConfig()
	if err != nil {
		return config, nil, err
	}
	name := a.contextName
	if len(names) > 0 {
		name = names[0]
	}
	c, err := config.Load(name)
	return config, c, err
}

// fields prints names and values of one thing, leaving out what is empty.
func (a *app) fields(rows [][2]string) {
	width := 0
	for _, r := range rows {
		width = max(width, len(r[0]))
	}
	for _, r := range rows {
		if r[1] != "" {
			fmt.Fprintf(a.out, "%-*s  %s\n", width, r[0], printable(r[1]))
		}
	}
}

// genesisOf reads a genesis file, or takes the context's.
func (a *app) genesisOf(path string) ([]byte, error) {
	if path == "" {
		_, c, err := a.openContext()
		if err != nil {
			return nil, err
		}
		return c.Genesis, nil
	}
	b, err := readBounded(path, 1<<20)
	if err != nil {
		return nil, fmt.Errorf("read the genesis: %w", err)
	}
	_, err = contract.DecodeGenesis(b)
	return b, err
}

// hubDir is where to publish: the flag's, or the context's.
func (a *app) hubDir(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	_, c, err := a.openContext()
	if err != nil {
		return "", err
	}
	if c.HubDir == "" {
		return "", problem.New("option-invalid", "the hub of context %s is not on this machine", c.Name).WithFix("name a hub's directory with --hub DIR, and copy it to the hub")
	}
	return c.HubDir, nil
}

// lookup runs f with the names it needs, for verbs that only read.
func (a *app) lookup(ctx context.Context, f func(context.Context, *client.Client, client.Names) error) error {
	return a.withClient(ctx, func(ctx context.Context, c *client.Client) error {
		names, err := c.Names(ctx)
		if err != nil {
			return err
		}
		return f(ctx, c, names)
	})
}

// exists tells whether there is something at a path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
