package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Name the keys that sign",
		Long: `Keys are OpenSSH keys: ed25519 in a file or in an ssh-agent, or sk-ssh-ed25519 on a
hardware token, through the agent. A context only remembers where they are.`,
	}
	cmd.AddCommand(a.keyAddCommand(), a.keyGenerateCommand(), a.keyListCommand(), a.keyUseCommand())
	return cmd
}

func (a *app) keyAddCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "add NAME FILE",
		Short: "Use an SSH key: a private key file, or a .pub whose private half is in the ssh-agent",
		Example: `  zos key add me ~/.ssh/id_ed25519
  zos key add token ~/.ssh/id_ed25519_sk.pub`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := a.readKey(cmd.Context(), args[0], args[1])
			if err != nil {
				return fmt.Errorf("add key %s: %w", args[0], err)
			}
			return a.saveKey(k)
		},
	}
}

// readKey tells from a file's content what kind of key it is.
func (a *app) readKey(ctx context.Context, name, file string) (client.Key, error) {
	b, err := readBounded(file, 64<<10)
	if err != nil {
		return client.Key{}, err
	}
	if bytesHave(b, "PRIVATE KEY") {
		_, err := sign.FromFile(file)
		if problem.Code(err) == "key-invalid" && exists(file+".pub") {
			return client.Key{}, problem.New("key-invalid", "%w", err).WithFix("if it is on a token, ssh-add it, then: zos key add %s %s.pub", name, file)
		}
		if err != nil {
			return client.Key{}, err
		}
		abs, err := filepath.Abs(file)
		return client.Key{Name: name, File: abs}, err
	}
	pub, err := sign.ParseAuthorizedKey(strings.TrimSpace(string(b)))
	if err != nil {
		return client.Key{}, err
	}
	if _, err := agentHas(ctx, pub); err != nil {
		a.progress("note: %v; signing will need it", err)
	}
	return client.Key{Name: name, Public: pub.String()}, nil
}

func bytesHave(b []byte, s string) bool { return strings.Contains(string(b), s) }

// agentHas opens a key in the ssh-agent, or says why it can't.
func agentHas(ctx context.Context, pub sign.PublicKey) (sign.Signer, error) {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, problem.New("agent-unreachable", "no ssh-agent is running (SSH_AUTH_SOCK is not set)")
	}
	return sign.FromAgent(ctx, socket, pub)
}

func (a *app) keyGenerateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "generate NAME",
		Short: "Make an ed25519 key in the configuration directory, without a passphrase",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			config, c, err := a.openContext()
			if err != nil {
				return err
			}
			if !contract.ValidName(args[0]) {
				return problem.New("name-invalid", "%q is no name for a key", args[0]).WithFix("use 1 to 63 of a-z, 0-9 and -")
			}
			path := filepath.Join(config.Dir, "keys", c.Name, args[0])
			if exists(path) {
				return problem.New("already-exists", "there is a key %s already", path).WithFix("choose another name, or: zos key add %s %s", args[0], path)
			}
			seed, s, err := sign.Generate()
			if err != nil {
				return err
			}
			private, err := sign.MarshalPrivate(seed, args[0])
			if err != nil {
				return fmt.Errorf("encode the key: %w", err)
			}
			err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, private, 0o600),
				os.WriteFile(path+".pub", []byte(s.Public().String()+" "+args[0]+"\n"), 0o644))
			if err != nil {
				return fmt.Errorf("write the key: %w", err)
			}
			rel, err := filepath.Rel(config.Dir, path)
			if err != nil {
				return err
			}
			return a.saveKey(client.Key{Name: args[0], File: rel})
		},
	}
}

// saveKey adds a key to the context; the first one signs by default.
func (a *app) saveKey(k client.Key) error {
	config, c, err := a.openContext()
	if err != nil {
		return err
	}
	if !contract.ValidName(k.Name) {
		return problem.New("name-invalid", "%q is no name for a key", k.Name).WithFix("use 1 to 63 of a-z, 0-9 and -")
	}
	for _, o := range c.Keys {
		if o.Name == k.Name && o != k {
			return problem.New("already-exists", "context %s has another key %s", c.Name, k.Name).WithFix("choose another name")
		}
	}
	c.SetKey(k)
	if c.Default == "" {
		c.Default = k.Name
	}
	if err := config.Write(c); err != nil {
		return err
	}
	row, err := keyRowOf(config, c, k)
	if err != nil {
		return err
	}
	if a.format == "json" {
		return a.json(row)
	}
	fmt.Fprintln(a.out, row.Fingerprint)
	return nil
}

// keyRow is a key for people and machines.
type keyRow struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"`
	Public      string `json:"public"`
	Where       string `json:"where"` // file, or "ssh-agent"
	Default     bool   `json:"default"`
}

func keyRowOf(config client.Config, c *client.Context, k client.Key) (keyRow, error) {
	pub, err := config.Public(k)
	if err != nil {
		return keyRow{}, err
	}
	r := keyRow{k.Name, pub.Type(), pub.Fingerprint(), pub.String(), k.File, c.Default == k.Name}
	if k.File == "" {
		r.Where = "ssh-agent"
	}
	return r, nil
}

func (a *app) keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the context's keys",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			config, c, err := a.openContext()
			if err != nil {
				return err
			}
			data, rows := []keyRow{}, [][]string{}
			for _, k := range c.Keys {
				r, err := keyRowOf(config, c, k)
				if err != nil {
					a.progress("key %s: %v", k.Name, err)
					r = keyRow{Name: k.Name, Where: k.File}
				}
				mark := ""
				if r.Default {
					mark = "*"
				}
				data = append(data, r)
				rows = append(rows, []string{r.Name, r.Type, r.Fingerprint, r.Where, mark})
			}
			return a.table(data, []string{"KEY", "TYPE", "FINGERPRINT", "WHERE", "DEFAULT"}, rows)
		},
	}
}

func (a *app) keyUseCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "use NAME",
		Short:             "Make a key the one that signs without --as",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if _, err := c.Signer(ctx, args[0]); err != nil {
					return err
				}
				config, k, err := a.openContext()
				if err != nil {
					return err
				}
				k.Default = args[0]
				return config.Write(k)
			})
		},
	}
}
