package agent

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/zero-os/zos/canon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// play runs f with a world of n nodes in time of its own.
func play(t *testing.T, n int, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, n)
		defer w.stop()
		f(w)
		if w.zeroPSK > 0 {
			t.Errorf("%d times a peer was installed without a preshared key", w.zeroPSK)
		}
	})
}

func TestMeshConverges(t *testing.T) {
	play(t, 12, func(w *world) {
		w.boot()
		w.ensure()
		if took := w.until("all sessions", 5*time.Second, func() bool { return w.up(w.nodes...) }); took > 500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		w.mu.Lock()
		calls := w.calls
		w.mu.Unlock()
		// One exchange for each pair, but for those that began before the other
		// node had the network.
		if pairs := 12 * 11 / 2; calls > 2*pairs {
			t.Errorf("%d calls for %d pairs", calls, pairs)
		}
		w.until("direct paths", 3*time.Second, func() bool { return w.paths(PathDirect, w.nodes...) })
		for _, n := range w.nodes {
			for _, p := range n.status().Peers {
				if p.Code != "" || p.KeyEpoch == 0 || p.Handshake.IsZero() || p.PSK.IsZero() || p.NewestEpoch != p.KeyEpoch {
					t.Errorf("status of a peer that is well: %+v", p)
				}
			}
		}
	})
}

func TestNodeThatComesLaterIsFoundAtOnce(t *testing.T) {
	for _, late := range []int{0, 2} { // the lowest slot begins exchanges, the highest is called
		play(t, 3, func(w *world) {
			for i, n := range w.nodes {
				if i != late {
					n.boot()
					n.ensure(w.nodes...)
				}
			}
			time.Sleep(time.Hour) // the others' patience grew
			w.nodes[late].boot()
			w.nodes[late].ensure(w.nodes...)
			if took := w.until("the late node's sessions", 5*time.Second, func() bool { return w.up(w.nodes...) }); took > 500*time.Millisecond {
				t.Errorf("slot %d was found after %v", late, took)
			}
		})
	}
}

func TestRebootedNodeReturns(t *testing.T) {
	for _, which := range []int{0, 1, 2} {
		play(t, 3, func(w *world) {
			w.boot()
			w.ensure()
			w.until("all sessions", 5*time.Second, func() bool { return w.up(w.nodes...) })
			time.Sleep(7 * time.Minute)
			for range 5 {
				n := w.nodes[which]
				n.halt()
				time.Sleep(4 * time.Second)
				n.boot()
				n.ensure(w.nodes...)
				if took := w.until("sessions after a reboot", 10*time.Second, func() bool { return w.up(w.nodes...) }); took > time.Second {
					t.Errorf("slot %d returned after %v", which, took)
				}
			}
		})
	}
}

// psks returns the preshared keys that two nodes have for each other.
func psks(n, o *node) (a, b [32]byte) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	for _, d := range n.devices {
		for _, e := range o.devices {
			p, q := d.peers[e.PublicKey()], e.peers[d.PublicKey()]
			if p != nil && q != nil {
				return p.PresharedKey, q.PresharedKey
			}
		}
	}
	return
}

func TestPresharedKeysAreRenewed(t *testing.T) {
	play(t, 2, func(w *world) {
		w.boot()
		w.ensure()
		a, b := w.nodes[0], w.nodes[1]
		w.until("sessions", 5*time.Second, func() bool { return w.up(a, b) })
		last, _ := psks(a, b)
		seen := map[[32]byte]bool{last: true}
		for range 12 {
			time.Sleep(10*time.Minute + time.Second)
			x, y := psks(a, b)
			if x != y {
				t.Fatalf("the sides have different keys")
			}
			if seen[x] {
				t.Fatalf("after ten minutes the key is one of before")
			}
			seen[x] = true
			if !w.up(a, b) {
				t.Fatalf("no session after a renewal")
			}
		}
	})
}

