package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network/exchange"
	"github.com/zero-os/zos/network/path"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
)

// A messenger that drops, repeats, reorders and alters: at any moment both sides
// have the same key for each other, or a session from before; never one that was
// there before a newer one.
func TestBadMessengerBringsNoOldKeyBack(t *testing.T) {
	play(t, 3, func(w *world) {
		rng := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		var heard [][]byte
		w.messages = func(_, _ canon.Hash, body []byte) ([][]byte, func([]byte) ([]byte, error)) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, bytes.Clone(body))
			old := heard[rng.IntN(len(heard))]
			alter := func(b []byte) []byte {
				b = bytes.Clone(b)
				if len(b) > 0 {
					b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
				}
				return b
			}
			same := func(b []byte) ([]byte, error) { return b, nil }
			switch rng.IntN(8) {
			case 0:
				return nil, same // dropped on the way there
			case 1: // dropped on the way back: the responder has keys that the initiator has not
				return [][]byte{body}, func([]byte) ([]byte, error) { return nil, nil }
			case 2:
				return [][]byte{old, body}, same
			case 3:
				return [][]byte{body, old}, same
			case 4:
				return [][]byte{alter(body)}, same
			case 5:
				return [][]byte{body}, func(b []byte) ([]byte, error) { return alter(b), nil }
			}
			return [][]byte{body}, same
		}
		for _, n := range w.nodes {
			n.periods = Periods{Renew: 20 * time.Second, MaxPSKAge: 2 * time.Minute}
		}
		w.boot()
		w.ensure()
		// The key in force at each side, in the order in which it came.
		type end struct{ n, o *node }
		history := map[end][][32]byte{}
		for range 20000 {
			time.Sleep(50 * time.Millisecond)
			synctest.Wait()
			for _, n := range w.nodes {
				for _, o := range w.nodes {
					if n == o {
						continue
					}
					key, _ := psks(n, o)
					h := history[end{n, o}]
					if len(h) > 0 && h[len(h)-1] == key {
						continue
					}
					if slices.Contains(h, key) && key != [32]byte{} {
						t.Fatal("a preshared key that was replaced is in force again")
					}
					history[end{n, o}] = append(h, key)
				}
			}
		}
		for e, h := range history {
			if len(h) < 20 {
				t.Errorf("%s has had only %d keys with %s", e.n.slot.Short(), len(h), e.o.slot.Short())
			}
		}
		w.mu.Lock()
		w.messages = nil
		w.mu.Unlock()
		w.until("sessions with an honest messenger", time.Minute, func() bool { return w.up(w.nodes...) })
	})
}

// ask calls n's agent as the node o would.
func (n *node) ask(o *node, own *exchange.Own, sequence uint64) error {
	tell := path.Tell{Number: sequence}
	raw, err := exchange.Ask(own, sequence, tell.Encode())
	if err != nil {
		n.w.t.Fatal(err)
	}
	_, err = n.handler(context.Background(), o.slot, raw)
	return err
}

func (n *node) bind(of *node, epoch uint64, key wireguard.Key) *exchange.Own {
	n.w.t.Helper()
	now := uint64(time.Now().Unix())
	own, err := exchange.Bind(context.Background(), of.signer, n.w.grid, exchange.Binding{
		Network: netID, Slot: of.slot, SlotEpoch: 1, KeyEpoch: epoch, WireGuard: key[:],
		Sequence: uint64(time.Now().UnixMicro()), Issued: now, Expiry: now + 3600,
	})
	if err != nil {
		n.w.t.Fatal(err)
	}
	return own
}

