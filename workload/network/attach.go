package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/network/resolver"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
)

// patience is how long Attach waits for the routers of a workload's networks.
const patience = 10 * time.Second

// attachment is one interface of a workload, computed.
type attachment struct {
	Name   string     `json:"name"` // eth0, …
	Router string     `json:"router"`
	IPv4   netip.Addr `json:"ipv4"`
	Tap    string     `json:"tap,omitempty"` // of a virtual machine: tap0, …
	view   View
	port   Port
}

// tether is what is written down of a workload's namespace.
type tether struct {
	Attachments []attachment `json:"attachments"`
}

// workloadSettings are those of a workload's namespace.
func workloadSettings() []netns.Setting {
	return append(quiet(),
		// Without any capability a container is not "root" over its network, and there
		// is nobody else in it: ports below 1024 and echo are for all.
		netns.Setting{Path: "ipv4/ip_unprivileged_port_start", Value: "0"},
		netns.Setting{Path: "ipv4/ping_group_range", Value: "0 2147483647"},
		netns.Setting{Path: "ipv4/ip_forward", Value: "0"},
		netns.Setting{Path: "ipv6/conf/all/forwarding", Value: "0"},
	)
}

// Attacher attaches workloads of one kind: containers, or gateways, which are in
// networks as containers are and have no process of their own.
type Attacher struct {
	*Kind
	prefix string // of names in the run directory
}

var (
	_ container.Networks = Attacher{}
	_ container.Networks = (*Kind)(nil)
)

func (k *Kind) containers() Attacher { return Attacher{k, containerPrefix} }

// Attach implements container.Networks.
func (k *Kind) Attach(ctx context.Context, d workload.Desired, nets []plan.Attachment) (container.Namespace, error) {
	return k.containers().Attach(ctx, d, nets)
}

// Attached implements container.Networks.
func (k *Kind) Attached(id workload.ID) error { return k.containers().Attached(id) }

// Detach implements container.Networks.
func (k *Kind) Detach(ctx context.Context, id workload.ID) error {
	return k.containers().Detach(ctx, id)
}

// List implements container.Networks.
func (k *Kind) List() ([]workload.ID, error) { return k.containers().List() }

// Gateways attaches workloads of kind "gateway". Whoever makes sockets in the
// namespace that Attach returns reaches what the gateway's routes name, and what is
// answered; nothing listens there that anyone in the network could reach.
func (k *Kind) Gateways() Attacher { return Attacher{k, gatewayPrefix} }

// Attach implements container.Networks.
func (k Attacher) Attach(ctx context.Context, d workload.Desired, nets []plan.Attachment) (container.Namespace, error) {
	ns, err := k.attach(ctx, d, nets)
	if err != nil {
		return container.Namespace{}, fmt.Errorf("attach %s to its networks: %w", d.ID.Name, err)
	}
	return ns, nil
}

func (k Attacher) attach(ctx context.Context, d workload.Desired, nets []plan.Attachment) (container.Namespace, error) {
	var none container.Namespace
	want, err := k.tethers(d, nets)
	if err != nil {
		return none, err
	}
	dir := k.path(k.prefix, d.ID, ".d")
	out := container.Namespace{
		Path: k.path(k.prefix, d.ID, ""), Sysfs: filepath.Join(dir, "sys"),
		ResolvConf: filepath.Join(dir, "resolv.conf"), Hosts: filepath.Join(dir, "hosts"),
	}
	if err := os.MkdirAll(out.Sysfs, 0o711); err != nil {
		return none, fmt.Errorf("make its directory: %w", err)
	}
	ns, made, err := netns.Pin(out.Path)
	if err != nil {
		return none, err
	}
	defer ns.Close()
	fd := int(ns.Fd())
	err = netns.Do(fd, func() error {
		if err := netns.Set(workloadSettings()...); err != nil {
			return err
		}
		lo, err := find("lo")
		if err != nil {
			return err
		}
		return up(lo, 65536)
	})
	if err != nil {
		return none, err
	}
	for i := range want {
		if err := k.tie(ctx, d, fd, want[i]); err != nil {
			return none, fmt.Errorf("network %s: %w", want[i].view.Network, err)
		}
	}
	if made {
		// One that was left there shows another namespace.
		if err := unmountAll(out.Sysfs); err != nil {
			return none, err
		}
	}
	if err := furnish(out, d, fd); err != nil {
		return none, err
	}
	return out, writeJSON(filepath.Join(dir, "tether.json"), tether{want})
}

