package bus

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

// openHeartbeat verifies a heartbeat of a slot against its binding. The code
// "node-rekeyed" means that it is properly signed, by another key or epoch.
func openHeartbeat(grid, slot canon.Hash, from Binding, data []byte) (Heartbeat, error) {
	hb, by, err := unwire[Heartbeat](data, maxHeartbeat, contract.KindHeartbeat, grid)
	if err != nil {
		return Heartbeat{}, problem.New("heartbeat-invalid", "heartbeat: %w", err)
	}
	switch {
	case hb.Slot != slot:
		err = problem.New("heartbeat-invalid", "heartbeat: it is of another slot")
	case len(hb.BootNonce) != NonceSize || len(hb.Instance) != NonceSize:
		err = problem.New("heartbeat-invalid", "heartbeat: a nonce has the wrong length")
	case len(hb.Challenge) != 0 && len(hb.Challenge) != NonceSize:
		err = problem.New("heartbeat-invalid", "heartbeat: the challenge has the wrong length")
	case len(hb.Status.Problems) > MaxProblems:
		err = problem.New("heartbeat-invalid", "heartbeat: too many problems")
	case hb.Time > 1<<40:
		err = problem.New("heartbeat-invalid", "heartbeat: its time is absurd")
	case hb.Epoch != from.Epoch || !by.Equal(from.SigningKey):
		err = problem.New("node-rekeyed", "heartbeat of node %s: it has another key or epoch than the ledger says", slot.Short()).
			WithFix("wait until the node has joined, or ask its farm")
	}
	if err != nil {
		return Heartbeat{}, err
	}
	for _, p := range hb.Status.Problems {
		if len(p) > MaxCode {
			return Heartbeat{}, problem.New("heartbeat-invalid", "heartbeat: a problem code is too long")
		}
	}
	return hb, nil
}

// HeartbeatSkew is how far a broadcast heartbeat's time may be from our clock.
// Older ones may be held back or replayed by the bus.
const HeartbeatSkew = time.Minute

// sighting is the newest heartbeat of a slot.
type sighting struct {
	Heartbeat
	at      time.Time
	retired [][NonceSize]byte // instances that were replaced, the newest last
}

const retiredMost = 16

// newer decides whether a verified heartbeat proves that the node lives now,
// after what was seen before: it has our time, and is neither an older one of
// the same run nor of a run that another has replaced.
func newer(prev *sighting, hb Heartbeat, now time.Time) error {
	age := now.Sub(time.Unix(int64(hb.Time), 0))
	if age > HeartbeatSkew || age < -HeartbeatSkew {
		return problem.New("heartbeat-old", "heartbeat: its time is %s from ours", age.Round(time.Second)).
			WithFix("check the clocks of the node and of this machine")
	}
	if prev == nil || hb.Epoch > prev.Epoch {
		return nil
	}
	if hb.Epoch < prev.Epoch {
		return problem.New("heartbeat-old", "heartbeat: of an earlier epoch")
	}
	if string(hb.Instance) == string(prev.Instance) {
		if hb.Sequence <= prev.Sequence {
			return problem.New("heartbeat-old", "heartbeat: number %d after %d", hb.Sequence, prev.Sequence)
		}
		return nil
	}
	for _, r := range prev.retired {
		if string(r[:]) == string(hb.Instance) {
			return problem.New("heartbeat-old", "heartbeat: of an earlier run")
		}
	}
	return nil
}

// Watch keeps the last verified heartbeat of each of a list of slots.
type Watch struct {
	cfg  WatchConfig
	book *book
	stop func()

	mu   sync.Mutex
	seen map[canon.Hash]*sighting
}

// WatchConfig is what a Watch listens for.
type WatchConfig struct {
	Conn  *Conn
	Grid  canon.Hash
	Slots []canon.Hash
	Bound Bound
	// On is called for each heartbeat that counts; it must be quick. May be nil.
	On     func(Heartbeat)
	Logger *slog.Logger
	Now    func() time.Time
}

// watchFresh is how long a binding that was read is used for heartbeats.
const watchFresh = 30 * time.Second

// NewWatch starts to listen. The caller ends it with Stop.
func NewWatch(cfg WatchConfig) (*Watch, error) {
	if cfg.Conn == nil || cfg.Bound == nil || cfg.Grid.IsZero() {
		return nil, errors.New("watch heartbeats: connection, grid and bindings are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	w := &Watch{cfg: cfg, book: newBook(cfg.Bound), seen: map[canon.Hash]*sighting{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wanted := map[string]canon.Hash{}
	for _, s := range cfg.Slots {
		wanted[HeartbeatSubject(s)] = s
	}
	put := queue(ctx, &wg, queueDepth, 1, func(m message) { w.take(ctx, wanted[m.subject], m.data) })
	unsubscribe := cfg.Conn.subscribe(subjectHeartbeat+"*", func(m message) {
		if _, ok := wanted[m.subject]; ok {
			put(m) // no room: the next one comes in ten seconds
		}
	})
	w.stop = sync.OnceFunc(func() {
		unsubscribe()
		cancel()
		wg.Wait()
	})
	return w, nil
}

// Stop ends the watch.
func (w *Watch) Stop() { w.stop() }

// Last returns the newest heartbeat that counted and when it came, by our clock.
func (w *Watch) Last(slot canon.Hash) (Heartbeat, time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.seen[slot]
	if s == nil {
		return Heartbeat{}, time.Time{}, false
	}
	return s.Heartbeat, s.at, true
}

// take verifies one heartbeat; only the watch's goroutine calls it.
func (w *Watch) take(ctx context.Context, slot canon.Hash, data []byte) {
	hb, err := w.verify(ctx, slot, data)
	now := w.cfg.Now()
	if err == nil {
		w.mu.Lock()
		err = newer(w.seen[slot], hb, now)
		w.mu.Unlock()
	}
	if err != nil {
		w.cfg.Logger.Debug("heartbeat refused", "slot", slot.Short(), "error", err)
		return
	}
	w.mu.Lock()
	s := &sighting{Heartbeat: hb, at: now}
	if prev := w.seen[slot]; prev != nil {
		s.retired = prev.retired
		if string(prev.Instance) != string(hb.Instance) {
			s.retired = append(s.retired, [NonceSize]byte(prev.Instance))
			s.retired = s.retired[max(0, len(s.retired)-retiredMost):]
		}
	}
	w.seen[slot] = s
	w.mu.Unlock()
	if w.cfg.On != nil {
		w.cfg.On(hb)
	}
}

// verify judges by what was known of the slot's key, and if that does not fit by
// what the ledger says now.
func (w *Watch) verify(ctx context.Context, slot canon.Hash, data []byte) (Heartbeat, error) {
	known, err := w.book.read(ctx, slot, watchFresh, false)
	if err != nil {
		return Heartbeat{}, err
	}
	hb, err := openHeartbeat(w.cfg.Grid, slot, known, data)
	if code(err) != "node-rekeyed" {
		return hb, err
	}
	now, rerr := w.book.again(ctx, slot, false)
	if rerr != nil || now.same(known) {
		return Heartbeat{}, err
	}
	return openHeartbeat(w.cfg.Grid, slot, now, data)
}
