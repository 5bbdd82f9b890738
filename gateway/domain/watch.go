package domain

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// How often a proof is looked at, and how long one that stood is kept.
const (
	MinInterval = time.Minute
	MaxInterval = time.Hour
	Again       = 5 * time.Minute // after an answer that does not prove it any more
	Keep        = 24 * time.Hour  // while nobody answers

	maxAtOnce = 16
)

// Claim is a domain that a group says is its own.
type Claim struct {
	Statement
	Members contract.Group
	Keys    map[canon.Hash]sign.PublicKey // by account
	// Good is when it was last seen to be proven, as far as the caller remembers;
	// zero: never.
	Good time.Time
}

// State is what is known of a claim.
type State struct {
	Proven  bool
	Good    time.Time // last seen to be proven; zero: never
	Doubt   time.Time // since when answers don't prove it; zero: they do, or none came
	Checked time.Time // last look; zero: none yet
	Next    time.Time // the next one
	Error   string    // of the last look, "" if it went well
	Code    string
}

// Judge returns the state after a look at time now that ended with err (nil: it is
// proven), where answered says that the names' servers did answer, and ttl is how
// long their answer holds.
//
// Nobody answers: what was proven stays so for Keep. An answer proves it no more: it
// stays so until a second answer, at least Again later, says the same; a record that
// somebody edits is not there for a moment.
func Judge(s State, now time.Time, answered bool, ttl time.Duration, err error) State {
	s.Checked = now
	s.Error, s.Code = "", ""
	if err == nil {
		return State{Proven: true, Good: now, Checked: now, Next: now.Add(max(MinInterval, min(ttl, MaxInterval)))}
	}
	s.Error, s.Code = err.Error(), problem.Code(err)
	s.Next = now.Add(Again)
	if answered {
		if s.Doubt.IsZero() {
			s.Doubt = now
		} else if now.Sub(s.Doubt) >= Again {
			s.Proven = false
		}
	}
	if s.Good.IsZero() || now.Sub(s.Good) >= Keep {
		s.Proven = false
	}
	return s
}

// WatchOptions are what a Watch is made with.
type WatchOptions struct {
	Resolver Resolver
	Now      func() time.Time // nil: the system's
	After    func(time.Duration) <-chan time.Time
	// Changed is called after a claim's Proven has changed; nil: nobody is told.
	Changed func(Statement, State)
}

// Watch looks claims up again and again.
type Watch struct {
	o      WatchOptions
	mu     sync.Mutex
	claims map[Statement]*watched
	wake   chan struct{}
}

type watched struct {
	claim Claim
	state State
	busy  bool
}

// NewWatch makes a Watch; Run makes it work.
func NewWatch(o WatchOptions) *Watch {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.After == nil {
		o.After = time.After
	}
	if o.Changed == nil {
		o.Changed = func(Statement, State) {}
	}
	return &Watch{o: o, claims: map[Statement]*watched{}, wake: make(chan struct{}, 1)}
}

// Set replaces the claims. Those that stay keep their state.
func (w *Watch) Set(claims []Claim) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := map[Statement]*watched{}
	for _, c := range claims {
		x := w.claims[c.Statement]
		if x == nil {
			x = &watched{state: State{Good: c.Good, Proven: !c.Good.IsZero() && w.o.Now().Sub(c.Good) < Keep}}
		} else if x.claim.Members.Threshold != c.Members.Threshold || !slices.Equal(x.claim.Members.Members, c.Members.Members) {
			x.state.Next = time.Time{} // judged anew now
		}
		x.claim = c
		next[c.Statement] = x
	}
	w.claims = next
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// State returns what is known of a claim; zero: it is not watched.
func (w *Watch) State(s Statement) State {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.claims[s]; x != nil {
		st := x.state
		// Also between two looks it is not kept for longer.
		st.Proven = st.Proven && w.o.Now().Sub(st.Good) < Keep
		return st
	}
	return State{}
}

// Run looks until ctx ends, and returns when all looks have ended.
func (w *Watch) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{}, maxAtOnce)
	running := 0
	for {
		due, next := w.due(maxAtOnce - running)
		for _, x := range due {
			running++
			wg.Go(func() {
				w.look(ctx, x)
				done <- struct{}{}
			})
		}
		var timer <-chan time.Time
		if running < maxAtOnce && !next.IsZero() {
			timer = w.o.After(max(0, next.Sub(w.o.Now())))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-done:
			running--
		case <-w.wake:
		case <-timer:
		}
	}
}

func (w *Watch) due(n int) (due []*watched, next time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	waiting := []*watched{}
	for _, x := range w.claims {
		if !x.busy {
			waiting = append(waiting, x)
		}
	}
	slices.SortFunc(waiting, func(a, b *watched) int {
		if c := a.state.Next.Compare(b.state.Next); c != 0 {
			return c
		}
		return strings.Compare(a.claim.Domain, b.claim.Domain)
	})
	now := w.o.Now()
	for _, x := range waiting {
		if x.state.Next.After(now) || len(due) == n {
			return due, x.state.Next
		}
		x.busy = true
		due = append(due, x)
	}
	return due, time.Time{}
}

func (w *Watch) look(ctx context.Context, x *watched) {
	w.mu.Lock()
	c := x.claim
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 4*queryTime)
	defer cancel()
	answer, err := w.o.Resolver.Lookup(ctx, RecordName(c.Domain), dns.TypeTXT)
	answered := err == nil
	if err != nil {
		err = problem.New("domain-unreachable", "look for the proof of %s: %w", c.Domain, err).
			WithFix("nothing, if the name's servers come back within a day")
	} else {
		err = Verify(c.Statement, c.Members, c.Keys, answer.texts())
	}
	w.mu.Lock()
	before := x.state.Proven
	x.state = Judge(x.state, w.o.Now(), answered, answer.TTL, err)
	x.busy = false
	after := x.state
	w.mu.Unlock()
	if after.Proven != before {
		w.o.Changed(c.Statement, after)
	}
}
