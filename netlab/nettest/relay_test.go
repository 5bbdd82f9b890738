package nettest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/netlab/netnode"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/rendezvoustest"
)

// numbered sends datagrams with a number and its authentication from one
// namespace to another, and notes every one that arrives and should not have.
type numbered struct {
	mu             sync.Mutex
	seen           map[uint64]bool
	forged, double int
	last           time.Time // when the last one arrived
	longest        time.Duration
}

// reset forgets how long nothing arrived.
func (n *numbered) reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last, n.longest = time.Now(), 0
}

// silence is the longest time without an arrival since reset, up to now.
func (n *numbered) silence() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return max(n.longest, time.Since(n.last))
}

const numberPort = 4444

func tag(n []byte) []byte {
	h := hmac.New(sha256.New, []byte("the test's own key"))
	h.Write(n)
	return h.Sum(nil)
}

func numbers(t *testing.T, from, to *netlab.Host, at netip.Addr) *numbered {
	t.Helper()
	n := &numbered{seen: map[uint64]bool{}, last: time.Now()}
	out, in := from.ListenPacket("udp", ":0"), to.ListenPacket("udp", netip.AddrPortFrom(at, numberPort).String())
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		dst := net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, numberPort))
		for i := uint64(0); ; i++ {
			b := binary.BigEndian.AppendUint64(nil, i)
			_, _ = out.WriteTo(append(b, tag(b)...), dst)
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	})
	work.Go(func() {
		b := make([]byte, 2000)
		for {
			size, err := in.Read(b)
			if err != nil {
				return
			}
			n.mu.Lock()
			switch {
			case size != 8+sha256.Size || !hmac.Equal(b[8:size], tag(b[:8])):
				n.forged++
			case n.seen[binary.BigEndian.Uint64(b)]:
				n.double++
			default:
				n.seen[binary.BigEndian.Uint64(b)] = true
				now := time.Now()
				n.longest, n.last = max(n.longest, now.Sub(n.last)), now
			}
			n.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		close(stop)
		out.Close()
		in.Close()
		work.Wait()
	})
	return n
}

func (n *numbered) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.seen)
}

// genuine fails the test if anything arrived that was not sent, or twice.
func (n *numbered) genuine(t *testing.T) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.forged > 0 || n.double > 0 {
		t.Errorf("%d datagrams arrived forged, %d twice, of %d", n.forged, n.double, len(n.seen))
	}
}

// lying starts a relay that lies, on a host of its own, and returns it with its
// URL there.
func lying(t *testing.T, w *netnode.World) (*rendezvoustest.Relay, string) {
	t.Helper()
	h := w.Lab.Host("lying", w.Internet)
	var r *rendezvoustest.Relay
	h.Do(func() { r = rendezvoustest.NewRelay(t, rendezvoustest.Honest) })
	a, err := rendezvous.ParseURL(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	// It listens on the loopback interface.
	h.Sysctl("ipv4/conf/all/route_localnet", "1")
	h.Nft("table ip lab { chain in { type nat hook prerouting priority dstnat; tcp dport 443 dnat to " + a.Host + "; }; }")
	a.Host = h.AddrPort(443).String()
	return r, a.String()
}

// A relay that two nodes use begins to lie. Nothing that it makes up, alters or
// repeats gets through, its loss is noticed, and the other one takes over,
// without a connection breaking.
func TestALyingRelayIsLeft(t *testing.T) {
	w := netnode.NewWorld(t, 1)
	honest := w.Servers[0].Host.NIC(0)
	liar, url := lying(t, w)
	relays := func(c *netnode.Config) {
		c.RelayOnly = true
		c.Relays = []string{w.Servers[0].URL, url}
	}
	a, b := w.Node(0, w.Lab.Host("a", w.Internet), relays), w.Node(1, w.Lab.Host("b", w.Internet), relays)
	m := mesh(t, "web", a, b)
	c := talk(t, m)
	n := numbers(t, m.routers[0], m.routers[1], netnode.Router4(1))
	for _, policy := range []struct {
		name string
		rendezvoustest.Policy
	}{
		{"drops everything", rendezvoustest.Silent},
		{"drops data, and answers pings", rendezvoustest.DropData},
		{"drops, doubles, replays, reorders, alters, invents", rendezvoustest.Hostile(1)},
	} {
		// With the honest one away they use the other.
		var mu sync.Mutex
		passed, met := 0, 0
		counted := func(p rendezvoustest.Policy, n *int) rendezvoustest.Policy {
			return func(q rendezvoustest.Packet, deliver func(rendezvoustest.Packet)) {
				if q.IsData() {
					mu.Lock()
					*n++
					mu.Unlock()
				}
				p(q, deliver)
			}
		}
		liar.SetPolicy(counted(rendezvoustest.Honest, &passed))
		honest.Shape(netlab.Shape{Cut: true}, netlab.Shape{Cut: true})
		netnode.Until(t, "the nodes use the relay that will lie", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return passed > 200
		})
		c.Goes(t, "over the relay that will lie", 20)
		// The links to the honest one come back before anything happens.
		honest.Shape(netlab.Shape{}, netlab.Shape{})
		for _, node := range []*netnode.Node{a, b} {
			netnode.Until(t, "the honest relay is back", func() bool { return node.Status().Links[0].Up })
		}
		c.Reset()
		n.reset()
		before := n.count()
		liar.SetPolicy(counted(policy.Policy, &met))
		netnode.Until(t, "the lying relay had something to lie about", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return met > 20
		})
		// Each loss costs a round at least 200 ms: TCP sends again after that.
		c.Goes(t, "a relay that "+policy.name, 50)
		netnode.Until(t, "datagrams arrive again", func() bool { return n.count() > before+100 })
		// TCP may take twice as long, because it waits longer and longer.
		if s := n.silence(); s > 30*time.Second {
			t.Errorf("a relay that %s: silent for %s", policy.name, s)
		}
		n.genuine(t)
		mu.Lock()
		t.Logf("a relay that %s: silence of %s, of a TCP connection %s, it met %d packets", policy.name, n.silence().Round(time.Millisecond), c.Silence().Round(time.Millisecond), met)
		mu.Unlock()
	}
}