func TestWhoMayNotGetsNoKeys(t *testing.T) {
	play(t, 4, func(w *world) {
		a, b, c, stranger := w.nodes[0], w.nodes[1], w.nodes[2], w.nodes[3]
		for _, n := range []*node{a, b, c} {
			n.boot()
			n.ensure(a, b, c)
		}
		w.until("sessions", 5*time.Second, func() bool { return w.up(a, b, c) })
		epoch := b.status().KeyEpoch
		key := wireguard.NewPrivateKey().Public()
		at := func() uint64 { time.Sleep(time.Millisecond); return uint64(time.Now().UnixMicro()) }
		ownB := b.status().Devices[0].PublicKey
		keyC := c.status().Devices[0].PublicKey
		for _, x := range []struct {
			name string
			err  error
			want string
		}{
			{"a node that is not of the network", c.ask(stranger, c.bind(stranger, epoch, key), at()), "network-unknown"},
			{"a binding of another node", b.ask(a, b.bind(c, epoch, key), at()), "binding-refused"},
			{"an epoch long past", b.ask(a, b.bind(a, epoch-2, key), at()), "key-epoch-unknown"},
			{"an epoch to come", b.ask(a, b.bind(a, epoch+2, key), at()), "key-epoch-unknown"},
			{"the higher slot as initiator", a.ask(b, a.bind(b, epoch, key), at()), "exchange-refused"},
			{"this node's own WireGuard key", b.ask(a, b.bind(a, epoch, ownB), at()), "binding-refused"},
			{"another peer's WireGuard key", b.ask(a, b.bind(a, epoch, keyC), at()), "binding-refused"},
			{"a request from an hour ago", b.ask(a, b.bind(a, epoch, key), at()-3600e6), "exchange-stale"},
		} {
			if problem.Code(x.err) != x.want {
				t.Errorf("%s: %v, want code %s", x.name, x.err, x.want)
			}
		}
		for _, bad := range [][]byte{nil, {0}, make([]byte, 100000)} {
			if _, err := b.handler(context.Background(), a.slot, bad); problem.Code(err) != "exchange-refused" {
				t.Errorf("%d bytes: %v", len(bad), err)
			}
		}
		// None of it did harm.
		if !w.up(a, b, c) {
			t.Error("a session is lost")
		}
	})
}

