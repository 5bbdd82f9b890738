package domain

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/zero-os/zos/problem"
)

func TestJudgementOfProofs(t *testing.T) {
	t0 := time.Unix(1e9, 0)
	bad := problem.New("domain-unproven", "no record")
	proven := State{Proven: true, Good: t0}
	doubted := State{Proven: true, Good: t0, Doubt: t0.Add(time.Hour)}
	for _, c := range []struct {
		name     string
		before   State
		after    time.Duration // since t0
		answered bool
		ttl      time.Duration
		err      error
		proven   bool
		next     time.Duration
	}{
		{"first, proven", State{}, 0, true, 10 * time.Minute, nil, true, 10 * time.Minute},
		{"first, short-lived", State{}, 0, true, time.Second, nil, true, MinInterval},
		{"first, long-lived", State{}, 0, true, 48 * time.Hour, nil, true, MaxInterval},
		{"first, not proven", State{}, 0, true, time.Hour, bad, false, Again},
		{"first, silence", State{}, 0, false, 0, bad, false, Again},
		{"silence for an hour", proven, time.Hour, false, 0, bad, true, Again},
		{"silence for almost a day", proven, Keep - time.Second, false, 0, bad, true, Again},
		{"silence for a day", proven, Keep, false, 0, bad, false, Again},
		{"first answer that takes it back", proven, time.Hour, true, 0, bad, true, Again},
		{"too soon a second one", doubted, time.Hour + Again - time.Second, true, 0, bad, true, Again},
		{"a second one", doubted, time.Hour + Again, true, 0, bad, false, Again},
		{"silence after the first", doubted, time.Hour + Again, false, 0, bad, true, Again},
		{"proven again", doubted, time.Hour + Again, true, time.Minute, nil, true, MinInterval},
		{"lost, then proven", State{Good: t0, Doubt: t0}, 48 * time.Hour, true, time.Hour, nil, true, time.Hour},
		{"lost stays lost", State{Good: t0, Doubt: t0.Add(time.Minute)}, 2 * time.Hour, false, 0, bad, false, Again},
	} {
		now := t0.Add(c.after)
		got := Judge(c.before, now, c.answered, c.ttl, c.err)
		if got.Proven != c.proven || got.Next.Sub(now) != c.next || (got.Error == "") != (c.err == nil) || got.Checked != now {
			t.Errorf("%s: %+v", c.name, got)
		}
		if c.err == nil && (!got.Doubt.IsZero() || got.Good != now) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// fakeDNS answers from a table; a nil answer is silence.
type fakeDNS struct {
	mu      sync.Mutex
	answers map[string]*Answer
	asked   map[string]int
}

func (f *fakeDNS) Lookup(_ context.Context, name string, kind uint16) (Answer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := name + " " + dns.TypeToString[kind]
	if f.asked == nil {
		f.asked = map[string]int{}
	}
	f.asked[key]++
	a, ok := f.answers[key]
	if !ok {
		return Answer{Absent: f.answers[name+" *"] == nil}, nil
	}
	if a == nil {
		return Answer{}, errors.New("nobody\x1b answers")
	}
	return *a, nil
}

func (f *fakeDNS) set(key string, a *Answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[key] = a
}

func TestNameIsLostADayAfterItsServersFellSilent(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	x := newTeam(t)
	s := x.statement()
	good := &Answer{Records: []dns.RR{&dns.TXT{Txt: split(x.text(t, s, x.sig(t, s, x.members[0]), x.sig(t, s, x.members[1])))}}, TTL: 10 * time.Minute}
	f := &fakeDNS{answers: map[string]*Answer{"_zos.shop.example TXT": good}}
	now := time.Unix(1e9, 0)
	var mu sync.Mutex
	timers := make(chan chan time.Time, 100)
	changes := make(chan bool, 10)
	w := NewWatch(WatchOptions{
		Resolver: f, Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now },
		After:   func(time.Duration) <-chan time.Time { c := make(chan time.Time, 1); timers <- c; return c },
		Changed: func(_ Statement, s State) { changes <- s.Proven },
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = w.Run(ctx) }()
	w.Set([]Claim{{Statement: s, Members: x.group, Keys: x.keys}})
	wait := func() chan time.Time { // until nothing is under way any more
		t.Helper()
		for {
			select {
			case c := <-timers:
				if st := w.State(s); !st.Checked.IsZero() && st.Checked.Equal(w.o.Now()) {
					return c
				}
			case <-time.After(10 * time.Second):
				t.Fatal("it does not go on")
			}
		}
	}
	timer := wait()
	step := func(d time.Duration) State {
		t.Helper()
		mu.Lock()
		now = now.Add(d)
		mu.Unlock()
		timer <- now
		timer = wait()
		return w.State(s)
	}
	if st := w.State(s); !st.Proven || st.Next.Sub(w.o.Now()) != 10*time.Minute || !<-changes {
		t.Fatalf("%+v", st)
	}
	f.set("_zos.shop.example TXT", nil)
	if st := step(10 * time.Minute); !st.Proven || st.Code != "domain-unreachable" {
		t.Errorf("%+v", st)
	}
	if st := step(23 * time.Hour); !st.Proven {
		t.Errorf("after 23 hours: %+v", st)
	}
	if st := step(time.Hour); st.Proven || <-changes {
		t.Errorf("after a day: %+v", st)
	}
	f.set("_zos.shop.example TXT", good)
	if st := step(Again); !st.Proven || !<-changes || st.Error != "" {
		t.Errorf("%+v", st)
	}
	// The group raises its threshold: the proof is judged anew at once.
	g := x.group
	g.Threshold = 5
	w.Set([]Claim{{Statement: s, Members: g, Keys: x.keys}})
	timer = wait()
	if st := step(Again); st.Proven || <-changes || st.Code != "domain-unproven" {
		t.Errorf("%+v", st)
	}
	cancel()
	<-ended
	if w.State(Statement{}) != (State{}) {
		t.Error("what is not watched has a state")
	}
	goleak.VerifyNone(t, ignore)
}

func TestRememberedProofIsServedWhileItIsYoung(t *testing.T) {
	x := newTeam(t)
	now := time.Unix(1e9, 0)
	w := NewWatch(WatchOptions{Resolver: &fakeDNS{}, Now: func() time.Time { return now }})
	claim := Claim{Statement: x.statement(), Members: x.group, Keys: x.keys, Good: now.Add(-time.Hour)}
	w.Set([]Claim{claim})
	if !w.State(claim.Statement).Proven {
		t.Error("a proof an hour old is forgotten")
	}
	now = now.Add(Keep)
	if w.State(claim.Statement).Proven {
		t.Error("it is kept for ever")
	}
}

// split cuts a text as name servers keep it.
func split(s string) (out []string) {
	for len(s) > 255 {
		out, s = append(out, s[:255]), s[255:]
	}
	return append(out, s)
}
