package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/zero-os/zos/gateway"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/gateway/dns"
)

// names answers for the grid's domain at some addresses.
type names struct {
	log    *slog.Logger
	server *dns.Server
	texts  *texts

	mu sync.Mutex
	at map[netip.Addr]func() // what ends answering at an address
}

func newNames(log *slog.Logger) *names {
	return &names{log: log, server: dns.New(dns.Options{Log: log}), texts: newTexts(), at: map[netip.Addr]func(){}}
}

// listen makes it answer at these addresses and no others. One that can't be
// listened at is tried again with the next configuration.
func (n *names) listen(addrs []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	want := map[netip.Addr]bool{}
	for _, a := range addrs {
		want[a] = true
		if n.at[a] != nil {
			continue
		}
		stop, err := n.answer(netip.AddrPortFrom(a, 53))
		if err != nil {
			n.log.Warn("answer for the grid's domain", "at", a, "error", err)
			continue
		}
		n.at[a] = stop
	}
	for a, stop := range n.at {
		if !want[a] {
			stop()
			delete(n.at, a)
		}
	}
}

func (n *names) answer(at netip.AddrPort) (stop func(), err error) {
	u, err := gateway.NetListener{}.ListenUDP(at)
	if err != nil {
		return nil, err
	}
	l, err := gateway.NetListener{}.ListenTCP(at)
	if err != nil {
		u.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = n.server.ServeUDP(ctx, u) })
	wg.Go(func() { _ = n.server.ServeTCP(ctx, l) })
	return func() { cancel(); wg.Wait() }, nil
}

// set replaces the zone.
func (n *names) set(z control.Zone) error {
	out := dns.Zone{Domain: z.Domain, Serial: z.Serial, Names: map[string][]netip.Addr{}, TXT: map[string][]string{}}
	for _, ns := range z.NS {
		addrs, err := control.Addrs(ns.Addrs)
		if err != nil {
			return fmt.Errorf("name server %s: %w", ns.Name, err)
		}
		out.NS = append(out.NS, dns.NameServer{Name: ns.Name, Addrs: addrs})
	}
	for _, m := range z.Names {
		addrs, err := control.Addrs(m.Addrs)
		if err != nil {
			return fmt.Errorf("name %s: %w", m.Name, err)
		}
		out.Names[m.Name] = addrs
	}
	for _, r := range z.TXT {
		out.TXT[r.Name] = r.Texts
	}
	if err := n.server.SetZone(out); err != nil {
		return err
	}
	n.texts.set(out.TXT)
	return nil
}