// tethers computes the attachments from the plan.
func (k *Kind) tethers(d workload.Desired, nets []plan.Attachment) ([]attachment, error) {
	if !nameRE.MatchString(d.ID.Name) || len(nets) == 0 || len(nets) > plan.MaxAttachments {
		return nil, problem.New(CodeInvalid, "workload %.63q: want a name and 1 to %d networks", d.ID.Name, plan.MaxAttachments)
	}
	var out []attachment
	for i, a := range nets {
		v, err := ViewOf(d.Deployment, a.Network, k.cfg.Slot, k.cfg.MTU)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(v.Ports, func(p Port) bool {
			return p.Workload == d.ID.Name && p.IPv4.String() == a.IPv4 && p.IPv6.String() == a.IPv6
		})
		if at < 0 {
			return nil, problem.New(CodeInvalid, "the plan does not have %s in network %s at %.50q on this node", d.ID.Name, a.Network, a.IPv4)
		}
		p := v.Ports[at]
		out = append(out, attachment{Name: fmt.Sprintf("eth%d", i), Router: plan.RouterName(a.Network, k.cfg.Slot), IPv4: p.IPv4, view: v, port: p})
	}
	return out, nil
}

// tie makes one interface, or mends it.
func (k *Kind) tie(ctx context.Context, d workload.Desired, ns int, a attachment) error {
	router := workload.ID{Contract: d.ID.Contract, Name: a.Router}
	// What is tied already needs no router of this very version: a change of the
	// contract that does not concern this workload doesn't hold it up.
	if k.tied(router, ns, a) != nil {
		if err := k.await(ctx, d, router, a); err != nil {
			return err
		}
	}
	defer k.lock(router)()
	r, err := netns.Open(k.path(routerPrefix, router, ""))
	if err != nil {
		return problem.New(ReasonPending, "network %s has gone from this node: %w", a.view.Network, err)
	}
	defer r.Close()
	if err := k.tied(router, ns, a); err != nil {
		if err := plug(int(r.Fd()), ns, a); err != nil {
			return err
		}
	}
	if err := netns.Do(int(r.Fd()), a.routerSide); err != nil {
		return err
	}
	side := a.workloadSide
	if a.Tap != "" {
		side = a.guestSide
	}
	if err := netns.Do(ns, side); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := netns.Do(ns, func() error { return ready(limited, a.Name) }); err != nil {
		return err
	}
	return netns.Do(int(r.Fd()), func() error {
		if err := forwards(limited, portName(a.IPv4)); err != nil {
			return err
		}
		// The bridge has a carrier only now, by its first port.
		return ready(limited, bridgeName)
	})
}

// await waits until the router has this workload among its ports, as of the
// version that the workload is wanted in: its rules stand before its cable.
func (k *Kind) await(ctx context.Context, d workload.Desired, router workload.ID, a attachment) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		k.mu.Lock()
		changed := k.changed
		k.mu.Unlock()
		r, err := k.readRecord(router)
		if err == nil && r.Version >= d.Version && slices.ContainsFunc(r.View.Ports, func(p Port) bool {
			return p.Workload == a.port.Workload && p.IPv4 == a.port.IPv4 && p.IPv6 == a.port.IPv6
		}) {
			return nil
		}
		select {
		case <-limited.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return problem.New(ReasonPending, "network %s is not on this node yet", a.view.Network).
				WithFix("zos net show tells what it waits for")
		case <-changed:
		}
	}
}

// tied tells whether the interface is there and joined with its port.
func (k *Kind) tied(router workload.ID, ns int, a attachment) error {
	var port, peer, master, index int
	r, err := netns.Open(k.path(routerPrefix, router, ""))
	if err != nil {
		return err
	}
	defer r.Close()
	err = netns.Do(int(r.Fd()), func() error {
		b, err := find(bridgeName)
		if err != nil || b == nil {
			return errors.Join(err, errors.New("the router has no bridge"))
		}
		l, err := find(portName(a.IPv4))
		if err != nil || l == nil {
			return errors.Join(err, errors.New("the router has no port for it"))
		}
		if l.Attrs().MasterIndex != b.Attrs().Index || l.Attrs().Flags&net.FlagUp == 0 {
			master = -1
		}
		port, peer = l.Attrs().Index, l.Attrs().ParentIndex
		return nil
	})
	if err != nil {
		return err
	}
	err = netns.Do(ns, func() error {
		l, err := find(a.Name)
		if err != nil || l == nil {
			return errors.Join(err, fmt.Errorf("it has no %s", a.Name))
		}
		index = l.Attrs().Index
		if l.Attrs().ParentIndex != port || peer != index || master < 0 || l.Attrs().Flags&net.FlagUp == 0 ||
			l.Attrs().HardwareAddr.String() != hw(a.deviceMAC()).String() {
			return fmt.Errorf("its %s is not joined with the router", a.Name)
		}
		return nil
	})
	return err
}

// plug makes the pair of interfaces anew, both down.
func plug(router, ns int, a attachment) error {
	if err := netns.Do(ns, func() error { return remove(a.Name) }); err != nil {
		return err
	}
	return netns.Do(router, func() error {
		name := portName(a.IPv4)
		if err := remove(name); err != nil {
			return err
		}
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: a.Name, PeerNamespace: netlink.NsFd(ns), PeerHardwareAddr: hw(a.deviceMAC()), PeerMTU: uint32(a.view.MTU)}
		veth.Name, veth.MTU = name, a.view.MTU
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("make interface %s: %w", a.Name, err)
		}
		return nil
	})
}

