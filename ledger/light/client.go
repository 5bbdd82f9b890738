package light

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"time"

	"github.com/cometbft/cometbft/crypto/ed25519"
	cometlight "github.com/cometbft/cometbft/light"
	"github.com/cometbft/cometbft/light/provider"
	"github.com/cometbft/cometbft/types"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/internal/cometlog"
	"github.com/zero-os/zos/ledger/wire"
)

// readTimeout bounds a read if its context does not.
const readTimeout = 30 * time.Second

// Config says which ledger to read and whom to ask. The addresses are hints;
// what is trusted is Trust, or else Genesis.
type Config struct {
	// Genesis is the grid's canonical contract.Genesis. It may be left out if Grid
	// and Trust are given.
	Genesis []byte
	// Grid is the grid's id. If it is zero it is the hash of Genesis; if both are
	// given they must agree.
	Grid canon.Hash
	// Trust is the header to start from, usually that of the newest release. If it
	// is zero, the first header must be signed by the validators in Genesis.
	Trust contract.Checkpoint
	// Primary is the URL of the ledger RPC that is asked first, and Witnesses are
	// those that must confirm what it says: at least one, run by somebody else.
	Primary   string
	Witnesses []string
	// Store is a file that keeps the newest verified header, so that a later start
	// goes on from there; empty keeps it in memory. Whoever can write to the file
	// can choose what is trusted.
	Store string
	// TrustingPeriod is how old a header may be and still be trusted as a start;
	// 0 means wire.TrustingPeriod.
	TrustingPeriod time.Duration
	// MaxClockDrift is how far ahead of Now a header may be; 0 means
	// wire.MaxClockDrift.
	MaxClockDrift time.Duration
	// MaxHeadAge is how old the newest header may be; 0 means wire.MaxHeadAge.
	MaxHeadAge time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger gets what happens; nil discards it.
	Logger *slog.Logger
}

// Head is a verified header of the ledger.
type Head struct {
	Height uint64
	// Time is the block's time: that of the votes on the block before it.
	Time time.Time
	Hash canon.Hash
	// State is the root of the state that this header proves: the one after the
	// block before it.
	State canon.Hash
}

// Client is a light client. It is safe for concurrent use.
type Client struct {
	chain     string
	genesis   *contract.Genesis // nil if not given
	trust     contract.Checkpoint
	period    time.Duration
	drift     time.Duration
	maxAge    time.Duration
	now       func() time.Time
	log       *slog.Logger
	endpoints []*endpoint
	store     *headerStore

	// turn is held while headers are verified; it guards comet.
	turn  chan struct{}
	comet *cometlight.Client // nil until needed, and after a failure

	mu      sync.Mutex
	primary int // index in endpoints
}

// Open makes a client. It asks nobody: a ledger that cannot be reached, or that
// does not match the checkpoint, is an error of the first read.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &Client{
		trust: cfg.Trust, period: cfg.TrustingPeriod, drift: cfg.MaxClockDrift, maxAge: cfg.MaxHeadAge,
		now: cfg.Now, log: cfg.Logger, turn: make(chan struct{}, 1),
	}
	if c.period == 0 {
		c.period = wire.TrustingPeriod
	}
	if c.drift == 0 {
		c.drift = wire.MaxClockDrift
	}
	if c.maxAge == 0 {
		c.maxAge = wire.MaxHeadAge
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	grid := cfg.Grid
	if len(cfg.Genesis) > 0 {
		id := canon.Sum(cfg.Genesis)
		if !grid.IsZero() && grid != id {
			return nil, fmt.Errorf("open light client: genesis has the id %s, grid is %s", id, grid)
		}
		grid = id
		g, err := contract.DecodeGenesis(cfg.Genesis)
		if err != nil {
			return nil, fmt.Errorf("open light client: %w", err)
		}
		c.genesis = &g
	}
	switch {
	case grid.IsZero():
		return nil, errors.New("open light client: neither genesis nor grid id is given")
	case c.trust.Height == 0 && c.genesis == nil:
		return nil, errors.New("open light client: neither checkpoint nor genesis is given")
	case len(cfg.Witnesses) == 0:
		return nil, errors.New("open light client: no witness is given; one endpoint alone cannot be checked")
	}
	c.chain = wire.ChainID(grid)
	seen := map[string]bool{}
	for _, url := range append([]string{cfg.Primary}, cfg.Witnesses...) {
		if seen[url] {
			return nil, fmt.Errorf("open light client: endpoint %s is given twice", url)
		}
		seen[url] = true
		e, err := newEndpoint(c.chain, url)
		if err != nil {
			return nil, fmt.Errorf("open light client: %w", err)
		}
		c.endpoints = append(c.endpoints, e)
	}
	var err error
	if c.store, err = openStore(cfg.Store, c.chain); err != nil {
		// A damaged file costs the head start, nothing else.
		c.log.Warn("stored ledger header is not used", "err", err)
	}
	// A checkpoint that is not older than what is stored is the better start.
	if b := c.store.newest(); b != nil && c.trust.Height > 0 && int64(c.trust.Height) >= b.Height {
		c.store.clear()
	}
	return c, nil
}