func TestForgedFramesAndProbesDoNothing(t *testing.T) {
	play(t, 2, func(w *world) {
		w.boot()
		w.ensure()
		a, b := w.nodes[0], w.nodes[1]
		w.until("direct", 5*time.Second, func() bool { return w.up(a, b) && w.paths(PathDirect, a, b) })
		epoch := a.status().KeyEpoch
		good := tagOf(netID, epoch)
		time.Sleep(time.Minute)
		w.mu.Lock()
		before := w.calls
		w.mu.Unlock()
		stranger := canon.Sum([]byte("stranger"))
		rng := rand.New(rand.NewPCG(3, 4))
		for i := range 5000 {
			junk := make([]byte, rng.IntN(300))
			for j := range junk {
				junk[j] = byte(rng.Uint32())
			}
			for _, from := range []canon.Hash{b.slot, stranger} {
				a.agent.Relayed(from, junk)
				for _, kind := range []byte{frameData, framePath, frameBegin} {
					a.agent.Relayed(from, appendFrame(nil, kind, good, junk))
					a.agent.Relayed(from, appendFrame(nil, kind, good, nil))
				}
				// The highest of numbers, and any: each asks to begin.
				a.agent.Relayed(from, appendFrame(nil, frameBegin, good, bytes.Repeat([]byte{0xff}, 8)))
				a.agent.Relayed(from, appendFrame(nil, frameBegin, good, binary.BigEndian.AppendUint64(nil, rng.Uint64())))
			}
			a.agent.probed(netip.MustParseAddrPort("203.0.113.1:5"), append([]byte(wireguard.ProbeMagic), junk...))
			a.agent.Observed([16]byte{byte(i)}, netip.MustParseAddrPort("203.0.113.1:5"))
			if i%10 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		synctest.Wait()
		w.mu.Lock()
		calls := w.calls - before
		w.mu.Unlock()
		// Reminders can't be authentic; obeying them is bounded.
		if calls > 3 {
			t.Errorf("15000 forged reminders in half a second caused %d exchanges", calls)
		}
		if !w.up(a, b) || !w.paths(PathDirect, a, b) {
			t.Error("the path was lost")
		}
		if len(a.status().Devices[0].Observed) != 0 {
			t.Error("believed an address for a token that was never given")
		}
	})
}

func TestSessionsOutliveTheAgent(t *testing.T) {
	play(t, 3, func(w *world) {
		for _, n := range w.nodes {
			n.kernel = true
		}
		w.boot()
		w.ensure()
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		w.until("sessions", 5*time.Second, func() bool { return w.up(a, b, c) })
		for _, n := range w.nodes {
			key := n.status().Devices[0].PublicKey
			n.stop()
			synctest.Wait()
			if !w.up(a, b, c) {
				t.Fatal("the sessions ended with the agent")
			}
			time.Sleep(time.Second)
			n.boot()
			n.ensure(w.nodes...)
			synctest.Wait()
			if !w.up(a, b, c) {
				t.Fatal("the sessions ended when the agent returned")
			}
			if n.status().Devices[0].PublicKey != key {
				t.Fatal("the device has another key")
			}
			old, _ := psks(n, w.nodes[(int(n.slot[0]))%3])
			w.until("a new exchange", time.Second, func() bool {
				x, y := psks(n, w.nodes[(int(n.slot[0]))%3])
				return x == y && x != old || !n.peer(w.nodes[(int(n.slot[0]))%3]).PSK.IsZero()
			})
			w.until("direct paths", 5*time.Second, func() bool { return w.up(a, b, c) && w.paths(PathDirect, a, b, c) })
		}
		// A daemon that was away for a whole key epoch begins with new keys.
		key := a.status().Devices[0].PublicKey
		a.stop()
		time.Sleep(50 * time.Hour)
		a.boot()
		a.ensure(w.nodes...)
		w.until("sessions", 5*time.Second, func() bool { return w.up(a, b, c) })
		if a.status().Devices[0].PublicKey == key {
			t.Error("a key of three days ago is in use")
		}
	})
}

func TestTopologyChangesAreTakenOver(t *testing.T) {
	play(t, 4, func(w *world) {
		a, b, c, d := w.nodes[0], w.nodes[1], w.nodes[2], w.nodes[3]
		w.boot()
		for _, n := range []*node{a, b, c} {
			n.ensure(a, b, c)
		}
		w.until("sessions of three", 5*time.Second, func() bool { return w.up(a, b, c) })
		session := func(n, o *node) [32]byte {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, x := range n.devices {
				for _, y := range o.devices {
					if p := x.peers[y.public]; p != nil {
						return p.session
					}
				}
			}
			return [32]byte{}
		}
		before := session(a, b)
		for _, n := range w.nodes {
			n.ensure(w.nodes...)
		}
		if took := w.until("sessions of four", 5*time.Second, func() bool { return w.up(w.nodes...) }); took > 500*time.Millisecond {
			t.Errorf("one more node took %v", took)
		}
		if session(a, b) != before {
			t.Error("another node's arrival ended a session")
		}
		// c goes.
		for _, n := range []*node{a, b, d} {
			n.ensure(a, b, d)
		}
		w.mu.Lock()
		for _, dev := range a.devices {
			if len(dev.peers) != 2 {
				t.Errorf("%d peers, want 2", len(dev.peers))
			}
		}
		w.mu.Unlock()
		if a.router.get(c.prefixes()[0]) != "" || a.router.get(b.prefixes()[0]) == "" {
			t.Errorf("routes: %v", a.router.routes)
		}
		if err := c.agent.Remove(t.Context(), netID); err != nil || len(c.router.routes) != 0 || len(c.devices) != 0 {
			t.Errorf("removed with %v: %v, %v", err, c.router.routes, c.devices)
		}
		if err := c.agent.Remove(t.Context(), netID); err != nil {
			t.Errorf("removed again: %v", err)
		}
		if _, ok := c.agent.Status(netID); ok {
			t.Error("a removed network has a status")
		}
		// d is the exit of a and b, then b is.
		topo := a.topology(a, b, d)
		exits := func() (got [][]netip.Prefix) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, o := range []*node{b, d} {
				for _, y := range o.devices {
					for _, x := range a.devices {
						got = append(got, x.peers[y.public].AllowedIPs)
					}
				}
			}
			return got
		}
		for _, exit := range []*node{d, b, nil} {
			topo.Exit = canon.Hash{}
			if exit != nil {
				topo.Exit = exit.slot
			}
			if err := a.agent.Ensure(t.Context(), topo, 0); err != nil {
				t.Fatal(err)
			}
			for i, ips := range exits() {
				want := exit == []*node{b, d}[i]
				for text, inside := range map[string]bool{
					"0.0.0.0": false, "1.1.1.1": false, "255.255.255.255": false, "::": false, "2606:4700::1111": false,
					a.prefixes()[0].Addr().String(): true, a.prefixes()[1].Addr().String(): true,
					[]*node{d, b}[i].prefixes()[0].Addr().String(): true, []*node{d, b}[i].prefixes()[1].Addr().String(): true,
				} {
					addr := netip.MustParseAddr(text)
					if got := slices.ContainsFunc(ips, func(p netip.Prefix) bool { return p.Contains(addr) }); got != (want && !inside) {
						t.Errorf("exit %v: peer %d may send from %v: %v, by %v", exit, i, addr, got, ips)
					}
				}
			}
			a.router.mu.Lock()
			_, ok := a.router.routes[route{everything4, ExitTable}]
			a.router.mu.Unlock()
			if ok != (exit != nil) {
				t.Errorf("exit %v: routes %v", exit, a.router.routes)
			}
		}
		if session(a, b) != before {
			t.Error("a change of the exit ended a session")
		}
	})
}

