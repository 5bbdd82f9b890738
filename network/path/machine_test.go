package path

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWhichRoutersLetADirectPathThrough(t *testing.T) {
	public := func() *nat { return &nat{none: true} }
	cone := func() *nat { return &nat{} } // filters by address and port, as Linux does
	open := func() *nat { return &nat{open: true} }
	symmetric := func() *nat { return &nat{symmetric: true} }
	for _, c := range []struct {
		name   string
		a, b   func() *nat
		direct bool
	}{
		{"both public", public, public, true},
		{"one behind a cone", cone, public, true},
		{"both behind cones", cone, cone, true},
		{"both behind open cones", open, open, true},
		// A node's own filter admits answers only, and it can't ask an outside
		// address that it has never heard of.
		{"symmetric and public", symmetric, public, false},
		{"symmetric and open cone", symmetric, open, true},
		{"symmetric and cone", symmetric, cone, false},
		{"both symmetric", symmetric, symmetric, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.a(), c.b())
			w.meet()
			if c.direct {
				if took := w.until("direct", 10*time.Second, w.direct); took > 3*time.Second {
					t.Errorf("direct after %v", took)
				}
				w.run(10 * time.Minute)
				if n := len(w.a.paths) + len(w.b.paths); !w.direct() || n != 2 {
					t.Errorf("direct %v after ten minutes with %d changes", w.direct(), n)
				}
				return
			}
			w.run(10 * time.Minute)
			if !w.relay() || len(w.a.paths)+len(w.b.paths) != 0 {
				t.Errorf("on %v and %v, want the relay", w.a.path, w.b.path)
			}
			// It still tries, and not often.
			before := w.pings
			w.run(5 * time.Minute)
			if n := w.pings - before; n == 0 || n > 200 {
				t.Errorf("%d pings in five minutes", n)
			}
		})
	}
}

func TestSilentPathIsLeftAndFoundAgain(t *testing.T) {
	w := newWorld(t, &nat{}, &nat{})
	w.meet()
	w.until("direct", 5*time.Second, w.direct)
	w.run(5 * time.Second)
	w.cut = true
	traffic := func() bool {
		w.a.m.Traffic(w.now)
		return w.relay()
	}
	if took := w.until("relay", 10*time.Second, traffic); took > 3*time.Second {
		t.Errorf("on the relay %v after the cut", took)
	}
	w.run(time.Minute)
	w.cut = false
	if took := w.until("direct again", 3*time.Minute, w.direct); took > 130*time.Second {
		t.Errorf("direct %v after the repair", took)
	}
}

// Only one direction is cut: the side that still hears must leave the path too.
func TestOneSideCutBringsBothToTheRelay(t *testing.T) {
	w := newWorld(t, &nat{}, &nat{})
	w.meet()
	w.until("direct", 5*time.Second, w.direct)
	w.oneWay = true
	w.until("relay", 10*time.Second, func() bool { w.a.m.Traffic(w.now); return w.relay() })
	w.run(30 * time.Second)
	if !w.relay() {
		t.Errorf("back on %v and %v over a path that carries one way", w.a.path, w.b.path)
	}
}

// Who did not get a ping can't know what answers it.
func TestIDsOfPingsAreNotFoundByCounting(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	at := netip.MustParseAddrPort("198.51.100.7:1")
	m := NewMachine(Timing{})
	var ids []uint64
	for _, e := range append(m.Told(now, Tell{Number: 1, Candidates: []Candidate{{Global, at}}}), m.Tick(now.Add(burstStep))...) {
		if e.Op == OpPing {
			ids = append(ids, e.ID)
		}
	}
	if len(ids) < 2 || ids[1]-ids[0] < 1<<16 || ids[0]-ids[1] < 1<<16 {
		t.Errorf("pings have the ids %d", ids)
	}
}

// A path that swallows large packets, be it in one direction, is not taken, and one
// that begins to is left.
func TestPathThatSwallowsLargePacketsIsNotTaken(t *testing.T) {
	w := newWorld(t, &nat{}, &nat{})
	w.hole = true
	w.meet()
	w.run(time.Minute)
	if !w.relay() || w.a.paths != nil || w.b.paths != nil {
		t.Errorf("took %v and %v", w.a.paths, w.b.paths)
	}
	w.hole = false
	w.until("direct", 3*time.Minute, w.direct)
	w.hole = true
	w.until("relay", 10*time.Second, func() bool { w.a.m.Traffic(w.now); return w.relay() })
}

func TestRestingPathIsKeptOpen(t *testing.T) {
	w := newWorld(t, &nat{}, &nat{})
	w.meet()
	w.until("direct", 5*time.Second, w.direct)
	w.run(time.Minute)
	before := w.pings
	w.run(10 * time.Minute)
	// Routers forget after 30 s: each side at least every 25 s. The rest looks for a
	// path on one LAN.
	if n := w.pings - before; n < 2*600/25 || n > 200 {
		t.Errorf("%d pings in ten minutes of rest", n)
	}
}

