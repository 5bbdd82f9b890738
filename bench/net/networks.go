package main

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/netlab/netnode"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/agent"
)

// nodes starts nodes on the internet, and waits until they are connected.
func nodes(w *netnode.World, numbers []int, change ...func(*netnode.Config)) []*netnode.Node {
	var all []*netnode.Node
	for _, i := range numbers {
		all = append(all, w.Node(i, w.Lab.Host(fmt.Sprintf("node%d", i), w.Internet), change...))
	}
	connected(w, all...)
	return all
}

// connected waits until nodes have all their links.
func connected(w *netnode.World, all ...*netnode.Node) {
	for _, n := range all {
		netnode.Until(w.TB, "the nodes are connected", func() bool {
			s := n.Status()
			for _, l := range s.Links {
				if !l.Up || !l.UDP && !n.Config.RelayOnly {
					return false
				}
			}
			return s.Bus == len(n.Config.Servers)
		})
	}
}

// routers makes the namespaces in which a network will be, and takes note of
// the time when it was told to all nodes at once.
func routers(all []*netnode.Node, t network.Topology) []*netlab.Host {
	var out []*netlab.Host
	for _, n := range all {
		out = append(out, n.Router(t))
	}
	return out
}

func ensure(all []*netnode.Node, t network.Topology) time.Time {
	began := time.Now()
	var work sync.WaitGroup
	for _, n := range all {
		work.Go(func() { n.Ensure(t) })
	}
	work.Wait()
	return began
}

// count is 0, 1, … n-1.
func count(n int) []int {
	var all []int
	for i := range n {
		all = append(all, i)
	}
	return all
}

// routed starts servers and nodes around a router of the kernel: with so many of
// them, this program's own switching would be a part of what is measured, and
// on one segment the kernel's table of neighbours, 1024 for all namespaces
// together, would overflow.
func routed(w *netnode.World, servers, size int) []*netnode.Node {
	router := w.Lab.Host("router")
	router.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	host := func(i int) (*netlab.Host, netip.Addr) {
		h, net := w.Lab.Host(fmt.Sprintf("host%d", i)), [4]byte{198, 19, byte(i), 1}
		gateway := netip.AddrFrom4(net)
		net[3] = 2
		a := netip.AddrFrom4(net)
		router.Veth(fmt.Sprintf("p%d", i), netip.PrefixFrom(gateway, 24).String(), h, "eth0", netip.PrefixFrom(a, 24).String())
		h.Run("ip", "route", "add", "default", "via", gateway.String())
		return h, a
	}
	var urls []string
	for i := range servers {
		h, a := host(i)
		s := netnode.StartServer(w.TB, h, netnode.ServerConfig{Listen: netip.AddrPortFrom(a, 443).String(), CertDir: w.Dir(), First: true})
		w.Servers = append(w.Servers, s)
		urls = append(urls, s.URL)
	}
	netnode.Join(w.TB, w.Servers...)
	var all []*netnode.Node
	for i := range size {
		h, _ := host(servers + i)
		all = append(all, netnode.StartNode(w.TB, h, netnode.Config{Number: i, Servers: urls}))
	}
	connected(w, all...)
	return all
}