func TestLostDeviceIsMadeAgain(t *testing.T) {
	play(t, 2, func(w *world) {
		w.boot()
		w.ensure()
		a, b := w.nodes[0], w.nodes[1]
		w.until("sessions", 5*time.Second, func() bool { return w.up(a, b) })
		for _, d := range a.devices {
			d.Close()
		}
		a.ensure(a, b)
		w.until("sessions", time.Second, func() bool { return w.up(a, b) })
	})
}

func TestSilentPeerIsNamed(t *testing.T) {
	play(t, 2, func(w *world) {
		a, b := w.nodes[0], w.nodes[1]
		for _, n := range []*node{a, b} {
			n.boot()
			n.ensure(a, b)
			time.Sleep(10 * time.Second)
			if n == a {
				if p := a.peer(b); p.Code != "peer-silent" || p.Path != "" {
					t.Errorf("status of a peer that is not there: %+v", p)
				}
			}
		}
		w.until("sessions", time.Second, func() bool { return w.up(a, b) })
		if p := a.peer(b); p.Code != "" {
			t.Errorf("status of a peer that is well: %+v", p)
		}
		b.halt()
		time.Sleep(10 * time.Minute)
		if p := a.peer(b); p.Code != "peer-silent" {
			t.Errorf("status of a peer that went away: %+v", p)
		}
	})
}

func TestBadTopologiesAreRefused(t *testing.T) {
	play(t, 2, func(w *world) {
		w.boot()
		a, b := w.nodes[0], w.nodes[1]
		for name, alter := range map[string]func() error{
			"of another node": func() error { return a.agent.Ensure(t.Context(), b.topology(a, b), 0) },
			"without an id": func() error {
				x := a.topology(a, b)
				x.ID = canon.Hash{}
				return a.agent.Ensure(t.Context(), x, 0)
			},
			"with one range twice": func() error {
				x := a.topology(a, b)
				x.Nodes[1].Prefixes = x.Nodes[0].Prefixes
				return a.agent.Ensure(t.Context(), x, 0)
			},
			"with everything as range": func() error {
				x := a.topology(a, b)
				x.Nodes[1].Prefixes[0] = everything4
				return a.agent.Ensure(t.Context(), x, 0)
			},
		} {
			if err := alter(); err == nil {
				t.Errorf("a topology %s was accepted", name)
			}
		}
		if len(a.devices) != 0 {
			t.Error("a refused topology left a device")
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, frameData, tag{1}, []byte("packet")))
	f.Add(appendFrame(nil, frameBegin, tag{1}, make([]byte, 8)))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, at, packet, ok := parseFrame(b)
		if ok && !bytes.Equal(appendFrame(nil, kind, at, packet), b) {
			t.Errorf("%x reads as another frame", b)
		}
	})
}

func TestEpochsCoverAllTime(t *testing.T) {
	for i := range 50 {
		id := canon.Sum([]byte{byte(i)})
		e := epochsOf(id, Periods{Rotate: 24 * time.Hour, Overlap: time.Hour})
		now := time.Unix(1_800_000_000, 0).Add(time.Duration(i) * 17 * time.Minute)
		at := e.at(now)
		if now.Before(e.begin(at)) || !now.Before(e.begin(at+1)) || e.begin(at+1).Sub(e.begin(at)) != 24*time.Hour {
			t.Errorf("%v is in epoch %d, which lasts from %v to %v", now, at, e.begin(at), e.begin(at+1))
		}
		if e.at(e.begin(at)) != at || e.at(e.begin(at).Add(-1)) != at-1 {
			t.Errorf("epoch %d does not begin at its beginning", at)
		}
		for _, c := range []struct {
			epoch  uint64
			before time.Duration
			want   bool
		}{{at + 1, time.Minute, true}, {at + 1, 5 * time.Minute, true}, {at + 1, 6 * time.Minute, false}, {at + 2, time.Minute, false}, {at, time.Minute, false}} {
			if got := e.early(c.epoch, e.begin(at+1).Add(-c.before)); got != c.want {
				t.Errorf("epoch %d, %v before %d: %v", c.epoch, c.before, at+1, got)
			}
		}
	}
}