// Close writes the newest header to the store and closes idle connections.
func (c *Client) Close() error {
	err := c.store.close()
	for _, e := range c.endpoints {
		e.close()
	}
	return err
}

// Head returns the newest header, verified now. It fails with CodeStale if that
// is older than Config.MaxHeadAge, at every endpoint.
func (c *Client) Head(ctx context.Context) (Head, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var block *types.LightBlock
	for range c.endpoints {
		var err error
		if block, err = c.verified(ctx, 0); err != nil {
			return Head{}, err
		}
		if c.fresh(block) {
			return headOf(block), nil
		}
		// One endpoint may be frozen where another is not.
		c.nextPrimary()
	}
	return Head{}, stale(headOf(block), c.maxAge, c.now())
}

// Checkpoint returns the newest verified header in the form that a release
// carries.
func (c *Client) Checkpoint(ctx context.Context) (contract.Checkpoint, error) {
	h, err := c.Head(ctx)
	if err != nil {
		return contract.Checkpoint{}, fmt.Errorf("make ledger checkpoint: %w", err)
	}
	return contract.Checkpoint{Height: h.Height, Hash: h.Hash, Time: uint64(h.Time.Unix())}, nil
}

// Trusted returns the newest header that was verified so far, without asking
// anybody: a floor for this machine's clock. ok is false if there is none.
func (c *Client) Trusted() (h Head, ok bool) {
	b := c.store.newest()
	if b == nil {
		return Head{}, false
	}
	return headOf(b), true
}

func headOf(b *types.LightBlock) Head {
	h := Head{Height: uint64(b.Height), Time: b.Time}
	copy(h.Hash[:], b.Hash())
	copy(h.State[:], b.AppHash)
	return h
}

func (c *Client) fresh(b *types.LightBlock) bool { return c.now().Sub(b.Time) <= c.maxAge }

// verified returns the header at height, 0 for the newest, verified and
// confirmed by a witness. Every endpoint gets a try as the primary.
func (c *Client) verified(ctx context.Context, height int64) (*types.LightBlock, error) {
	known := func() *types.LightBlock {
		b, err := c.store.LightBlock(height)
		if err != nil {
			return nil
		}
		return b
	}
	if b := known(); b != nil {
		return b, nil
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, unreachable(ctx.Err(), "wait for the ledger's header")
	}
	// Somebody else may have verified it meanwhile.
	if b := known(); b != nil {
		return b, nil
	}
	var liar, silent error
	for range c.endpoints {
		block, err := c.advance(ctx, height)
		if err == nil {
			return block, nil
		}
		c.log.Warn("ledger header could not be verified", "primary", c.endpoints[c.first()].url, "height", height, "err", text(err))
		c.comet = nil
		c.nextPrimary()
		switch judge(ctx, err) {
		case blameExpired:
			return nil, expired(err)
		case blameCaller:
			return nil, unreachable(err, "read the ledger's header")
		case blameLiar:
			liar = err
		case blameNone:
			silent = err
		}
		// CometBFT says only that no witness is left; the endpoints know why.
		for _, e := range c.endpoints {
			if f := e.failure(); f != nil && errors.As(f, new(provider.ErrBadLightBlock)) {
				liar = fmt.Errorf("%s: %w", e.url, f)
			} else if f != nil {
				silent = f
			}
		}
	}
	if liar != nil {
		return nil, lying(liar, "verify the ledger's header")
	}
	return nil, unreachable(silent, "read the ledger's header")
}