// Somebody on the wire loses, doubles, replays, swaps and alters datagrams, on
// direct paths and on those to relays. Nothing of that gets through either.
func TestAWireThatLies(t *testing.T) {
	w := netnode.NewWorld(t, 1)
	a, b := w.Node(0, w.Lab.Host("a", w.Internet)), w.Node(1, w.Lab.Host("b", w.Internet))
	m := mesh(t, "web", a, b)
	c := talk(t, m)
	n := numbers(t, m.routers[0], m.routers[1], netnode.Router4(1))
	m.path(t, "direct")
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(7, 7))
	altered := 0
	var past [][]byte
	var held []byte
	w.Internet.Middle(func(f []byte) [][]byte {
		flow, _ := netlab.Dissect(f)
		if flow.Proto != "udp" {
			return [][]byte{f}
		}
		mu.Lock()
		defer mu.Unlock()
		if len(past) < 512 {
			past = append(past, f)
		} else {
			past[random.IntN(len(past))] = f
		}
		out := [][]byte{f}
		if held != nil {
			out, held = append(out, held), nil
			return out
		}
		switch random.IntN(20) {
		case 0:
			return nil
		case 1:
			out = append(out, f)
		case 2, 3:
			out = append(out, past[random.IntN(len(past))])
		case 4:
			bad, at := append([]byte{}, f...), 14+20
			if flow.Src.Addr().Is6() {
				at = 14 + 40
			}
			bad[at+8+random.IntN(len(bad)-at-8)] ^= 1 << random.IntN(8)
			mend(bad, at, flow)
			altered++
			out = append(out, bad)
		case 5:
			held = f
			return nil
		}
		return out
	})
	before := n.count()
	c.Goes(t, "a wire that lies", 100)
	netnode.Until(t, "datagrams arrive", func() bool { return n.count() > before+500 })
	n.genuine(t)
	mu.Lock()
	defer mu.Unlock()
	if altered < 20 {
		t.Errorf("%d datagrams were altered", altered)
	}
	t.Logf("longest silence %s, %d datagrams altered", c.Silence().Round(time.Millisecond), altered)
}

// mend makes the UDP checksum of a frame right: kernels are not to be what
// notices that it was altered.
func mend(f []byte, at int, flow netlab.Flow) {
	src, dst := flow.Src.Addr(), flow.Dst.Addr()
	if src.Is4() {
		f[at+6], f[at+7] = 0, 0
		return
	}
	copy(f[at:], over6(src, dst, 17, f[at:], 6))
}
