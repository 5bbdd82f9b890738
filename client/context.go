package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// ConfigEnv names the environment variable that holds the configuration
// directory; without it, it is zos below the user's configuration directory.
const ConfigEnv = "ZOS_CONFIG"

// Context is what a person's machine knows of one grid. It holds no private
// key: keys stay in files or agents, as SSH keys do.
type Context struct {
	Name    string `json:"name"`
	Genesis []byte `json:"genesis"` // canonical bytes; the grid's id is their hash
	// Checkpoint is where verification of the ledger starts.
	Checkpoint contract.Checkpoint `json:"checkpoint"`
	Hubs       []string            `json:"hubs"`
	Ledgers    []string            `json:"ledgers"`    // the first is the primary, the others witnesses
	Rendezvous []string            `json:"rendezvous"` // tls://host:port#pin
	// HubDir is the hub's directory when it is on this machine: where this
	// person publishes. Empty otherwise.
	HubDir string `json:"hub_dir,omitempty"`
	// Keys are the keys at hand, by name.
	Keys []Key `json:"keys"`
	// Default is the name of the key that signs when --as is not given.
	Default string `json:"default,omitempty"`
}

// Key says where a private key is: a file, or an ssh-agent that holds the
// public key.
type Key struct {
	Name   string `json:"name"`
	File   string `json:"file,omitempty"`   // private key file; relative to the configuration directory
	Public string `json:"public,omitempty"` // authorized_keys line; the private half is in the ssh-agent
}

// Grid returns the grid's id.
func (c *Context) Grid() canon.Hash { return canon.Sum(c.Genesis) }

// Config is a configuration directory: contexts/NAME.json, and the file current
// with the name of the one in use.
type Config struct{ Dir string }

// OpenConfig finds the configuration directory; it need not exist yet.
func OpenConfig() (Config, error) {
	if dir := os.Getenv(ConfigEnv); dir != "" {
		return Config{Dir: dir}, nil
	}
	base, err := os.UserConfigDir()
	if err != nil {
		return Config{}, fmt.Errorf("find the configuration directory: %w", err)
	}
	return Config{Dir: filepath.Join(base, "zos")}, nil
}

var contextName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

func (c Config) path(name string) string {
	return filepath.Join(c.Dir, "contexts", name+".json")
}

// Load reads the named context, or the current one when name is empty.
func (c Config) Load(name string) (*Context, error) {
	if name == "" {
		b, err := os.ReadFile(filepath.Join(c.Dir, "current"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, problem.New("no-context", "no grid is known in %s", c.Dir).
				WithFix("start one with `zos up` and run the export line that it prints, or set %s", ConfigEnv)
		}
		if err != nil {
			return nil, fmt.Errorf("read the current context: %w", err)
		}
		name = strings.TrimSpace(string(b))
	}
	if !contextName.MatchString(name) {
		return nil, problem.New("no-context", "%q is no name of a context", name)
	}
	b, err := os.ReadFile(c.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		names, _, err := c.List()
		if err != nil {
			return nil, err
		}
		return nil, problem.New("no-context", "no context %q in %s", name, c.Dir).
			WithFix("%s", suggest(name, names, "make one with: zos context create"))
	}
	if err != nil {
		return nil, fmt.Errorf("read context %s: %w", name, err)
	}
	var ctx Context
	if err := json.Unmarshal(b, &ctx); err != nil {
		return nil, problem.New("no-context", "context %s is damaged: %w", c.path(name), err)
	}
	ctx.Name = name
	return &ctx, nil
}

// Save writes a context and makes it the current one.
func (c Config) Save(ctx *Context) error {
	if err := c.Write(ctx); err != nil {
		return err
	}
	return c.Use(ctx.Name)
}

// Use makes a context the current one.
func (c Config) Use(name string) error {
	if _, err := c.Load(name); err != nil {
		return err
	}
	return replaceFile(filepath.Join(c.Dir, "current"), []byte(name+"\n"))
}

// List names the contexts, and the current one if there is one.
func (c Config) List() (names []string, current string, err error) {
	files, err := filepath.Glob(c.path("*"))
	if err != nil {
		return nil, "", fmt.Errorf("list the contexts: %w", err)
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".json"))
	}
	b, err := os.ReadFile(filepath.Join(c.Dir, "current"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("read the current context: %w", err)
	}
	return names, strings.TrimSpace(string(b)), nil
}

// Write writes a context and leaves the current one as it is.
func (c Config) Write(ctx *Context) error {
	if !contextName.MatchString(ctx.Name) {
		return problem.New("name-invalid", "%q is no name of a context", ctx.Name).WithFix("use 1 to 63 of a-z, 0-9 and -")
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, "contexts"), 0o700); err != nil {
		return fmt.Errorf("make the configuration directory: %w", err)
	}
	b, err := json.MarshalIndent(ctx, "", "  ")
	if err != nil {
		return fmt.Errorf("encode context %s: %w", ctx.Name, err)
	}
	if err := replaceFile(c.path(ctx.Name), append(b, '\n')); err != nil {
		return fmt.Errorf("save context %s: %w", ctx.Name, err)
	}
	return nil
}

// replaceFile writes a file so that a reader sees the old or the new content.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// SetKey adds a key, or replaces the one with its name.
func (c *Context) SetKey(k Key) {
	if i := slices.IndexFunc(c.Keys, func(o Key) bool { return o.Name == k.Name }); i >= 0 {
		c.Keys[i] = k
		return
	}
	c.Keys = append(c.Keys, k)
}

// keyFile is where a key's private half lies.
func (c Config) keyFile(k Key) string {
	if filepath.IsAbs(k.File) {
		return k.File
	}
	return filepath.Join(c.Dir, k.File)
}

// Public returns the public half of a key, without opening the private one if
// a .pub file lies beside it.
func (c Config) Public(k Key) (sign.PublicKey, error) {
	if k.Public != "" {
		return sign.ParseAuthorizedKey(k.Public)
	}
	path := c.keyFile(k)
	if line, err := os.ReadFile(path + ".pub"); err == nil {
		return sign.ParseAuthorizedKey(strings.TrimSpace(string(line)))
	}
	s, err := sign.FromFile(path)
	if err != nil {
		return nil, fmt.Errorf("open key %s: %w", k.Name, err)
	}
	return s.Public(), nil
}
