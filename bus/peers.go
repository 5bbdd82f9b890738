package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// PeersConfig is what a node is to other nodes.
type PeersConfig struct {
	Conn    *Conn // with the role AsNode(Slot); the caller closes it
	Grid    canon.Hash
	Slot    canon.Hash
	Epoch   uint64
	Signer  sign.Signer
	Sealing *seal.PrivateKey
	// Bound reads the keys of other slots, verified, from the ledger. What it
	// says is used for a minute, and read anew when it does not fit.
	Bound Bound
	// Known, if not nil, tells whether a slot may call at all: who isn't known
	// costs no look into the ledger. It must be quick.
	Known  func(slot canon.Hash) bool
	Logger *slog.Logger
	// Now is a clock of which only the differences count; nil means time.Now.
	Now func() time.Time
}

// PeerHandler answers the call of another node, whose slot is proven. Its answer
// has at most MaxPeerBody bytes; an error reaches the caller with its code. ctx
// ends when the caller waits no longer.
type PeerHandler = func(ctx context.Context, from canon.Hash, body []byte) ([]byte, error)

// Bounds of a Peers.
const (
	peerQueue      = 1024 // sealed requests that wait for a worker
	peerWorkers    = 16   // few of them compute; most wait for the ledger
	peerOpen       = 128  // requests being answered at once
	peerPerCaller  = 8    // of them for one slot
	peerCalls      = 256  // own calls at once
	peerKnown      = 4096 // slots whose run is remembered
	keptPerCaller  = 64   // answers kept for one slot
	keptCallerSize = 256 << 10
	keptSize       = 8 << 20
)

// Peers is a node that calls other nodes and is called by them. It may be used
// by several goroutines.
type Peers struct {
	refusals
	cfg    PeersConfig
	log    *slog.Logger
	run    [NonceSize]byte
	began  time.Time
	latest rising
	book   *book
	hellos *rate.Limiter // challenges answered
	opens  *rate.Limiter // sealed requests opened
	calls  chan struct{} // one per own call

	mu       sync.Mutex
	handlers map[string]peerMethod
	known    map[canon.Hash]*presentPeer
	replay   *replay
	answers  *answers
	lanes    map[laneKey]*lane
	open     int
	openBy   tally[canon.Hash]

	answerTime time.Duration // of late, until an answer comes
}

type peerMethod struct {
	handle  PeerHandler
	inOrder bool
}

// NewPeers prepares it; register handlers, then Run it. A Peers is one run: what
// was asked of an earlier one is refused.
func NewPeers(cfg PeersConfig) (*Peers, error) {
	switch {
	case cfg.Conn == nil || cfg.Signer == nil || cfg.Sealing == nil || cfg.Bound == nil:
		return nil, errors.New("bus peers: connection, signer, sealing key and bindings are needed")
	case cfg.Grid.IsZero() || cfg.Slot.IsZero() || cfg.Epoch == 0:
		return nil, errors.New("bus peers: grid, slot and epoch are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Peers{
		refusals: newRefusals(cfg.Logger),
		cfg:      cfg,
		log:      cfg.Logger,
		began:    cfg.Now(),
		book:     newBook(cfg.Bound),
		hellos:   rate.NewLimiter(200, 1000),
		opens:    rate.NewLimiter(500, 2000),
		calls:    make(chan struct{}, peerCalls),
		handlers: map[string]peerMethod{},
		known:    map[canon.Hash]*presentPeer{},
		replay:   newReplay(),
		answers:  newAnswers(),
		lanes:    map[laneKey]*lane{},
		openBy:   tally[canon.Hash]{},
	}
	rand.Read(p.run[:]) // never fails, see crypto/rand
	return p, nil
}

// Handle answers a method that other nodes call. Every node that the ledger
// binds, and that is Known, may call it: what it may learn is the handler's
// concern. Calls overlap and come in any order.
func (p *Peers) Handle(method string, h PeerHandler) { p.handle(method, peerMethod{h, false}) }

// HandleInOrder is Handle for a method whose calls supersede each other: those
// of one caller never overlap, and one that was issued before another that was
// answered already is refused with "request-old".
func (p *Peers) HandleInOrder(method string, h PeerHandler) { p.handle(method, peerMethod{h, true}) }

func (p *Peers) handle(method string, m peerMethod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handlers[method] = m
}

// clock is nanoseconds since this run began. It depends on no setting of the
// machine's time.
func (p *Peers) clock() uint64 { return p.latest.read(int64(p.cfg.Now().Sub(p.began))) }
