package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/linux/tap"
	"github.com/zero-os/zos/network/resolver"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
	"github.com/zero-os/zos/workload/control"
	virt "github.com/zero-os/zos/workload/machine"
)

// A virtual machine is in a network as a container is: by the same namespace and the
// same interfaces, of which each is joined with a tap by a bridge of two ports. What
// it sends passes the router's filters as any workload's frames do; nothing here
// decides about them. The namespace itself has no address.

// machinePrefix is of machines' namespaces in the run directory.
const machinePrefix = "m-"

// Machines attaches workloads of kind "vm".
func (k *Kind) Machines() Attacher { return Attacher{k, machinePrefix} }

var _ container.MachineNetworks = Attacher{}

// AttachMachine is Attach for a workload that is a virtual machine: ethN is without
// addresses, and bridged with the persistent tap tapN, of which the monitor takes
// the descriptor. It is as idempotent, and mends as well.
func (k *Kind) AttachMachine(ctx context.Context, d workload.Desired, nets []plan.Attachment) (virt.Net, error) {
	return k.containers().AttachMachine(ctx, d, nets)
}

// AttachMachine is Kind.AttachMachine for the attacher's workloads.
func (k Attacher) AttachMachine(ctx context.Context, d workload.Desired, nets []plan.Attachment) (virt.Net, error) {
	n, err := k.attachMachine(ctx, d, nets)
	if err != nil {
		return virt.Net{}, fmt.Errorf("attach %s to its networks: %w", d.ID.Name, err)
	}
	return n, nil
}

func (k Attacher) attachMachine(ctx context.Context, d workload.Desired, nets []plan.Attachment) (virt.Net, error) {
	out, want, err := k.machineNet(d, nets)
	if err != nil {
		return virt.Net{}, err
	}
	dir := k.path(k.prefix, d.ID, ".d")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return virt.Net{}, fmt.Errorf("make its directory: %w", err)
	}
	ns, _, err := netns.Pin(out.Path)
	if err != nil {
		return virt.Net{}, err
	}
	defer ns.Close()
	fd := int(ns.Fd())
	err = netns.Do(fd, func() error {
		if err := netns.Set(workloadSettings()...); err != nil {
			return err
		}
		// Nobody here speaks IP: what the guest sends is for others.
		return netns.Set(netns.Setting{Path: "ipv6/conf/all/disable_ipv6", Value: "1"}, netns.Setting{Path: "ipv6/conf/default/disable_ipv6", Value: "1"})
	})
	if err != nil {
		return virt.Net{}, err
	}
	for _, a := range want {
		if err := k.tie(ctx, d, fd, a); err != nil {
			return virt.Net{}, fmt.Errorf("network %s: %w", a.view.Network, err)
		}
	}
	return out, writeJSON(filepath.Join(dir, "tether.json"), tether{want})
}

// MachineNetOf tells what AttachMachine gives, of the plan alone.
func (k Attacher) MachineNetOf(d workload.Desired, nets []plan.Attachment) (virt.Net, error) {
	n, _, err := k.machineNet(d, nets)
	return n, err
}

func (k Attacher) machineNet(d workload.Desired, nets []plan.Attachment) (virt.Net, []attachment, error) {
	want, err := k.tethers(d, nets)
	if err != nil {
		return virt.Net{}, nil, err
	}
	out := virt.Net{
		Path: k.path(k.prefix, d.ID, ""), ResolvConf: resolver.ResolvConf(d.Deployment, d.ID.Name), Hosts: resolver.Hosts(d.Deployment, d.ID.Name),
	}
	out.Nameservers, out.Search = parseResolvConf(out.ResolvConf)
	for i := range want {
		want[i].Tap = fmt.Sprintf("tap%d", i)
		out.Interfaces = append(out.Interfaces, virt.Interface{Tap: want[i].Tap, Iface: want[i].iface()})
	}
	if len(want) > 0 {
		router := workload.ID{Contract: d.ID.Contract, Name: want[0].Router}
		out.Probe = &virt.ProbeFrom{Netns: k.path(routerPrefix, router, ""), To: want[0].IPv4.String()}
	}
	return out, want, nil
}

// parseResolvConf reads what the resolver wrote.
func parseResolvConf(b []byte) (servers []netip.Addr, search []string) {
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil {
				servers = append(servers, a)
			}
		case "search":
			search = append(search, f[1:]...)
		}
	}
	return servers, search
}

