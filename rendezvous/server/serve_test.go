package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/rendezvoustest"
	"github.com/zero-os/zos/rendezvous/server"
	"github.com/zero-os/zos/rendezvous/wire"
)

func TestServerKeepsItsKey(t *testing.T) {
	w := rendezvoustest.NewWorld()
	dir := filepath.Join(t.TempDir(), "new", "dir")
	start := func(c *server.Config) { c.CertDir = dir }
	one := w.Serve(t, start)
	a, err := rendezvous.ParseURL(one.URL())
	must(t, err)
	must(t, one.Stop())
	two := w.Serve(t, start, func(c *server.Config) { c.Advertise = "relay.example:443" })
	b, err := rendezvous.ParseURL(two.URL())
	must(t, err)
	if !bytes.Equal(a.Pin, b.Pin) || b.Host != "relay.example:443" {
		t.Errorf("%s, then %s", one.URL(), two.URL())
	}
	info, err := os.Stat(filepath.Join(dir, "rendezvous.pem"))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	// Of many that start at once, all have the same.
	dir = t.TempDir()
	var wg sync.WaitGroup
	pins := make([][]byte, 8)
	for i := range pins {
		wg.Go(func() {
			if c, err := server.Identity(dir); err == nil {
				pins[i] = rendezvous.Pin(c.Leaf)
			}
		})
	}
	wg.Wait()
	for _, p := range pins {
		if p == nil || !bytes.Equal(p, pins[0]) {
			t.Fatalf("pins %x", pins)
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "rendezvous.pem"), []byte("damaged"), 0o600))
	if _, err := server.Identity(dir); problem.Code(err) != "certificate-invalid" {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestConfigurationsThatCanNotWorkAreErrors(t *testing.T) {
	w := rendezvoustest.NewWorld()
	taken := w.Serve(t)
	a, err := rendezvous.ParseURL(taken.URL())
	must(t, err)
	for name, change := range map[string]func(*server.Config){
		"no grid":         func(c *server.Config) { c.Grid = canon.Hash{} },
		"no ledger":       func(c *server.Config) { c.Bound = nil },
		"no directory":    func(c *server.Config) { c.CertDir = "" },
		"no such files":   func(c *server.Config) { c.CertFile, c.KeyFile = "/nowhere", "/nowhere" },
		"no address":      func(c *server.Config) { c.Listen = "nowhere" },
		"a taken address": func(c *server.Config) { c.Listen = a.Host },
		"a bad advert":    func(c *server.Config) { c.Advertise = "host" },
		"a bad route":     func(c *server.Config) { c.Routes = []string{"nats://x:1"} },
		"no pin":          func(c *server.Config) { c.Routes = []string{"tls://x:1"} },
	} {
		cfg := server.Config{CertDir: t.TempDir(), Grid: w.Grid, Bound: w.Bound}
		change(&cfg)
		s, err := server.Serve(ctx(t), cfg)
		if err == nil {
			s.Stop()
			t.Errorf("%s: accepted", name)
		}
	}
}

// viaRendezvous lets a NATS client dial the bus behind the one port.
type viaRendezvous struct{ a rendezvous.Address }

func (v viaRendezvous) Dial(_, _ string) (net.Conn, error) {
	c, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return rendezvous.Dial(c, v.a, rendezvous.ALPNBus)
}

const tokenA, tokenB = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"

func busOf(t *testing.T, url, user, token string) *nats.Conn {
	t.Helper()
	a, err := rendezvous.ParseURL(url)
	must(t, err)
	nc, err := nats.Connect("nats://bus", nats.SetCustomDialer(viaRendezvous{a}), nats.UserInfo(user, token), nats.NoReconnect())
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// ask sends a request to the node of a slot at one bus from a person at another,
// and counts the answers.
func ask(t *testing.T, nodes, people []*nats.Conn, slot canon.Hash, token string, question string) (asked, answered int) {
	t.Helper()
	var mu sync.Mutex
	got := make(chan string, 64)
	for _, n := range nodes {
		sub, err := n.Subscribe(bus.RequestSubject(slot), func(m *nats.Msg) {
			mu.Lock()
			asked++
			first := asked == 1
			mu.Unlock()
			if first {
				m.Respond([]byte("answer to " + string(m.Data)))
			}
		})
		must(t, err)
		defer sub.Unsubscribe()
		must(t, n.Flush())
	}
	for _, p := range people {
		sub, err := p.Subscribe("inbox."+token+".>", func(m *nats.Msg) { got <- string(m.Data) })
		must(t, err)
		defer sub.Unsubscribe()
		must(t, p.Flush())
	}
	for _, p := range people {
		must(t, p.PublishRequest(bus.RequestSubject(slot), "inbox."+token+"."+question, []byte(question)))
	}
	select {
	case text := <-got:
		answered++
		if text != "answer to "+question {
			t.Errorf("answer %q", text)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("no answer")
	}
	for {
		select {
		case <-got:
			answered++
			continue
		case <-time.After(200 * time.Millisecond):
		}
		mu.Lock()
		defer mu.Unlock()
		return asked, answered
	}
}

func TestBusAndRelayShareOnePort(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(t)
	slot := w.Join(t, "node").Slot
	node, person := busOf(t, s.URL(), "node."+slot.String(), tokenA), busOf(t, s.URL(), "people", tokenB)
	if asked, answered := ask(t, []*nats.Conn{node}, []*nats.Conn{person}, slot, tokenB, "alone"); asked != 1 || answered != 1 {
		t.Errorf("asked %d, answered %d times", asked, answered)
	}
	must(t, s.Stop())
	rendezvoustest.Until(t, "the bus is closed", person.IsClosed)
}

func TestLedgerIsAskedOnceAMinuteAndWhenKeysDoNotFit(t *testing.T) {
	w := rendezvoustest.NewWorld()
	node := w.Join(t, "node")
	s := w.Serve(t)
	for range 5 {
		dial(t, s.URL()).as(w, node)
	}
	if n := w.Reads(); n != 1 {
		t.Errorf("the ledger was read %d times for 5 logins", n)
	}
	// A stranger's claims, as many as he likes, are not answered by reading.
	stranger := w.Join(t, "stranger")
	for range 20 {
		b := dial(t, s.URL())
		if ty, _ := b.login(b.statement(w, node), stranger.Signer); ty != wire.Refused {
			t.Fatal("let in")
		}
	}
	if n := w.Reads(); n > 8 {
		t.Errorf("20 false claims made the ledger be read %d times", n)
	}
	// A new key is found, although the old one is remembered.
	moved := w.Join(t, "node")
	rendezvoustest.Until(t, "the new key is let in", func() bool {
		b := dial(t, s.URL())
		ty, _ := b.login(b.statement(w, moved), moved.Signer)
		return ty == wire.Welcome
	})
	b := dial(t, s.URL())
	if ty, _ := b.login(b.statement(w, node), node.Signer); ty != wire.Refused {
		t.Error("the old key is let in")
	}
}

func TestLedgerThatIsAwayPartsNobody(t *testing.T) {
	w := rendezvoustest.NewWorld()
	node, late := w.Join(t, "node"), w.Join(t, "late")
	s := w.Serve(t, func(c *server.Config) { c.Limits.Recheck = 40 * time.Millisecond })
	first := dial(t, s.URL()).as(w, node)
	w.Away(true)
	reads := w.Reads()
	rendezvoustest.Until(t, "the key was compared again", func() bool { return w.Reads() > reads+1 })
	dial(t, s.URL()).as(w, node)
	first.gone() // only because it was replaced
	b := dial(t, s.URL())
	ty, body := b.login(b.statement(w, late), late.Signer)
	if code, _, _ := bytes.Cut(body, []byte{0}); ty != wire.Refused || string(code) != "login-undecided" {
		t.Errorf("a slot never seen: %d %q", ty, body)
	}
	w.Away(false)
	rendezvoustest.Until(t, "it is let in once the ledger is back", func() bool {
		b := dial(t, s.URL())
		ty, _ := b.login(b.statement(w, late), late.Signer)
		return ty == wire.Welcome
	})
}

func TestClientWhoseKeyWasReplacedIsCutOff(t *testing.T) {
	w := rendezvoustest.NewWorld()
	node, other := w.Join(t, "node"), w.Join(t, "other")
	s := w.Serve(t, func(c *server.Config) { c.Limits.Recheck = 40 * time.Millisecond })
	b, stays := dial(t, s.URL()).as(w, node), dial(t, s.URL()).as(w, other)
	w.Join(t, "node")
	b.gone()
	w.Leave(other.Slot)
	stays.gone()
}

func TestSilentClientIsCutOff(t *testing.T) {
	w := rendezvoustest.NewWorld()
	node := w.Join(t, "node")
	s := w.Serve(t, func(c *server.Config) { c.Limits.Idle = 100 * time.Millisecond })
	dial(t, s.URL()).as(w, node).gone()
	rendezvoustest.Until(t, "it is forgotten", func() bool { return s.Clients() == 0 })
}

// TestSlowReaderHarmsOnlyItself: packets for a client that reads nothing are
// dropped; others are served, and memory stays bounded.
func TestSlowReaderHarmsOnlyItself(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(t, func(c *server.Config) { c.Limits.Rate = -1 })
	slow, quick, sender := w.Join(t, "slow"), w.Join(t, "quick"), w.Join(t, "sender")
	stuck := dial(t, s.URL()).as(w, slow)
	to, from := dial(t, s.URL()).as(w, quick), dial(t, s.URL()).as(w, sender)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	packet := make([]byte, 1400)
	for i := range 20_000 { // 28 MB
		from.send(wire.Send, slow.Slot[:], packet)
		if i%100 != 0 {
			continue
		}
		mark := []byte{byte(i >> 8), byte(i)}
		from.send(wire.Send, quick.Slot[:], mark)
		if ty, body := to.next(); ty != wire.Recv || !bytes.HasSuffix(body, mark) {
			t.Fatalf("packet %d: frame %d, %x", i, ty, body)
		}
	}
	if grown := int64(heap()) - int64(before); grown > 4<<20 {
		t.Errorf("a slow reader holds %d bytes", grown)
	}
	// What it then reads are whole frames, of which many are missing.
	n := 0
	must(t, stuck.conn.SetReadDeadline(time.Now().Add(2*time.Second)))
	for {
		ty, body, err := stuck.in.Next()
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after %d packets: %v", n, err)
			}
			break
		}
		if ty != wire.Recv || len(body) != 32+len(packet) {
			t.Fatalf("frame %d of %d bytes", ty, len(body))
		}
		n++
	}
	if n == 0 || n >= 20_000 {
		t.Errorf("%d packets came", n)
	}
}

func TestOneClientCanNotSendWithoutBound(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(t, func(c *server.Config) { c.Limits.Rate = 100_000; c.Limits.Queue = 64 << 20 })
	a, b := w.Join(t, "a"), w.Join(t, "b")
	from, to := dial(t, s.URL()).as(w, a), dial(t, s.URL()).as(w, b)
	packet := make([]byte, 1400)
	began := time.Now()
	for range 1000 {
		from.send(wire.Send, b.Slot[:], packet)
	}
	// A ping of its own shows that the last of them was handled.
	rendezvoustest.Until(t, "the sender is heard again", func() bool {
		from.send(wire.Send, a.Slot[:], []byte{3})
		must(t, from.conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		_, _, err := wire.NewReader(from.conn).Next()
		return err == nil
	})
	took := time.Since(began).Seconds()
	n := 0
	must(t, to.conn.SetReadDeadline(time.Now().Add(time.Second)))
	for {
		if _, _, err := to.in.Next(); err != nil {
			break
		}
		n++
	}
	most := int((2*64<<10 + 100_000*took) / 1600) // two bursts, see bucket
	if n < 30 || n > most+1 {
		t.Errorf("%d of 1000 packets came; the rate allows at most %d in %.2f s", n, most, took)
	}
}

// TestNobodyIsAnsweredByUDP without a session: not a byte.
func TestNobodyIsAnsweredByUDP(t *testing.T) {
	w := rendezvoustest.NewWorld()
	node := w.Join(t, "node")
	s := w.Serve(t)
	b := dial(t, s.URL()).as(w, node)
	token := [16]byte{1, 2, 3}
	b.send(wire.Watch, token[:])
	b.send(wire.Send, node.Slot[:], []byte("back")) // when it is, the watch has been read
	if ty, _ := b.next(); ty != wire.Recv {
		t.Fatalf("frame %d", ty)
	}
	a, err := rendezvous.ParseURL(s.URL())
	must(t, err)
	c, err := net.Dial("udp", a.Host)
	must(t, err)
	defer c.Close()
	for n := range 200 {
		d := make([]byte, n*8)
		rand.Read(d)
		for _, first := range []byte{0, wire.DatagramSealed, wire.DatagramObserve, 255} {
			if len(d) > 0 {
				d[0] = first
			}
			c.Write(d)
		}
	}
	// The last one is a probe, which is reported, but not here.
	c.Write(rendezvous.ObserveProbe(token))
	ty, body := b.next()
	if ty != wire.Observed {
		t.Fatalf("frame %d", ty)
	}
	got, from, err := wire.ParseObserved(body)
	if want := netip.MustParseAddrPort(c.LocalAddr().String()); err != nil || got != token || from != want {
		t.Errorf("token %x from %s: %v; want %s", got, from, err, want)
	}
	must(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	if n, err := c.Read(make([]byte, 2000)); err == nil {
		t.Errorf("%d bytes came back", n)
	}
}

func TestTokensBelongToWhoWatchesThem(t *testing.T) {
	w := rendezvoustest.NewWorld()
	one, two := w.Join(t, "one"), w.Join(t, "two")
	s := w.Serve(t)
	a, err := rendezvous.ParseURL(s.URL())
	must(t, err)
	c, err := net.Dial("udp", a.Host)
	must(t, err)
	defer c.Close()
	first, second := dial(t, s.URL()).as(w, one), dial(t, s.URL()).as(w, two)
	theirs, own := [16]byte{1}, [16]byte{2}
	// settled: everything that was sent before it has been handled.
	settled := func(b *bare, m rendezvoustest.Member) {
		t.Helper()
		b.send(wire.Send, m.Slot[:], []byte{3, 'x'})
		if ty, _ := b.next(); ty != wire.Recv {
			t.Fatalf("frame %d", ty)
		}
	}
	first.send(wire.Watch, theirs[:])
	settled(first, one)
	second.send(wire.Watch, theirs[:]) // does not take it over
	second.send(wire.Watch, own[:])
	settled(second, two)
	c.Write(rendezvous.ObserveProbe(theirs))
	c.Write(rendezvous.ObserveProbe(own))
	for b, want := range map[*bare][16]byte{first: theirs, second: own} {
		ty, body := b.next()
		if token, _, err := wire.ParseObserved(body); ty != wire.Observed || err != nil || token != want {
			t.Errorf("frame %d, token %x, %v; want %x", ty, token, err, want)
		}
	}
	// After Unwatch, and after the connection ended, it is anybody's.
	first.send(wire.Unwatch, theirs[:])
	settled(first, one)
	second.send(wire.Watch, theirs[:])
	settled(second, two)
	c.Write(rendezvous.ObserveProbe(theirs))
	if ty, _ := second.next(); ty != wire.Observed {
		t.Errorf("frame %d", ty)
	}
	// More than the limit are not watched.
	for i := range 2000 {
		token := [16]byte{9, byte(i >> 8), byte(i)}
		first.send(wire.Watch, token[:])
	}
	settled(first, one)
	c.Write(rendezvous.ObserveProbe([16]byte{9, byte(1999 >> 8), byte(1999 & 255)}))
	c.Write(rendezvous.ObserveProbe([16]byte{9, 0, 0}))
	ty, body := first.next()
	if token, _, _ := wire.ParseObserved(body); ty != wire.Observed || token != [16]byte{9, 0, 0} {
		t.Errorf("frame %d, token %x", ty, token)
	}
}

// TestThousandClientsFitIntoMemory counts both ends, which are in this process.
func TestThousandClientsFitIntoMemory(t *testing.T) {
	const n, most = 1000, 200 << 10 // bytes of one client's two ends; the race detector takes half of it
	w := rendezvoustest.NewWorld()
	s := w.Serve(t, func(c *server.Config) { c.Limits.HalfOpen, c.Limits.PerSite = 2*n, 2*n })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var clients []*bare
	var members []rendezvoustest.Member
	for i := range n {
		m := w.Join(t, string(rune('a'+i)))
		members = append(members, m)
		clients = append(clients, dial(t, s.URL()).as(w, m))
	}
	// Each has used its buffers once.
	packet := make([]byte, 1400)
	for i, c := range clients {
		to := members[(i+1)%n].Slot
		for range 20 {
			c.send(wire.Send, to[:], packet)
		}
	}
	for _, c := range clients {
		for range 20 {
			if ty, _ := c.next(); ty != wire.Recv {
				t.Fatalf("frame %d", ty)
			}
		}
	}
	runtime.GC()
	runtime.GC() // empties the pools
	runtime.ReadMemStats(&after)
	used := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)
	t.Logf("%d clients: %d KiB each, both ends", s.Clients(), used/n>>10)
	if s.Clients() != n || used > n*most {
		t.Errorf("%d clients use %d bytes each", s.Clients(), used/n)
	}
}
