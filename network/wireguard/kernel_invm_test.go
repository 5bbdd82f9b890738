//go:build invm

package wireguard

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

func TestKernel(t *testing.T) { runPromises(t, Kernel, Kernel) }

// TestKernelWithUserspace: the engines understand each other.
func TestKernelWithUserspace(t *testing.T) { runPromises(t, Kernel, Userspace) }

// TestUserspaceWithKernel: the other way round, where that is not the same.
func TestUserspaceWithKernel(t *testing.T) {
	t.Run("encrypted", func(t *testing.T) { testEncrypted(t, Userspace, Kernel) })
	t.Run("path change", func(t *testing.T) { testPathChange(t, Userspace, Kernel) })
	t.Run("preshared key", func(t *testing.T) { testPresharedKey(t, Userspace, Kernel) })
}

func TestAutoTakesTheKernel(t *testing.T) {
	a, b := newLink(t, Auto, Auto)
	if a.dev.Engine() != Kernel {
		t.Errorf("engine %v", a.dev.Engine())
	}
	talk(t, a, b, false, "hello")
	c := a.config(Config{RelayOnly: true}, b)
	c.Name = "wg-relay"
	d, err := a.host.New(context.Background(), c)
	must(t, err)
	if d.Engine() != Userspace || d.Port() != 0 {
		t.Errorf("relay-only: engine %v, port %d", d.Engine(), d.Port())
	}
	must(t, d.Close())
}

// TestARestartKeepsSessions lets go of a device as a daemon that ends does, by
// leaving and by being killed, and takes it over as the next daemon does.
func TestARestartKeepsSessions(t *testing.T) {
	for _, path := range []string{"relay", "direct"} {
		t.Run(path, func(t *testing.T) {
			a, b := newLink(t, Kernel, Kernel)
			if path == "direct" {
				direct(t, a, b, true)
			}
			c := dial(t, a.routerNS, echo(t, b.routerNS, b.in4))
			say(t, c, "hello")
			before := a.stats(t)
			for range 3 {
				old := a.dev
				must(t, old.Leave())
				if got := linksIn(t, a.routerNS); got != "lo wg-test" {
					t.Fatalf("links %s", got)
				}
				a.sent.Store(0)
				config := a.config(Config{}, b)
				config.PrivateKey = Key{} // it is in the kernel
				d, err := a.host.Adopt(context.Background(), config)
				must(t, err)
				a.use(d)
				t.Cleanup(func() { must(t, d.Close()) })
				if d.PublicKey() != a.key.Public() || d.Port() != old.Port() || d.Engine() != Kernel {
					t.Errorf("adopted %v, port %d instead of %d", d.PublicKey(), d.Port(), old.Port())
				}
				say(t, c, "still here")
				after := a.stats(t)
				if !after.LastHandshake.Equal(before.LastHandshake) {
					t.Errorf("a new handshake: before %v, after %v", before.LastHandshake, after.LastHandshake)
				}
				if relayed := path == "relay"; after.Relayed != relayed || (a.sent.Load() > 0) != relayed {
					t.Errorf("stats %+v, %d packets to the relay", after, a.sent.Load())
				}
				must(t, d.SetPeer(a.peerOf(b))) // as the agent says again after a start
				must(t, d.SendProbe(netip.AddrPortFrom(b.addr4, b.dev.Port()), []byte(ProbeMagic+path)))
				select {
				case <-b.probes:
				case <-time.After(patience):
					t.Fatal("no probe from the adopted device")
				}
				must(t, b.dev.SendProbe(netip.AddrPortFrom(a.addr4, d.Port()), []byte(ProbeMagic+path)))
				select {
				case <-a.probes:
				case <-time.After(patience):
					t.Fatal("no probe to the adopted device")
				}
			}
			// The paths can be changed as if nothing had been.
			eventually(t, "direct holds", func() bool {
				direct(t, a, b, false)
				say(t, c, "direct")
				return !a.stats(t).Relayed
			})
			eventually(t, "the relay holds", func() bool {
				relay(t, a, b)
				say(t, c, "relay")
				return a.stats(t).Relayed
			})
		})
	}
}

func TestWhatIsNotThereIsNotAdopted(t *testing.T) {
	a, b := newLink(t, Userspace, Kernel)
	c := a.config(Config{}, b)
	if _, err := a.host.Adopt(context.Background(), c); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a TUN interface: %v", err)
	}
	must(t, a.dev.Close())
	if _, err := a.host.Adopt(context.Background(), c); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	// Made but not configured, as by a daemon killed in between.
	kc := a.config(Config{Engine: Kernel}, b)
	must(t, kc.check())
	k, err := openKernel(a.host, kc)
	must(t, err)
	must(t, k.create(kc))
	if _, err := a.host.Adopt(context.Background(), c); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a key: %v", err)
	}
	must(t, k.release())
	a.start(t, Config{Engine: Kernel}, b) // replaces it
	must(t, a.dev.SetPeer(a.peerOf(b)))
	must(t, b.dev.SetPeer(b.peerOf(a)))
	talk(t, a, b, false, "hello")
}

