package server

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous/wire"
	"github.com/zero-os/zos/sign"
)

// How the ledger is asked. Anyone can claim any slot with a key of his own, so
// claims that don't fit must not make us ask faster than this.
const (
	bindingFresh  = 60 * time.Second
	bindingPause  = time.Second // between two reads of one slot
	bindingWait   = 3 * time.Second
	bindingRate   = 100 // reads per second, of all slots
	bindingsMost  = 100_000
	bindingsBurst = 1000
)

// bindings remembers the keys that the ledger binds to slots.
type bindings struct {
	read  bus.Bound
	now   func() time.Time
	fresh time.Duration // how long what was read is used without reading again
	limit *rate.Limiter

	mu    sync.Mutex
	known map[canon.Hash]*binding
}

type binding struct {
	mu    sync.Mutex // held while the ledger is read
	has   bool
	value bus.Binding
	got   time.Time // when value was read
	tried time.Time // when the ledger was asked last
}

func newBindings(read bus.Bound, fresh time.Duration, now func() time.Time) *bindings {
	return &bindings{read: read, now: now, fresh: min(fresh, bindingFresh), limit: rate.NewLimiter(bindingRate, bindingsBurst), known: map[canon.Hash]*binding{}}
}

func (b *bindings) of(slot canon.Hash) *binding {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.known[slot]
	if e == nil {
		if len(b.known) >= bindingsMost {
			for old := range b.known { // any one: it is only a cache
				delete(b.known, old)
				break
			}
		}
		e = &binding{}
		b.known[slot] = e
	}
	return e
}

// fits fills in what the ledger says and judges the login by it. A remembered
// binding is used while it is fresh; one that does not fit is read again; and
// one that can't be read again, because the ledger is away, is used still, or a
// ledger that is down would part every node that dials again.
func (b *bindings) fits(ctx context.Context, l wire.Login, by sign.PublicKey, want wire.Expected) error {
	judge := func(e *binding) error {
		want.Bound, want.Epoch, want.Key = e.has, e.value.Epoch, e.value.SigningKey
		return wire.JudgeLogin(l, by, want)
	}
	e := b.of(l.Slot)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.has && b.now().Sub(e.got) < b.fresh && judge(e) == nil {
		return nil
	}
	// What fails for another reason than the ledger's word needs no reading.
	if err := judge(e); problem.Code(err) == "login-invalid" {
		return err
	}
	if !e.tried.IsZero() && b.now().Sub(e.tried) < bindingPause || !b.limit.AllowN(b.now(), 1) {
		return judge(e)
	}
	e.tried = b.now()
	ctx, cancel := context.WithTimeout(ctx, bindingWait)
	defer cancel()
	got, err := b.read(ctx, l.Slot)
	switch {
	case err == nil:
		e.value, e.has, e.got = got, true, b.now()
	case unbound(err):
		e.has = false
	case !e.has:
		return problem.New("login-undecided", "login: the key of slot %s can't be read: %w", l.Slot.Short(), err)
	}
	return judge(e)
}

// still tells whether a client that logged in with a key would be let in today.
func (b *bindings) still(ctx context.Context, slot canon.Hash, epoch uint64, key sign.PublicKey) error {
	same := []byte("the login itself was judged when it came")
	l := wire.Login{Slot: slot, Epoch: epoch, Challenge: make([]byte, wire.ChallengeSize), Channel: same}
	l.Kind = wire.KindLogin
	err := b.fits(ctx, l, key, wire.Expected{Challenge: l.Challenge, Channel: same})
	if problem.Code(err) == "login-refused" {
		return err
	}
	return nil // also when the ledger is away
}

// unbound tells a ledger that says "no such node" from one that says nothing.
func unbound(err error) bool {
	switch problem.Code(err) {
	case "slot-unknown", "node-unknown", "node-unbound", "node-unreachable": // the last is client.Bound's word for "not joined"
		return true
	}
	return false
}