// iface is what the guest is told of an attachment: what workloadSide gives to a
// container's interface.
func (a attachment) iface() control.Iface {
	i := control.Iface{
		Name: a.Name, MAC: hw(workloadMAC(a.IPv4)).String(), MTU: a.view.MTU,
		Addresses: []string{single(a.port.IPv4).String(), single(a.port.IPv6).String()},
	}
	for _, f := range a.ways() {
		i.Routes = append(i.Routes, control.Route{To: single(f.router).String()})
		for _, to := range f.dests {
			i.Routes = append(i.Routes, control.Route{To: to.String(), Via: f.router.String(), OnLink: true})
		}
	}
	return i
}

// way is what an attachment reaches by one family's router.
type way struct {
	router netip.Addr
	dests  []netip.Prefix
}

func (a attachment) ways() []way {
	w := []way{{a.view.Router4, []netip.Prefix{a.view.IPv4}}, {a.view.Router6, []netip.Prefix{a.view.IPv6}}}
	if a.port.Egress != plan.EgressNone {
		w[0].dests = append(w[0].dests, netip.PrefixFrom(netip.IPv4Unspecified(), 0))
		w[1].dests = append(w[1].dests, netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	return w
}

// deviceMAC is of ethN itself: a workload's own, or, where a guest has that, another
// one that nobody speaks to. A bridge keeps for itself what is for its ports' MACs.
func (a attachment) deviceMAC() []byte {
	if a.Tap == "" {
		return workloadMAC(a.IPv4)
	}
	return mac(0x0a, a.IPv4)
}

// hubName is the bridge that joins a tap with its interface.
func (a attachment) hubName() string { return "hub" + strings.TrimPrefix(a.Tap, "tap") }

// guestSide makes the tap and joins it with the interface, which is there already.
func (a attachment) guestSide() error {
	l, err := find(a.Name)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("interface %s is gone", a.Name)
	}
	if err := addresses(l); err != nil {
		return err
	}
	hub, err := a.hub()
	if err != nil {
		return err
	}
	guest, err := a.tap()
	if err != nil {
		return err
	}
	for _, port := range []netlink.Link{l, guest} {
		if port.Attrs().MasterIndex != hub.Attrs().Index {
			if err := netlink.LinkSetMaster(port, hub); err != nil {
				return fmt.Errorf("join %s with %s: %w", port.Attrs().Name, a.hubName(), err)
			}
		}
		// Everything that comes in at one goes out at the other: a guest that sends
		// with many MACs fills no table.
		if err := setPort(port, map[int]byte{nl.IFLA_BRPORT_LEARNING: 0, nl.IFLA_BRPORT_UNICAST_FLOOD: 1, nl.IFLA_BRPORT_MCAST_FLOOD: 1, nl.IFLA_BRPORT_BCAST_FLOOD: 1}); err != nil {
			return fmt.Errorf("set bridge port %s: %w", port.Attrs().Name, err)
		}
		if err := limit(port, a.port.Bandwidth, a.view.MTU); err != nil {
			return err
		}
		if err := up(port, a.view.MTU); err != nil {
			return err
		}
	}
	return up(hub, a.view.MTU)
}

// hub finds the bridge, or makes it.
func (a attachment) hub() (netlink.Link, error) {
	name := a.hubName()
	l, err := find(name)
	if err != nil || l != nil {
		return l, err
	}
	b := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	b.Name, b.MTU, b.HardwareAddr = name, a.view.MTU, hw(mac(0x0e, a.IPv4))
	off := false
	b.MulticastSnooping = &off
	if err := netlink.LinkAdd(b); err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", name, err)
	}
	return find(name)
}

// tap finds the tap, or makes it. It stays without anyone having it open, and
// belongs to no user: who opens it needs the capability over this namespace.
func (a attachment) tap() (netlink.Link, error) {
	l, err := find(a.Tap)
	if err != nil || l != nil {
		return l, err
	}
	f, err := tap.Open(a.Tap)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := tap.Keep(f); err != nil {
		return nil, err
	}
	return find(a.Tap)
}

// joined tells whether the guest's side of an attachment is as guestSide makes it.
func (a attachment) joined() error {
	hub, err := find(a.hubName())
	if err != nil || hub == nil {
		return errors.Join(err, fmt.Errorf("it has no %s", a.hubName()))
	}
	for _, name := range []string{a.Name, a.Tap} {
		l, err := find(name)
		if err != nil || l == nil {
			return errors.Join(err, fmt.Errorf("it has no %s", name))
		}
		if l.Attrs().MasterIndex != hub.Attrs().Index {
			return fmt.Errorf("its %s is not joined with %s", name, a.hubName())
		}
	}
	return nil
}
