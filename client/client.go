package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Client speaks to one grid. Links are made when first needed; Close ends them.
type Client struct {
	config  Config
	context *Context
	log     *slog.Logger
	bound   bus.Bound

	mu     sync.Mutex
	ledger *light.Client
	bus    *bus.Conn
	// sessions are the session keys made by UseSession, by account key.
	sessions map[string]*bus.Credential
}

// Open prepares to talk to a grid; it dials nobody yet.
func Open(_ context.Context, config Config, c *Context, log *slog.Logger) (*Client, error) {
	if _, err := contract.DecodeGenesis(c.Genesis); err != nil {
		return nil, fmt.Errorf("open context %s: %w", c.Name, err)
	}
	k := &Client{config: config, context: c, log: log}
	k.bound = bus.BoundBy(k.Grid(), k.readLedger)
	return k, nil
}

// Close ends the client's links.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	if c.ledger != nil {
		err = c.ledger.Close()
	}
	if c.bus != nil {
		c.bus.Close()
	}
	c.ledger, c.bus = nil, nil
	return err
}

// Context returns what the client knows of its grid.
func (c *Client) Context() *Context { return c.context }

// Grid returns the grid's id.
func (c *Client) Grid() canon.Hash { return c.context.Grid() }

// Ledger returns the verified view of the ledger, opened at first use.
func (c *Client) Ledger(ctx context.Context) (*light.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ledger == nil {
		l, err := light.Open(ctx, light.Config{
			Genesis: c.context.Genesis, Trust: c.context.Checkpoint,
			Primary: first(c.context.Ledgers), Witnesses: rest(c.context.Ledgers), Logger: c.log,
		})
		if err != nil {
			return nil, fmt.Errorf("open the ledger: %w", err)
		}
		c.ledger = l
	}
	return c.ledger, nil
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func rest(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list[1:]
}

// Get reads one record of the ledger, verified.
func Get[T any](ctx context.Context, c *Client, key string) (T, bool, error) {
	var v T
	l, err := c.Ledger(ctx)
	if err != nil {
		return v, false, err
	}
	b, found, _, err := l.Get(ctx, key)
	if err != nil || !found {
		return v, false, err
	}
	if err := canon.Unmarshal(b, &v); err != nil {
		return v, false, fmt.Errorf("read ledger record %s: %w", key, err)
	}
	return v, true, nil
}

// Record is one record with the part of its key behind the prefix it was listed
// by.
type Record[T any] struct {
	Name  string
	Value T
}

// List reads all records whose keys begin with prefix, proven complete, in the
// order of their keys.
func List[T any](ctx context.Context, c *Client, prefix string) ([]Record[T], error) {
	l, err := c.Ledger(ctx)
	if err != nil {
		return nil, err
	}
	kvs, _, err := l.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	out := make([]Record[T], 0, len(kvs))
	for _, kv := range kvs {
		r := Record[T]{Name: kv.Key[len(prefix):]}
		if err := canon.Unmarshal(kv.Value, &r.Value); err != nil {
			return nil, fmt.Errorf("read ledger record %s: %w", kv.Key, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// Submit sends a signed statement to the ledger and waits until it is in a
// block.
func (c *Client) Submit(ctx context.Context, s contract.Signed) error {
	l, err := c.Ledger(ctx)
	if err != nil {
		return err
	}
	tx, err := s.Encode()
	if err != nil {
		return err
	}
	_, err = l.Submit(ctx, tx)
	return err
}

// Signer returns the key of the given name.
func (c *Client) Signer(ctx context.Context, name string) (sign.Signer, error) {
	k, err := c.key(name)
	if err != nil {
		return nil, err
	}
	return c.open(ctx, k)
}

// key finds a key of the context by its name.
func (c *Client) key(name string) (Key, error) {
	names := make([]string, 0, len(c.context.Keys))
	for _, k := range c.context.Keys {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return Key{}, problem.New("key-unknown", "no key %q in context %s", name, c.context.Name).
		WithFix("%s", suggest(name, names, "add it with: zos key add "+name+" FILE"))
}

func (c *Client) open(ctx context.Context, k Key) (sign.Signer, error) {
	if k.File != "" {
		s, err := sign.FromFile(c.config.keyFile(k))
		if err != nil {
			return nil, fmt.Errorf("open key %s: %w", k.Name, err)
		}
		return s, nil
	}
	pub, err := sign.ParseAuthorizedKey(k.Public)
	if err != nil {
		return nil, fmt.Errorf("open key %s: %w", k.Name, err)
	}
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, problem.New("agent-unreachable", "key %s is in an ssh-agent, and SSH_AUTH_SOCK is not set", k.Name).
			WithFix("start one: eval $(ssh-agent) && ssh-add")
	}
	return sign.FromAgent(ctx, socket, pub)
}

// Public returns the public half of a key without opening the private one.
func (c *Client) Public(k Key) (sign.PublicKey, error) { return c.config.Public(k) }

// DefaultSigner returns the named key, or the context's default, or its only
// key.
func (c *Client) DefaultSigner(ctx context.Context, as string) (sign.Signer, error) {
	switch {
	case as != "":
		return c.Signer(ctx, as)
	case c.context.Default != "":
		return c.Signer(ctx, c.context.Default)
	case len(c.context.Keys) == 1:
		return c.open(ctx, c.context.Keys[0])
	}
	return nil, problem.New("key-unknown", "which key signs?").WithFix("name one with --as NAME")
}

// SignerAmong returns the first key at hand that wanted accepts: whoever has
// the right. With a name it returns that key if it is accepted.
func (c *Client) SignerAmong(ctx context.Context, as string, wanted func(sign.PublicKey) bool) (sign.Signer, error) {
	k, err := c.keyAmong(as, wanted)
	if err != nil {
		return nil, err
	}
	return c.open(ctx, k)
}

// keyAmong is SignerAmong without opening the private key.
func (c *Client) keyAmong(as string, wanted func(sign.PublicKey) bool) (Key, error) {
	if as != "" {
		k, err := c.key(as)
		if err != nil {
			return Key{}, err
		}
		pub, err := c.Public(k)
		if err != nil {
			return Key{}, err
		}
		if !wanted(pub) {
			return Key{}, problem.New("not-permitted", "key %s has no right to this", as).WithFix("leave --as out, or name a key that has the right")
		}
		return k, nil
	}
	for _, k := range c.context.Keys {
		pub, err := c.Public(k)
		if err == nil && wanted(pub) {
			return k, nil
		}
	}
	return Key{}, problem.New("not-permitted", "no key in context %s has the right to this", c.context.Name).
		WithFix("add the key that has it: zos key add NAME FILE; or ask someone who has it")
}

// header begins a statement of this grid.
func (c *Client) header(kind string) contract.Header {
	return contract.Header{V: contract.Version, Kind: kind, Grid: c.Grid()}
}

func nonce() []byte {
	b := make([]byte, contract.NonceSize)
	_, _ = rand.Read(b) // never fails, by its documentation
	return b
}

// waitEvery is how often something on the ledger is looked at again.
const waitEvery = 300 * time.Millisecond

// Poll calls f until it says done, ctx ends, or it fails with something that
// waiting can't mend.
func Poll(ctx context.Context, f func(context.Context) (done bool, err error)) error {
	t := time.NewTicker(waitEvery)
	defer t.Stop()
	for {
		done, err := f(ctx)
		if done {
			return nil
		}
		if err != nil && !passing(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-t.C:
		}
	}
}

// passing tells whether an error may go away by itself.
func passing(err error) bool {
	switch problem.Code(err) {
	case light.CodeUnreachable, light.CodeStale, light.CodeBusy, "bus-unreachable", "node-silent":
		return true
	}
	return errors.Is(err, context.DeadlineExceeded)
}