// mesh measures a network that is told to many nodes at once, then one more
// node, then the memory of a node in it.
func (b *bench) mesh() error {
	var failed error
	err := lab(0, func(w *netnode.World) {
		all := routed(w, 2, b.size+1)
		old, late := all[:b.size], all[b.size]
		t := netnode.Mesh("mesh", count(b.size)...)
		routers(old, t)
		began := ensure(old, t)
		times, err := await(old, t.ID, b.size-1, began)
		if failed = err; err != nil {
			return
		}
		p99 := times[len(times)*99/100]
		b.Add(fmt.Sprintf("mesh of %d nodes told at once, %d ends of links have shaken hands", b.size, len(times)),
			fmt.Sprintf("median %s, p99 %s, most %s", show(times[len(times)/2]), show(p99), show(times[len(times)-1])), "p99 ≤ 3000 ms", p99 <= 3*time.Second)

		more := netnode.Mesh("mesh", count(b.size+1)...)
		routers([]*netnode.Node{late}, more)
		began = ensure(all, more)
		times, err = await([]*netnode.Node{late}, t.ID, b.size, began)
		if failed = err; err != nil {
			return
		}
		last := times[len(times)-1]
		b.Add(fmt.Sprintf("one more node in it has shaken hands with all %d", b.size), show(last), "≤ 500 ms", last <= 500*time.Millisecond)

		rss := late.Status().Resident
		b.Add(fmt.Sprintf("resident memory of a process with agent, wireguard-go, relay client and bus, %d peers", b.size),
			fmt.Sprintf("%.0f MB", float64(rss)/1e6), "≤ 40 MB", rss <= 40e6)
	})
	if err == nil {
		err = failed
	}
	return err
}

// await is when each end of each link had shaken hands, after a moment, sorted.
func await(all []*netnode.Node, id canon.Hash, peers int, began time.Time) ([]time.Duration, error) {
	var mu sync.Mutex
	var times []time.Duration
	var failed error
	var work sync.WaitGroup
	for _, n := range all {
		work.Go(func() {
			at, err := n.Await(id, peers)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = fmt.Errorf("node %d: %w", n.Config.Number, err)
			}
			for _, t := range at {
				times = append(times, t.Sub(began))
			}
		})
	}
	work.Wait()
	slices.Sort(times)
	return times, failed
}

// first measures from telling two nodes of a network to the first packet there
// and back.
func (b *bench) first() error {
	var all []time.Duration
	err := lab(2, func(w *netnode.World) {
		ns := nodes(w, count(2))
		for i := range b.times {
			t := netnode.Mesh(fmt.Sprintf("first%d", i), 0, 1)
			rs := routers(ns, t)
			netnode.Answer(w.TB, rs[1], netnode.Router4(1))
			p := netnode.NewPing(w.TB, rs[0], netnode.Router4(1))
			began := ensure(ns, t)
			p.Goes(w.TB, "the first packet", 1)
			all = append(all, p.First().Sub(began))
			p.Close()
		}
	})
	if err != nil {
		return err
	}
	b.addTimes("first packet there and back", all, time.Second)
	return nil
}

// direct measures from telling two nodes of a network, each behind a NAT, to
// both using a direct path.
func (b *bench) direct() error {
	for _, nats := range [][2]netlab.NAT{{netlab.FullCone, netlab.PortRestricted}, {netlab.PortRestricted, netlab.PortRestricted}} {
		var all []time.Duration
		err := lab(2, func(w *netnode.World) {
			var ns []*netnode.Node
			for i, nat := range nats {
				s := w.Lab.Site(fmt.Sprintf("site%d", i), netlab.SiteConfig{WAN: w.Internet, NAT: nat, LAN: []string{fmt.Sprintf("192.168.%d.0/24", i+1)}})
				ns = append(ns, w.Node(i, s.Host(fmt.Sprintf("node%d", i))))
			}
			connected(w, ns...)
			for i := range b.times {
				t := netnode.Mesh(fmt.Sprintf("direct%d", i), 0, 1)
				routers(ns, t)
				began := ensure(ns, t)
				netnode.Until(w.TB, "direct paths", func() bool {
					return ns[0].Peer(t.ID, 1).Path == agent.PathDirect && ns[1].Peer(t.ID, 0).Path == agent.PathDirect
				})
				all = append(all, time.Since(began))
				for _, n := range ns {
					n.Remove(t.ID)
				}
			}
		})
		if err != nil {
			return err
		}
		b.addTimes(fmt.Sprintf("direct path, %s to %s NAT", nats[0], nats[1]), all, 3*time.Second)
	}
	return nil
}

// pings makes a network between the nodes over which a ping goes.
func pings(w *netnode.World, ns []*netnode.Node, t network.Topology) *netnode.Ping {
	rs := routers(ns, t)
	at := netip.Addr(netnode.Router4(ns[1].Config.Number))
	netnode.Answer(w.TB, rs[1], at)
	p := netnode.NewPing(w.TB, rs[0], at)
	ensure(ns, t)
	p.Goes(w.TB, "the nodes reach each other", 10)
	return p
}