// TestManyPeers: as many as a large network has, and one of them with more
// addresses than fit into one message to the kernel.
func TestManyPeers(t *testing.T) {
	a, b := newLink(t, Kernel, Kernel)
	for range 60 {
		p := Peer{PublicKey: NewPrivateKey().Public()}
		rand.Read(p.PresharedKey[:])
		must(t, a.dev.SetPeer(p))
	}
	many := a.peerOf(b)
	for i := range 300 {
		many.AllowedIPs = append(many.AllowedIPs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)}), 32))
	}
	must(t, a.dev.SetPeer(many))
	must(t, a.dev.Leave())
	d, err := a.host.Adopt(context.Background(), a.config(Config{}, b))
	must(t, err)
	defer d.Close()
	a.use(d)
	all, err := d.Stats()
	must(t, err)
	if len(all) != 61 {
		t.Fatalf("%d peers", len(all))
	}
	for _, s := range all {
		if s.PublicKey == b.key.Public() && len(s.AllowedIPs) != 302 {
			t.Errorf("%d allowed addresses", len(s.AllowedIPs))
		}
		if !s.Relayed {
			t.Errorf("a peer is not relayed: %+v", s)
		}
	}
	talk(t, a, b, false, "hello")
	if n := len(udpSockets(t, a.hostNS)); n != 63 { // the device's two, and one for each peer
		t.Errorf("%d UDP sockets in the host namespace", n)
	}
	must(t, d.Close())
	if n := len(udpSockets(t, a.hostNS)); n != 0 {
		t.Errorf("%d UDP sockets left", n)
	}
}

// BenchmarkInGuest measures TCP streams through kernel devices made by this
// package, with all that a node has beside them (shims, probe sockets), and
// through such as a person makes by hand. A guest's processor is emulated and
// shared with whatever else the machine does: so the streams are short, in
// turn, and forwards and backwards, and the median of each kind counts.
func BenchmarkInGuest(b *testing.B) {
	const rounds = 40
	stream1 := load{streams: 1, bytes: 512 << 10}
	kinds := []string{"by hand", "ours", "ours, relayed"}
	for range b.N {
		pairs := map[string][2]*site{}
		for _, kind := range kinds {
			x, y := newSites(b)
			pairs[kind] = [2]*site{x, y}
			if kind == "by hand" {
				byHand(b, x, y)
			} else {
				y.start(b, Config{Engine: Kernel}, x)
				x.start(b, Config{Engine: Kernel}, y)
				must(b, x.dev.SetPeer(x.peerOf(y)))
				must(b, y.dev.SetPeer(y.peerOf(x)))
				if kind == "ours" {
					direct(b, x, y, false)
				}
			}
			stream(b, x, y, stream1) // warm
		}
		took := map[string][]time.Duration{}
		for range rounds {
			for _, kind := range kinds {
				start := time.Now()
				stream(b, pairs[kind][0], pairs[kind][1], stream1)
				took[kind] = append(took[kind], time.Since(start))
			}
			slices.Reverse(kinds)
		}
		rate := func(kind string) float64 {
			slices.Sort(took[kind])
			return float64(stream1.bytes) / took[kind][rounds/2].Seconds() / 1e6
		}
		fmt.Printf("measured: %.2f x-by-hand: kernel engine %.1f MB/s, by hand %.1f MB/s\n", rate("ours")/rate("by hand"), rate("ours"), rate("by hand"))
		fmt.Printf("measured: %.2f of by hand through the loopback shim and a relay that costs nothing\n", rate("ours, relayed")/rate("by hand"))
	}
}

// byHand does what wg(8) and ip(8) would be told to.
func byHand(b *testing.B, x, y *site) {
	b.Helper()
	for i, s := range []*site{x, y} {
		other := []*site{y, x}[i]
		must(b, within(s.hostNS, func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MTU = "wg-test", DefaultMTU
			link := &netlink.Wireguard{LinkAttrs: attrs}
			if err := netlink.LinkAdd(link); err != nil {
				return err
			}
			control, err := wgctrl.New()
			if err != nil {
				return err
			}
			defer control.Close()
			key, port := wgtypes.Key(s.key), 51820
			err = control.ConfigureDevice("wg-test", wgtypes.Config{PrivateKey: &key, ListenPort: &port, Peers: []wgtypes.PeerConfig{{
				PublicKey: wgtypes.Key(other.key.Public()), AllowedIPs: ipNets(s.peerOf(other).AllowedIPs),
				Endpoint: net.UDPAddrFromAddrPort(netip.AddrPortFrom(other.addr4, 51820)),
			}}})
			if err != nil {
				return err
			}
			return netlink.LinkSetNsFd(link, s.routerNS)
		}))
		s.route(b)
	}
}
