package rendezvous_test

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/rendezvoustest"
	"github.com/zero-os/zos/rendezvous/server"
	"github.com/zero-os/zos/rendezvous/wire"
)

// quick makes everything happen ten times as fast.
func quick(c *rendezvous.ClientConfig) {
	c.Periods = rendezvous.Periods{
		Ping: 1500 * time.Millisecond, Answer: time.Second, Probe: 50 * time.Millisecond, Silent: 150 * time.Millisecond,
		Absent: 50 * time.Millisecond, Present: 2 * time.Second, RetryMin: 10 * time.Millisecond, RetryMax: 500 * time.Millisecond,
	}
}

func quickRelayOnly(c *rendezvous.ClientConfig) { quick(c); c.RelayOnly = true }

// pairOf is two nodes that reach two servers through a wire each that a test can
// break, and that have talked.
func pairOf(t *testing.T, w *rendezvoustest.World, change func(*rendezvous.ClientConfig)) (a, b *node, wires []*rendezvoustest.Proxy) {
	t.Helper()
	var urls []string
	for range 2 {
		p := rendezvoustest.NewProxy(t, w.Serve(t).URL())
		wires = append(wires, p)
		urls = append(urls, p.URL())
	}
	a = connect(t, w, w.Join(t, "a"), change, urls...).up(2)
	b = connect(t, w, w.Join(t, "b"), change, urls...).up(2)
	a.reach(b, "begin")
	b.reach(a, "begin back")
	return a, b, wires
}

// stream sends numbered packets every few milliseconds while fn runs and until
// after has arrived; it returns the longest time without any arriving.
func stream(t *testing.T, a, b *node, fn func()) time.Duration {
	t.Helper()
	quit, done := make(chan struct{}), make(chan time.Duration)
	go func() {
		var longest time.Duration
		last, n := time.Now(), 0
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		seen := b.count()
		for {
			select {
			case <-tick.C:
			case <-quit:
				done <- longest
				return
			}
			n++
			a.Send(b.Slot, fmt.Appendf(nil, "stream %d", n))
			if now := b.count(); now != seen {
				seen, last = now, time.Now()
			}
			longest = max(longest, time.Since(last))
		}
	}()
	fn()
	a.reach(b, "after "+fmt.Sprint(time.Now().UnixNano()))
	close(quit)
	return <-done
}

func (n *node) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.got)
}

// TestLossOfOneServerIsSurvived by traffic in both directions.
func TestLossOfOneServerIsSurvived(t *testing.T) {
	for _, tc := range []struct {
		name   string
		broken func(p *rendezvoustest.Proxy)
	}{
		{"it resets and refuses", func(p *rendezvoustest.Proxy) { p.Refuse(true); p.Freeze(true); p.Reset() }},
		{"it is silent from now on", func(p *rendezvoustest.Proxy) { p.Freeze(true) }},
	} {
		for i := range 2 {
			t.Run(fmt.Sprintf("server %d: %s", i, tc.name), func(t *testing.T) {
				a, b, wires := pairOf(t, rendezvoustest.NewWorld(), quick)
				gap := stream(t, a, b, func() {
					tc.broken(wires[i])
					b.reach(a, "still here")
				})
				t.Logf("the longest gap was %s, at a tenth of the real periods", gap)
				rendezvoustest.Until(t, "the link is found dead", func() bool { return !a.Links()[i].Up && !b.Links()[i].Up })
				if l, ok := a.LinkTo(b.Slot); !ok || l.URL != a.Links()[1-i].URL {
					t.Errorf("packets go by %+v, %v", l, ok)
				}
				if a.Links()[i].Error == "" {
					t.Error("the link does not say why it is down")
				}
				// And it heals.
				wires[i].Refuse(false)
				wires[i].Freeze(false)
				a.up(2)
				b.up(2)
				a.reach(b, "healed")
			})
		}
	}
}

// TestHalfDeadLinkIsFoundWithoutTraffic: the server accepts and answers nothing.
func TestHalfDeadLinkIsFoundWithoutTraffic(t *testing.T) {
	w := rendezvoustest.NewWorld()
	p := rendezvoustest.NewProxy(t, w.Serve(t).URL())
	a := connect(t, w, w.Join(t, "a"), quick, p.URL()).up(1)
	began := time.Now()
	p.Freeze(true)
	a.up(0)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("found after %s", took)
	}
	p.Freeze(false)
	a.up(1)
}

