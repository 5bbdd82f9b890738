package network

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/spec/plan"
)

// listen listens for TCP at an address of the place.
func (p place) listen(a netip.AddrPort) net.Listener {
	p.t.Helper()
	var l net.Listener
	p.in(func() (err error) {
		l, err = net.Listen("tcp", a.String())
		return err
	})
	p.t.Cleanup(func() { l.Close() })
	return l
}

// dial connects from the place.
func (p place) dial(a netip.AddrPort, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return netns.Do(int(p.ns.Fd()), func() error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", a.String())
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

// TestARouterChecksAMachinesHealthAndIsReachedByNobody: what a machine's health is
// checked by opens nothing the other way, whoever may speak to the machine.
func TestARouterChecksAMachinesHealthAndIsReachedByNobody(t *testing.T) {
	w := newWorld(t, "a")
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("vm", "a", 2, egress(plan.EgressNone)).add("web", "a", 3, egress(plan.EgressNone))
	d.members[0].machine = true
	d.up()
	n := d.attachMachine(t, "vm")
	router, web := d.routerPlace("a"), d.place("web")
	if n.Probe == nil || n.Probe.To != d.members[0].at[0].IPv4 {
		t.Fatalf("the way to the machine is %+v", n.Probe)
	}
	// A container's own kernel answers where a guest's would: by the same filters.
	web.listen(netip.AddrPortFrom(web.v4, 8080))
	ns, err := netns.Open(n.Probe.Netns)
	must(t, err)
	defer ns.Close()
	if err := (place{t, "probe", ns, router.v4, router.v6}).dial(netip.AddrPortFrom(web.v4, 8080), patient); err != nil {
		t.Errorf("a check from the router: %v", err)
	}
	router.listen(netip.AddrPortFrom(router.v4, 8081))
	if err := web.dial(netip.AddrPortFrom(router.v4, 8081), time.Second); err == nil {
		t.Error("a workload reaches a port of its router")
	}
}