func TestKeysThatCannotBeRenewedAreVoid(t *testing.T) {
	play(t, 2, func(w *world) {
		w.boot()
		w.ensure()
		a, b := w.nodes[0], w.nodes[1]
		w.until("sessions", 5*time.Second, func() bool { return w.up(a, b) })
		old, _ := psks(a, b)
		w.mu.Lock()
		w.messages = func(_, _ canon.Hash, _ []byte) ([][]byte, func([]byte) ([]byte, error)) { return nil, nil }
		w.mu.Unlock()
		time.Sleep(25 * time.Minute)
		if !w.up(a, b) {
			t.Error("the session ended before its keys were too old")
		}
		time.Sleep(9 * time.Minute)
		x, y := psks(a, b)
		if x == old || y == old || x == y || x == [32]byte{} || y == [32]byte{} {
			t.Errorf("after 34 minutes: old key %v %v, both the same %v", x == old, y == old, x == y)
		}
		if w.up(a, b) {
			t.Error("a session goes on without renewed keys")
		}
		for _, p := range []PeerStatus{a.peer(b), b.peer(a)} {
			if p.Code != "psk-expired" || !p.PSK.IsZero() {
				t.Errorf("status: %+v", p)
			}
		}
		w.mu.Lock()
		w.messages = nil
		w.mu.Unlock()
		w.until("sessions when the messenger is back", time.Minute, func() bool { return w.up(a, b) })
	})
}

func TestKeysRotateWithoutAGap(t *testing.T) {
	play(t, 3, func(w *world) {
		w.boot()
		w.ensure()
		w.until("sessions", 5*time.Second, func() bool { return w.up(w.nodes...) })
		first := w.nodes[0].status()
		most := 0
		begin := time.Now()
		for time.Since(begin) < 49*time.Hour {
			// Closely around changes, loosely else.
			step := 30 * time.Second
			for _, n := range w.nodes {
				if len(n.status().Devices) > 1 {
					step = 200 * time.Millisecond
				}
				most = max(most, len(n.status().Devices))
			}
			time.Sleep(step)
			synctest.Wait()
			if !w.up(w.nodes...) {
				for _, n := range w.nodes {
					t.Logf("%+v", n.status())
				}
				t.Fatalf("no session after %v", time.Since(begin))
			}
		}
		last := w.nodes[0].status()
		if last.KeyEpoch != first.KeyEpoch+2 || most != 2 || len(last.Devices) != 1 {
			t.Errorf("after two days key epoch %d, at first %d; at most %d devices, now %d", last.KeyEpoch, first.KeyEpoch, most, len(last.Devices))
		}
		if last.Devices[0].PublicKey == first.Devices[0].PublicKey {
			t.Error("the key is the same")
		}
	})
}

func TestClocksThatDifferRotateTogether(t *testing.T) {
	play(t, 3, func(w *world) {
		w.nodes[0].skew, w.nodes[2].skew = -100*time.Second, 100*time.Second
		w.boot()
		w.ensure()
		w.until("sessions", 5*time.Second, func() bool { return w.up(w.nodes...) })
		for range 25 * 60 {
			time.Sleep(time.Minute)
			synctest.Wait()
			if !w.up(w.nodes...) {
				t.Fatal("no session")
			}
		}
		e := w.nodes[0].status().KeyEpoch
		for _, n := range w.nodes {
			if s := n.status(); s.KeyEpoch != e || len(s.Devices) != 1 {
				t.Errorf("key epoch %d with %d devices, another node has %d", s.KeyEpoch, len(s.Devices), e)
			}
		}
	})
}

func TestDirectPathsComeAndGo(t *testing.T) {
	play(t, 2, func(w *world) {
		w.cutUDP = true
		w.boot()
		w.ensure()
		a, b := w.nodes[0], w.nodes[1]
		w.until("sessions by relay", time.Second, func() bool { return w.up(a, b) })
		if !w.paths(PathRelay, a, b) {
			t.Fatal("direct without a way")
		}
		set := func(cut bool) { w.mu.Lock(); w.cutUDP = cut; w.mu.Unlock() }
		time.Sleep(time.Hour)
		set(false)
		w.until("direct", 5*time.Minute, func() bool { return w.paths(PathDirect, a, b) })
		set(true)
		w.until("relay", 20*time.Second, func() bool { return w.paths(PathRelay, a, b) && w.up(a, b) })
		set(false)
		w.until("direct again", time.Minute, func() bool { return w.paths(PathDirect, a, b) && w.up(a, b) })
		// A roaming node carries on by the relay until the new address is proven.
		set(true)
		a.move("198.51.100.200")
		if took := w.until("relay", time.Second, func() bool { return w.up(a, b) && w.paths(PathRelay, a, b) }); took > 100*time.Millisecond {
			t.Errorf("on the relay %v after moving", took)
		}
		set(false)
		w.until("direct by the new address", 3*time.Second, func() bool {
			return w.paths(PathDirect, a, b) && b.peer(a).Address.Addr() == netip.MustParseAddr("198.51.100.200")
		})
		// Rekeying and renewals keep the path.
		for range 60 {
			time.Sleep(time.Minute)
			synctest.Wait()
			if !w.paths(PathDirect, a, b) || !w.up(a, b) {
				t.Fatal("the direct path was lost without need")
			}
		}
	})
}