// TestDefaultsFindADeadLinkInThirtySeconds is arithmetic, so that it needs no
// half minute: at worst a ping has just come back.
func TestDefaultsFindADeadLinkInThirtySeconds(t *testing.T) {
	p := rendezvous.DefaultPeriods()
	round := time.Second // between two looks when idle
	if worst := p.Ping + p.Answer + 2*round; worst > 30*time.Second {
		t.Errorf("a silent link is found after %s", worst)
	}
	if worst := p.Silent + 2*p.Probe; worst > 2*time.Second+500*time.Millisecond {
		t.Errorf("traffic leaves a silent way after %s", worst)
	}
}

// TestRelayThatLooksHealthyIsLeft: one server answers pings and drops data.
func TestRelayThatDropsDataIsLeft(t *testing.T) {
	w := rendezvoustest.NewWorld()
	for name, policy := range map[string]rendezvoustest.Policy{
		"it drops data only":  rendezvoustest.DropData,
		"it drops everything": rendezvoustest.Silent,
		"it drops one direction": func(p rendezvoustest.Packet, deliver func(rendezvoustest.Packet)) {
			if p.From != canon.Sum([]byte("a")) || p.To == p.From {
				deliver(p)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			honest := rendezvoustest.NewProxy(t, w.Serve(t).URL())
			liar := rendezvoustest.NewRelay(t, rendezvoustest.Honest)
			a := connect(t, w, w.Join(t, "a"), quickRelayOnly, liar.URL(), honest.URL()).up(2)
			b := connect(t, w, w.Join(t, "b"), quickRelayOnly, liar.URL(), honest.URL()).up(2)
			a.reach(b, "begin")
			b.reach(a, "begin back")
			gap := stream(t, a, b, func() {
				liar.SetPolicy(policy)
				// New packets arrive, and go on to arrive.
				for i := range 20 {
					a.reach(b, fmt.Sprintf("in spite of it %d", i))
				}
			})
			t.Logf("the longest gap was %s, at a tenth of the real periods", gap)
		})
	}
}

// A connection that gets no answer sends ever more rarely: the few packets that it
// has sent by then tell of the loss, even while much comes the other way.
func TestRelayThatDropsDataIsLeftByTheSparse(t *testing.T) {
	w := rendezvoustest.NewWorld()
	honest := rendezvoustest.NewProxy(t, w.Serve(t).URL())
	liar := rendezvoustest.NewRelay(t, rendezvoustest.Honest)
	a := connect(t, w, w.Join(t, "a"), quickRelayOnly, liar.URL(), honest.URL()).up(2)
	b := connect(t, w, w.Join(t, "b"), quickRelayOnly, liar.URL(), honest.URL()).up(2)
	a.reach(b, "begin")
	b.reach(a, "begin back")
	stream(t, a, b, func() {
		liar.SetPolicy(rendezvoustest.DropData)
		began := b.count()
		wait := 20 * time.Millisecond // a tenth of TCP's
		sent := 0
		for ; ; sent++ {
			before := a.count()
			b.Send(a.Slot, fmt.Appendf(nil, "sparse %d", sent))
			time.Sleep(wait)
			if a.count() > before || sent == 10 {
				break
			}
			wait *= 2
		}
		if sent > 6 { // by the loss of eight it would take twice as many seconds more
			t.Errorf("of %d packets none arrived", sent)
		}
		if b.count() == began {
			t.Error("nothing came the other way")
		}
	})
}

// TestHostileRelayCanNotStopTraffic: packets are dropped, doubled, altered; the
// client passes on what comes and stands.
func TestHostileRelayCanNotStopTraffic(t *testing.T) {
	w := rendezvoustest.NewWorld()
	liar := rendezvoustest.NewRelay(t, rendezvoustest.Hostile(1))
	a := connect(t, w, w.Join(t, "a"), quickRelayOnly, liar.URL()).up(1)
	b := connect(t, w, w.Join(t, "b"), quickRelayOnly, liar.URL()).up(1)
	for i := range 100 {
		a.reach(b, fmt.Sprintf("packet %d", i))
	}
	// Frames of its own that no server sends, and bodies of every length.
	for ty := range 40 {
		for _, n := range []int{0, 1, 8, 31, 32, 33, 34, 100} {
			liar.Deliver(rendezvoustest.Packet{From: b.Slot, To: a.Slot, Bytes: append([]byte{byte(ty)}, make([]byte, n)...)})
			liar.Deliver(rendezvoustest.Packet{From: a.Slot, To: a.Slot, Bytes: append([]byte{byte(ty)}, make([]byte, n)...)})
		}
	}
	a.reach(b, "still")
	b.reach(a, "still")
	a.up(1)
}