// roaming measures how long nothing passes when a node gets another address.
func (b *bench) roaming() error {
	var all []time.Duration
	err := lab(2, func(w *netnode.World) {
		ns := nodes(w, count(2))
		t := netnode.Mesh("roaming", 0, 1)
		p := pings(w, ns, t)
		for range b.times {
			netnode.Until(w.TB, "direct paths", func() bool {
				return ns[0].Peer(t.ID, 1).Path == agent.PathDirect && ns[1].Peer(t.ID, 0).Path == agent.PathDirect
			})
			p.Goes(w.TB, "directly", 100)
			p.Reset()
			ns[0].Host.NIC(0).Move(w.Internet)
			p.Goes(w.TB, "after the move", 100)
			all = append(all, p.Silence())
		}
	})
	if err != nil {
		return err
	}
	b.addTimes("silence when a node's address changes", all, 500*time.Millisecond)
	return nil
}

// reboot measures from the start of a node that lost everything, on a link that is
// up, until it has shaken hands with all others, who did not know that it was
// gone. The node begins exchanges with some of them and waits for the rest.
func (b *bench) reboot() error {
	const others = 10
	var all []time.Duration
	err := lab(2, func(w *netnode.World) {
		ns := nodes(w, count(others+1))
		t := netnode.Mesh("reboot", count(others+1)...)
		routers(ns, t)
		began := ensure(ns, t)
		if _, err := await(ns, t.ID, others, began); err != nil {
			w.TB.Fatalf("%v", err)
		}
		for i := range b.times {
			at := i % len(ns)
			ns[at].Kill()
			began = time.Now()
			ns[at] = w.Node(at, ns[at].Host)
			ns[at].Router(t)
			ns[at].Ensure(t)
			times, err := await(ns[at:at+1], t.ID, others, began)
			if err != nil {
				w.TB.Fatalf("%v", err)
			}
			all = append(all, times[len(times)-1])
		}
	})
	if err != nil {
		return err
	}
	b.addTimes(fmt.Sprintf("a node that lost everything has its network back, with %d peers", others), all, 5*time.Second)
	return nil
}

// loss measures how long nothing passes when the relay in use dies, by which
// alone the nodes are connected: killed, or hanging.
func (b *bench) loss() error {
	for _, how := range []string{"is killed", "hangs"} {
		var all []time.Duration
		err := lab(2, func(w *netnode.World) {
			ns := nodes(w, count(2), func(c *netnode.Config) { c.RelayOnly = true })
			p := pings(w, ns, netnode.Mesh("loss", 0, 1))
			var mu sync.Mutex
			frames := map[netip.Addr]int{}
			w.Internet.Tap(func(p netlab.Packet) {
				mu.Lock()
				defer mu.Unlock()
				frames[p.Flow.Dst.Addr()]++
			})
			for range b.times {
				connected(w, ns...)
				mu.Lock()
				clear(frames)
				mu.Unlock()
				p.Goes(w.TB, "to see which relay is used", 200)
				mu.Lock()
				used := 0
				if frames[w.Servers[1].Host.Addr4()] > frames[w.Servers[0].Host.Addr4()] {
					used = 1
				}
				mu.Unlock()
				p.Reset()
				if how == "hangs" {
					w.Servers[used].Freeze(true)
					p.Goes(w.TB, "after a relay hangs", 200)
					all = append(all, p.Silence())
					w.Servers[used].Freeze(false)
					continue
				}
				w.Servers[used].Kill()
				p.Goes(w.TB, "after a relay was killed", 200)
				all = append(all, p.Silence())
				w.Servers[used] = w.Restart(w.Servers[used])
			}
		})
		if err != nil {
			return err
		}
		b.addTimes("silence when the relay in use "+how, all, 2*time.Second)
	}
	return nil
}