func TestMovedNodeIsOnTheRelayAtOnceAndThenDirect(t *testing.T) {
	w := newWorld(t, &nat{}, &nat{none: true})
	w.meet()
	w.until("direct", 5*time.Second, w.direct)
	w.run(3 * time.Second)
	w.carry()
	w.a.do(w.a.m.Moved(w.now))
	if w.a.path.IsValid() {
		t.Errorf("still on %v", w.a.path)
	}
	if took := w.until("peer on the relay", time.Second, func() bool { return !w.b.path.IsValid() }); took > 2*relayDelay {
		t.Errorf("the peer left the path after %v", took)
	}
	if took := w.until("direct", 5*time.Second, w.direct); took > 3*time.Second {
		t.Errorf("direct after %v", took)
	}
	if got := w.b.path.Addr(); got != w.a.nat.outside {
		t.Errorf("the peer sends to %v", got)
	}
}

// A node that moves loses its relay too, for a moment, and with it what it tells.
func TestWhatWasLostWithTheRelayIsToldAgain(t *testing.T) {
	w := newWorld(t, &nat{}, &nat{none: true})
	w.meet()
	w.until("direct", 5*time.Second, w.direct)
	w.run(3 * time.Second)
	w.carry()
	w.a.do(slices.DeleteFunc(w.a.m.Moved(w.now), func(e Effect) bool { return e.Op == OpTell }))
	w.run(2 * relayDelay)
	if !w.b.path.IsValid() {
		t.Fatal("the peer knows of the move without having been told")
	}
	w.a.do(w.a.m.Rejoined(w.now))
	if took := w.until("peer on the relay", time.Second, func() bool { return !w.b.path.IsValid() }); took > 2*relayDelay {
		t.Errorf("the peer left the path after %v", took)
	}
	w.until("direct", 5*time.Second, w.direct)
	// A relay that comes and goes disturbs no direct path.
	if out := w.a.m.Rejoined(w.now); len(out) != 0 {
		t.Errorf("on a direct path: %v", out)
	}
}

func TestLocalPathIsPreferred(t *testing.T) {
	w := newWorld(t, &nat{none: true}, &nat{none: true})
	w.meet()
	w.until("direct", 5*time.Second, w.direct)
	// Both have an address on one LAN, told later.
	lanA, lanB := netip.MustParseAddrPort("192.168.5.1:1000"), netip.MustParseAddrPort("192.168.5.2:2000")
	m := w.a.m
	w.a.do(m.Told(w.now, Tell{Number: 99, Candidates: Normal([]Candidate{{Private, lanB}, {Global, w.b.inside}})}))
	w.run(2 * burstStep)
	var id uint64
	for i := range m.pending {
		if m.pending[i].to == lanB {
			id = m.pending[i].id
		}
	}
	if id == 0 {
		t.Fatal("the new address is not tried")
	}
	w.a.do(m.Pong(w.now, lanB, id))
	w.a.do(m.Pong(w.now, lanB, m.lastID)) // of the full ping that this caused
	if w.a.path != lanB {
		t.Errorf("on %v, want %v; own %v", w.a.path, lanB, lanA)
	}
}

func TestAnswersFromElsewhereDoNotCount(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	good, bad := netip.MustParseAddrPort("198.51.100.7:1"), netip.MustParseAddrPort("198.51.100.8:1")
	m := NewMachine(Timing{})
	var id uint64
	for _, e := range m.Told(now, Tell{Number: 1, Candidates: []Candidate{{Global, good}}}) {
		if e.Op == OpPing {
			id = e.ID
		}
	}
	for name, out := range map[string][]Effect{
		"from another address": m.Pong(now, bad, id),
		"of an unknown ping":   m.Pong(now, good, id+100),
		"of no ping":           m.Pong(now, bad, 0),
	} {
		if len(out) != 0 {
			t.Errorf("pong %s: %v", name, out)
		}
	}
	out := m.Pong(now, good, id)
	if len(out) != 1 || out[0].Addr != good || out[0].Op != OpPing || !out[0].Full {
		t.Errorf("the true pong: %v", out)
	}
	if out := m.Pong(now, good, out[0].ID); len(out) != 1 || out[0].Addr != good || out[0].Op != OpPath {
		t.Errorf("the pong of the full ping: %v", out)
	}
	if out := m.Pong(now, good, id); len(out) != 0 {
		t.Errorf("a pong twice: %v", out)
	}
}