func TestUDPIsLeftWhenItIsSilentAndUsedAgain(t *testing.T) {
	w := rendezvoustest.NewWorld()
	p := rendezvoustest.NewProxy(t, w.Serve(t).URL())
	a := connect(t, w, w.Join(t, "a"), quick, p.URL()).up(1)
	b := connect(t, w, w.Join(t, "b"), quick, p.URL()).up(1)
	udp := func(want bool) {
		t.Helper()
		for _, n := range []*node{a, b} {
			rendezvoustest.Until(t, fmt.Sprintf("UDP in use: %v", want), func() bool { return n.Links()[0].UDP == want })
		}
	}
	udp(true)
	a.reach(b, "by UDP")
	b.reach(a, "by UDP")
	gap := stream(t, a, b, func() {
		p.BlockUDP(true)
		b.reach(a, "by TLS")
	})
	t.Logf("the longest gap was %s, at a tenth of the real periods", gap)
	udp(false)
	a.up(1)
	p.BlockUDP(false)
	udp(true)
	a.reach(b, "by UDP again")
}

// TestUDPBlockedFromTheBeginning costs nothing.
func TestUDPBlockedFromTheBeginning(t *testing.T) {
	w := rendezvoustest.NewWorld()
	p := rendezvoustest.NewProxy(t, w.Serve(t).URL())
	p.BlockUDP(true)
	a := connect(t, w, w.Join(t, "a"), nil, p.URL()).up(1)
	b := connect(t, w, w.Join(t, "b"), nil, p.URL()).up(1)
	began := time.Now()
	a.reach(b, "hello")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	if a.Links()[0].UDP {
		t.Error("UDP is said to be in use")
	}
}

// TestLargeDatagramsThatAreLost: small packets go by UDP, large ones by TLS.
func TestLargeDatagramsThatAreLostGoByTLS(t *testing.T) {
	w := rendezvoustest.NewWorld()
	p := rendezvoustest.NewProxy(t, w.Serve(t).URL())
	p.LimitUDP(1300)
	a := connect(t, w, w.Join(t, "a"), quick, p.URL()).up(1)
	b := connect(t, w, w.Join(t, "b"), quick, p.URL()).up(1)
	for _, n := range []*node{a, b} {
		rendezvoustest.Until(t, "UDP is in use", func() bool { return n.Links()[0].UDP })
	}
	for _, size := range []int{10, 1000, 1200, 1300, 1450, 2000} {
		text := make([]byte, size)
		for i := range text {
			text[i] = 'x'
		}
		a.reach(b, string(text))
		b.reach(a, string(text))
	}
	if !a.Links()[0].UDP {
		t.Error("UDP was given up")
	}
}

func TestRelayOnlyOpensNoUDPSocket(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(t)
	sockets := func() int { return udpSockets(t) }
	before := sockets()
	a := connect(t, w, w.Join(t, "a"), relayOnly, s.URL()).up(1)
	if n := sockets() - before; n != 0 {
		t.Errorf("%d UDP sockets", n)
	}
	connect(t, w, w.Join(t, "b"), nil, s.URL()).up(1)
	if n := sockets() - before; n != 1 {
		t.Errorf("control: a usual client opens %d UDP sockets", n)
	}
	a.up(1)
}

func TestPeersOnNoCommonServerTalkThroughTheCluster(t *testing.T) {
	w := rendezvoustest.NewWorld()
	servers := w.Cluster(t, 2)
	for name, change := range map[string]func(*rendezvous.ClientConfig){"TLS": quickRelayOnly, "UDP": quick} {
		t.Run(name, func(t *testing.T) {
			a := connect(t, w, w.Join(t, "a"), change, servers[0].URL()).up(1)
			b := connect(t, w, w.Join(t, "b"), change, servers[1].URL()).up(1)
			a.reach(b, "across")
			b.reach(a, "and back")
			// c is on both: its packets take the server where the peer is.
			c := connect(t, w, w.Join(t, "c"), change, servers[0].URL(), servers[1].URL()).up(2)
			c.reach(a, "to a")
			c.reach(b, "to b")
			a.reach(c, "from a")
			b.reach(c, "from b")
		})
	}
}

func TestAbsentPeersAreToldAndFoundWhenTheyCome(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(t)
	a := connect(t, w, w.Join(t, "a"), quick, s.URL())
	late := w.Join(t, "late")
	rendezvoustest.Until(t, "there is no link yet, or the peer is absent", func() bool {
		err := a.Send(late.Slot, []byte("x"))
		return err == rendezvous.ErrAbsent
	})
	b := connect(t, w, late, quick, s.URL())
	a.reach(b, "hello")
	dead := connect(t, w, w.Join(t, "dead"), quick, "tls://127.0.0.1:1")
	if err := dead.Send(late.Slot, []byte("x")); err != rendezvous.ErrNoLink {
		t.Errorf("without any link: %v", err)
	}
	rendezvoustest.Until(t, "it says why", func() bool { return dead.Links()[0].Error != "" })
}