func TestRelayOnlyNodesSendNoDatagram(t *testing.T) {
	play(t, 3, func(w *world) {
		w.nodes[0].only = true
		w.boot()
		w.ensure()
		a := w.nodes[0]
		w.until("sessions", time.Second, func() bool { return w.up(w.nodes...) })
		time.Sleep(30 * time.Minute)
		if !w.up(w.nodes...) || !w.paths(PathRelay, a, w.nodes[1]) || !w.paths(PathRelay, a, w.nodes[2]) {
			t.Error("not all are on the relay")
		}
		if !w.paths(PathDirect, w.nodes[1], w.nodes[2]) {
			t.Error("the others have no direct path")
		}
		if s := a.status(); s.Devices[0].Port != 0 || len(s.Devices[0].Observed) > 0 {
			t.Errorf("device: %+v", s.Devices[0])
		}
	})
}

func TestRelayThatComesLateIsUsedAtOnce(t *testing.T) {
	play(t, 2, func(w *world) {
		a, b := w.nodes[0], w.nodes[1]
		silent := func(_, _ canon.Hash, _ []byte) ([][]byte, func([]byte) ([]byte, error)) { return nil, nil }
		set := func(cut bool) {
			w.mu.Lock()
			w.cutRelay, w.messages = cut, nil
			if cut {
				w.messages = silent
			}
			w.mu.Unlock()
		}
		set(true)
		w.boot()
		w.ensure()
		time.Sleep(10 * time.Minute)
		set(false)
		a.agent.RelayChanged()
		b.agent.RelayChanged()
		if took := w.until("sessions", 10*time.Second, func() bool { return w.up(a, b) }); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// Whenever packets begin to wait, on one side or on both, one side alone asks for
// the first handshake, so that none waits for WireGuard to ask again. It is the
// one that begins exchanges, the lower slot.
func TestFirstHandshakesDoNotCollide(t *testing.T) {
	// By a slow relay, a direct path is there before the handshake.
	for _, relayDelay := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 200 * time.Millisecond} {
		for _, talks := range [][]int{{0}, {1}, {0, 1}} {
			for at := time.Duration(0); at < relayDelay+50*time.Millisecond; at += max(time.Millisecond, relayDelay/50) {
				play(t, 2, func(w *world) {
					a, b := w.nodes[0], w.nodes[1]
					talk := func() {
						for _, i := range talks {
							w.nodes[i].talk()
						}
					}
					w.relayDelay = relayDelay
					w.boot()
					if at == 0 {
						talk() // before there is a network
					}
					w.ensure()
					time.Sleep(at)
					talk()
					if took := w.until("sessions", 10*time.Second, func() bool { return w.up(a, b) }); took > time.Second {
						t.Errorf("relay %v, %v talk from %v on: sessions after %v", relayDelay, talks, at, took)
					}
					time.Sleep(time.Minute)
					w.mu.Lock()
					defer w.mu.Unlock()
					if a.asked != 1 || b.asked != 0 {
						t.Errorf("relay %v, %v talk from %v on: the nodes asked %d and %d times", relayDelay, talks, at, a.asked, b.asked)
					}
				})
			}
		}
	}
}

// Nor do they when answers are lost, and the exchange that succeeds ends just when
// the responder's WireGuard asks again.
func TestHandshakesAfterLostAnswersDoNotCollide(t *testing.T) {
	const lost = 3
	for call := rekeyTimeout - 20*time.Millisecond; call < rekeyTimeout+20*time.Millisecond; call += time.Millisecond {
		play(t, 2, func(w *world) {
			a, b := w.nodes[0], w.nodes[1]
			a.periods = Periods{Call: call, Retry: time.Millisecond}
			answers := 0
			w.messages = func(_, _ canon.Hash, body []byte) ([][]byte, func([]byte) ([]byte, error)) {
				return [][]byte{body}, func(b []byte) ([]byte, error) {
					if answers++; answers <= lost {
						return nil, nil
					}
					return b, nil
				}
			}
			a.talk()
			b.talk()
			w.boot()
			w.ensure()
			if took := w.until("sessions", time.Minute, func() bool { return w.up(a, b) }); took < lost*call || took > lost*call+time.Second {
				t.Errorf("sessions after %v, though %d answers awaited for %v were lost", took, lost, call)
			}
		})
	}
}