func TestLateTellsChangeNothing(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := NewMachine(Timing{})
	m.Told(now, Tell{Number: 5, Candidates: []Candidate{{Global, netip.MustParseAddrPort("198.51.100.7:1")}}})
	for _, n := range []uint64{0, 4, 5} {
		if out := m.Told(now, Tell{Number: n, Relay: true}); len(out) != 0 || len(m.targets) != 1 {
			t.Errorf("a tell numbered %d: %v", n, out)
		}
	}
}

func TestUnstablePathIsTakenLessAndLess(t *testing.T) {
	w := newWorld(t, &nat{none: true}, &nat{none: true})
	w.meet()
	// A path that lets pings through for two seconds, then not for two.
	for range 150 {
		w.run(2 * time.Second)
		w.a.m.Traffic(w.now)
		w.b.m.Traffic(w.now)
		w.cut = !w.cut
	}
	if n := len(w.a.paths); n > 60 {
		t.Errorf("%d changes of path in ten minutes", n)
	}
}

// The rules that hold whatever happens, in whatever order.
func TestMachineKeepsItsRules(t *testing.T) {
	addrs := make([]netip.AddrPort, 30)
	for i := range addrs {
		addrs[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)}), uint16(i+1))
	}
	addrs[0] = netip.MustParseAddrPort("127.0.0.1:5")
	addrs[1] = netip.MustParseAddrPort("[fe80::1]:5")
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_800_000_000, 0)
		m := NewMachine(Timing{})
		asked := map[uint64]netip.AddrPort{} // pings since the last return to the relay by moving
		full := map[uint64]bool{}
		var path netip.AddrPort
		var ponged netip.AddrPort
		pings, begin := 0, now
		addr := rapid.SampledFrom(addrs)
		take := func(out []Effect) {
			for _, e := range out {
				switch e.Op {
				case OpPing:
					if !Usable(e.Addr) {
						t.Fatalf("pings %v", e.Addr)
					}
					asked[e.ID], full[e.ID] = e.Addr, e.Full
					pings++
				case OpPath:
					if e.Addr.IsValid() && e.Addr != ponged {
						t.Fatalf("takes %v, which did not answer; %v did", e.Addr, ponged)
					}
					if e.Addr == path {
						t.Fatalf("takes %v again", e.Addr)
					}
					path = e.Addr
				}
			}
			ponged = netip.AddrPort{}
			if st, at, _ := m.State(); (st == Direct) != path.IsValid() || at != path {
				t.Fatalf("state %v at %v, path is %v", st, at, path)
			}
			if len(m.targets) > MaxCandidates+maxLearned+1 || len(m.pending) > maxPending {
				t.Fatalf("%d targets, %d pending", len(m.targets), len(m.pending))
			}
			if m.Next().IsZero() && len(m.targets) > 0 && m.current == nil {
				t.Fatal("gave up")
			}
		}
		number := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "d")))
				take(m.Tick(now))
			},
			"relay": func(*rapid.T) { take(m.Rejoined(now)) },
			"next": func(*rapid.T) {
				if n := m.Next(); n.After(now) {
					now = n
				}
				take(m.Tick(now))
			},
			"tell": func(t *rapid.T) {
				var cs []Candidate
				for _, a := range rapid.SliceOfN(addr, 0, 20).Draw(t, "addrs") {
					cs = append(cs, Candidate{Kind(rapid.IntRange(1, 3).Draw(t, "kind")), a})
				}
				number += rapid.Uint64Range(0, 2).Draw(t, "n")
				take(m.Told(now, Tell{Number: number, Relay: rapid.Bool().Draw(t, "relay"), Punch: rapid.Bool().Draw(t, "punch"), Candidates: Normal(cs)}))
			},
			"pong": func(t *rapid.T) {
				id := uint64(7) // of no ping
				if known := slices.Sorted(maps.Keys(asked)); len(known) > 0 && rapid.Bool().Draw(t, "known") {
					id = known[rapid.IntRange(0, len(known)-1).Draw(t, "which")]
				}
				from := addr.Draw(t, "from")
				if rapid.Bool().Draw(t, "true") {
					if to, ok := asked[id]; ok {
						from = to
					}
				}
				if asked[id] == from && full[id] {
					ponged = from
				}
				take(m.Pong(now, from, id))
			},
			"ping":     func(t *rapid.T) { take(m.Ping(now, addr.Draw(t, "from"), 7, rapid.Bool().Draw(t, "full"))) },
			"traffic":  func(*rapid.T) { m.Traffic(now) },
			"moved":    func(*rapid.T) { take(m.Moved(now)); clear(asked) },
			"announce": func(*rapid.T) { take(m.Announce(now)) },
			"": func(t *rapid.T) {
				limit := 100 + (MaxCandidates+maxLearned+1)*(2+int(now.Sub(begin)/burstStep*2))
				if pings > limit {
					t.Fatalf("%d pings in %v", pings, now.Sub(begin))
				}
			},
		})
	})
}