func TestOutsideAddressesAreTold(t *testing.T) {
	w := rendezvoustest.NewWorld()
	one, two := w.Serve(t), w.Serve(t)
	p := rendezvoustest.NewProxy(t, one.URL())
	a := connect(t, w, w.Join(t, "a"), quick, p.URL(), two.URL())
	token, unwatched := [16]byte{1, 2, 3}, [16]byte{4}
	if err := a.Watch(token); err != nil { // before the links are up
		t.Fatal(err)
	}
	a.up(2)
	sock, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	probe := func(token [16]byte) {
		for _, s := range a.Servers() {
			sock.WriteToUDPAddrPort(rendezvous.ObserveProbe(token), s)
		}
	}
	observed := func(token [16]byte) (netip.AddrPort, bool) {
		a.mu.Lock()
		defer a.mu.Unlock()
		addr, ok := a.observed[token]
		return addr, ok
	}
	want := netip.MustParseAddrPort(sock.LocalAddr().String())
	rendezvoustest.Until(t, "its address is told", func() bool {
		probe(unwatched)
		probe(token)
		addr, ok := observed(token)
		return ok && addr == want // the one through the proxy comes from elsewhere
	})
	if addr, ok := observed(unwatched); ok {
		t.Errorf("a token that is not watched was seen at %s", addr)
	}
	// Watched again by itself on a new connection.
	p.Reset()
	rendezvoustest.Until(t, "the link broke", func() bool { return a.Links()[0].Since.After(time.Now().Add(-time.Second)) })
	a.up(2)
	other := [16]byte{9}
	if err := a.Watch(other); err != nil {
		t.Fatal(err)
	}
	rendezvoustest.Until(t, "a later token is told", func() bool { probe(other); _, ok := observed(other); return ok })
	a.Unwatch(token)
	for i := range rendezvous.MaxTokens {
		if err := a.Watch([16]byte{7, byte(i >> 8), byte(i)}); err != nil && i < rendezvous.MaxTokens-1 {
			t.Fatalf("token %d: %v", i, err)
		}
	}
	if err := a.Watch([16]byte{8}); err == nil {
		t.Error("more tokens than the limit")
	}
}

// TestPokeEndsPauses: after a change of the network nobody waits.
func TestPokeEndsPauses(t *testing.T) {
	w := rendezvoustest.NewWorld()
	p := rendezvoustest.NewProxy(t, w.Serve(t).URL())
	p.Refuse(true)
	a := connect(t, w, w.Join(t, "a"), func(c *rendezvous.ClientConfig) {
		c.Periods.RetryMin, c.Periods.RetryMax = time.Hour, time.Hour
	}, p.URL())
	rendezvoustest.Until(t, "it failed once", func() bool { return a.Links()[0].Error != "" })
	p.Refuse(false)
	rendezvoustest.Until(t, "it is up", func() bool { a.Poke(); return a.Links()[0].Up })
	// A link that is dead is found at once.
	p.Freeze(true)
	began := time.Now()
	a.Poke()
	rendezvoustest.Until(t, "it is found dead", func() bool { return !a.Links()[0].Up })
	if took := time.Since(began); took > 14*time.Second {
		t.Errorf("found after %s, as if nothing had been said", took)
	}
}

// TestRekeyedNode: a client with the new key replaces the one with the old.
func TestServerTellsWhyItRefuses(t *testing.T) {
	w := rendezvoustest.NewWorld()
	old := w.Join(t, "node")
	w.Join(t, "node")
	s := w.Serve(t)
	a := connect(t, w, old, quick, s.URL())
	rendezvoustest.Until(t, "the reason is shown", func() bool { return a.Links()[0].Error != "" })
	t.Log(a.Links()[0].Error)
}

// TestClosingIsClean: nothing runs afterwards (see TestMain), whatever state the
// links are in, and nobody is called.
func TestClosingIsClean(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(t, func(c *server.Config) {})
	frozen := rendezvoustest.NewProxy(t, s.URL())
	frozen.Freeze(true)
	var calls atomic.Int64
	m := w.Join(t, "a")
	cfg := w.Config(m, s.URL(), frozen.URL(), "tls://127.0.0.1:1", "tls://nowhere.invalid:1")
	cfg.OnChange = func() { calls.Add(1) }
	c, err := rendezvous.Connect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	rendezvoustest.Until(t, "one link is up", func() bool { return c.Links()[0].Up })
	c.Close()
	n := calls.Load()
	c.Poke()
	if err := c.Send(m.Slot, make([]byte, wire.MaxPacket)); err == nil {
		t.Error("a closed client sends")
	}
	if calls.Load() != n {
		t.Error("called after Close")
	}
}