// routerSide makes the port one of the bridge, as narrow as it can be, before it
// is switched on.
func (a attachment) routerSide() error {
	name := portName(a.IPv4)
	l, err := find(name)
	if err != nil {
		return err
	}
	b, err := find(bridgeName)
	if err != nil {
		return err
	}
	if l == nil || b == nil {
		return fmt.Errorf("port %s or its bridge is gone", name)
	}
	if err := netns.Set(netns.Setting{Path: "ipv6/conf/" + name + "/disable_ipv6", Value: "1"}); err != nil {
		return err
	}
	if l.Attrs().MasterIndex != b.Attrs().Index {
		if err := netlink.LinkSetMaster(l, b); err != nil {
			return fmt.Errorf("make %s a port: %w", name, err)
		}
	}
	mac := workloadMAC(a.IPv4)
	if err := confine(l); err != nil {
		return err
	}
	if err := stationary(l, mac); err != nil {
		return err
	}
	for _, ip := range []netip.Addr{a.port.IPv4, a.port.IPv6} {
		if err := neighbour(b, ip, mac); err != nil {
			return err
		}
	}
	if err := limit(l, a.port.Bandwidth, a.view.MTU); err != nil {
		return err
	}
	return up(l, a.view.MTU)
}

// workloadSide gives the interface its addresses and the routes of its network,
// and the default route if this is where it has egress.
func (a attachment) workloadSide() error {
	l, err := find(a.Name)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("interface %s is gone", a.Name)
	}
	if err := addresses(l, single(a.port.IPv4), single(a.port.IPv6)); err != nil {
		return err
	}
	if err := limit(l, a.port.Bandwidth, a.view.MTU); err != nil {
		return err
	}
	if err := up(l, a.view.MTU); err != nil {
		return err
	}
	mac := routerMAC(a.view.Router4)
	for _, f := range a.ways() {
		if err := neighbour(l, f.router, mac); err != nil {
			return err
		}
		if err := route(netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(single(f.router)), Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		for _, dst := range f.dests {
			if err := route(netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(dst), Gw: f.router.AsSlice()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// furnish makes the files that the container finds.
func furnish(n container.Namespace, d workload.Desired, ns int) error {
	if err := fill(n.ResolvConf, resolver.ResolvConf(d.Deployment, d.ID.Name)); err != nil {
		return err
	}
	if err := fill(n.Hosts, resolver.Hosts(d.Deployment, d.ID.Name)); err != nil {
		return err
	}
	mounted, err := mountedAt(n.Sysfs)
	if err != nil || mounted {
		return err
	}
	return netns.MountSysfs(ns, n.Sysfs)
}

func mountedAt(target string) (bool, error) {
	all, err := mount.Under(target)
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", target, err)
	}
	return len(all) > 0, nil
}

// unmountAll takes away whatever is mounted at a path.
func unmountAll(target string) error {
	for {
		if ok, err := mountedAt(target); err != nil || !ok {
			return err
		}
		if err := mount.Detach(target); err != nil {
			return err
		}
	}
}

// Attached implements container.Networks.
func (k Attacher) Attached(id workload.ID) error {
	ns, err := netns.Open(k.path(k.prefix, id, ""))
	if err != nil {
		return fmt.Errorf("its network namespace is gone: %w", err)
	}
	defer ns.Close()
	var t tether
	if err := readJSON(filepath.Join(k.path(k.prefix, id, ".d"), "tether.json"), &t); err != nil {
		return err
	}
	for _, a := range t.Attachments {
		if err := k.tied(workload.ID{Contract: id.Contract, Name: a.Router}, int(ns.Fd()), a); err != nil {
			return err
		}
		if a.Tap == "" {
			continue
		}
		if err := netns.Do(int(ns.Fd()), a.joined); err != nil {
			return err
		}
	}
	return nil
}

// Detach implements container.Networks.
func (k Attacher) Detach(_ context.Context, id workload.ID) error {
	if err := k.detach(id); err != nil {
		return fmt.Errorf("detach %s from its networks: %w", id.Name, err)
	}
	return nil
}

func (k Attacher) detach(id workload.ID) error {
	path, dir := k.path(k.prefix, id, ""), k.path(k.prefix, id, ".d")
	ns, err := netns.Open(path)
	switch {
	case err == nil:
		// Both ends of a veth go at once; with the namespace they'd go later.
		err := netns.Do(int(ns.Fd()), func() error {
			all, err := links()
			if err != nil {
				return fmt.Errorf("list links: %w", err)
			}
			for _, l := range all {
				if name := l.Attrs().Name; strings.HasPrefix(name, "eth") || strings.HasPrefix(name, "tap") || strings.HasPrefix(name, "hub") {
					if err := remove(l.Attrs().Name); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err := errors.Join(err, ns.Close()); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := unmountAll(filepath.Join(dir, "sys")); err != nil {
		return err
	}
	if err := netns.Unpin(path); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove its directory: %w", err)
	}
	return nil
}

// List implements container.Networks.
func (k Attacher) List() ([]workload.ID, error) { return k.list(k.prefix) }