// advance does one attempt with the present primary. The caller holds turn.
func (c *Client) advance(ctx context.Context, height int64) (*types.LightBlock, error) {
	if c.comet == nil {
		if err := c.connect(ctx); err != nil {
			return nil, err
		}
	}
	comet := c.comet
	// CometBFT drops for good who failed once; begin anew with everybody.
	defer func() {
		if len(comet.Witnesses()) < len(c.endpoints)-1 {
			c.comet = nil
		}
	}()
	if height > 0 {
		return comet.VerifyLightBlockAtHeight(ctx, height, c.now())
	}
	block, err := comet.Update(ctx, c.now())
	if err != nil {
		return nil, err
	}
	if block == nil {
		block = c.store.newest()
	}
	return block, nil
}

// connect makes CometBFT's client, from what is stored or else from the root of
// trust. The caller holds turn.
func (c *Client) connect(ctx context.Context) error {
	first := c.first()
	primary := c.endpoints[first]
	var witnesses []provider.Provider
	for i, e := range c.endpoints {
		if i != first {
			witnesses = append(witnesses, e)
		}
	}
	options := []cometlight.Option{
		cometlight.SkippingVerification(cometlight.DefaultTrustLevel),
		cometlight.MaxClockDrift(c.drift),
		cometlight.PruningSize(keepHeaders),
		cometlight.Logger(cometlog.New(c.log)),
	}
	var err error
	if c.store.newest() != nil {
		c.comet, err = cometlight.NewClientFromTrustedStore(c.chain, c.period, primary, witnesses, c.store, options...)
		return err
	}
	trust := cometlight.TrustOptions{Period: c.period, Height: int64(c.trust.Height), Hash: c.trust.Hash[:]}
	if c.trust.Height == 0 {
		if trust, err = c.trustGenesis(ctx, primary); err != nil {
			return err
		}
	} else if at := time.Unix(int64(c.trust.Time), 0); c.now().After(at.Add(c.period)) {
		return cometlight.ErrOldHeaderExpired{At: at.Add(c.period), Now: c.now()}
	}
	c.comet, err = cometlight.NewClient(ctx, c.chain, trust, primary, witnesses, c.store, options...)
	if err != nil {
		// Half an initialisation must not pass for a stored header.
		c.store.clear()
		return err
	}
	return nil
}

// trustGenesis makes the first header, signed by the validators that the genesis
// names, the root of trust.
func (c *Client) trustGenesis(ctx context.Context, from *endpoint) (cometlight.TrustOptions, error) {
	validators, err := validatorsOf(c.genesis)
	if err != nil {
		return cometlight.TrustOptions{}, err
	}
	block, err := from.LightBlock(ctx, 1)
	if err != nil {
		return cometlight.TrustOptions{}, err
	}
	if !bytes.Equal(block.ValidatorsHash, validators.Hash()) {
		return cometlight.TrustOptions{}, liarError{fmt.Errorf("%s: the first header names other validators than the genesis", from.url)}
	}
	if err := validators.VerifyCommitLight(c.chain, block.Commit.BlockID, block.Height, block.Commit); err != nil {
		return cometlight.TrustOptions{}, liarError{fmt.Errorf("%s: first header: %w", from.url, err)}
	}
	if cometlight.HeaderExpired(block.SignedHeader, c.period, c.now()) {
		return cometlight.TrustOptions{}, cometlight.ErrOldHeaderExpired{At: block.Time.Add(c.period), Now: c.now()}
	}
	return cometlight.TrustOptions{Period: c.period, Height: 1, Hash: block.Hash()}, nil
}

func validatorsOf(g *contract.Genesis) (*types.ValidatorSet, error) {
	var vals []*types.Validator
	for _, v := range g.Validators {
		vals = append(vals, types.NewValidator(ed25519.PubKey(v.Key), int64(v.Power)))
	}
	set := new(types.ValidatorSet)
	if err := set.UpdateWithChangeSet(vals); err != nil {
		return nil, fmt.Errorf("genesis: validators: %w", err)
	}
	return set, nil
}

func (c *Client) first() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.primary
}

// nextPrimary makes the next endpoint the primary.
func (c *Client) nextPrimary() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.primary = (c.primary + 1) % len(c.endpoints)
}

// order returns the endpoints in the order to ask them: the primary first, those
// that failed a moment ago last.
func (c *Client) order() []*endpoint {
	first := c.first()
	out := make([]*endpoint, 0, len(c.endpoints))
	for i := range c.endpoints {
		out = append(out, c.endpoints[(first+i)%len(c.endpoints)])
	}
	sort.SliceStable(out, func(i, j int) bool { return !out[i].failedLately() && out[j].failedLately() })
	return out
}
