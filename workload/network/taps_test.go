package network

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload/control"
	virt "github.com/zero-os/zos/workload/machine"
)

// machines is a world in which vm is a virtual machine beside web.
func machines(t *testing.T) (*deployment, place, place) {
	w := newWorld(t, "a")
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("vm", "a", 2, egress(plan.EgressNone)).add("web", "a", 3)
	d.members[0].machine = true
	d.up()
	return d, d.place("vm"), d.place("web")
}

func (d *deployment) attachMachine(t *testing.T, name string) virt.Net {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	for _, m := range d.members {
		if m.name == name {
			n, err := m.attacher(d.w.nodes[m.node].kind).AttachMachine(ctx, d.desired(d.plan(), name), m.at)
			must(t, err)
			return n
		}
	}
	t.Fatalf("no member %s", name)
	return virt.Net{}
}

func TestAGuestReachesNeighboursAndIsReached(t *testing.T) {
	d, vm, web := machines(t)
	guest := vm.guest("tap0")
	in := web.udp(web.v4, 7000)
	r := d.routerPlace("a")
	mac, gw := workloadMAC(vm.v4), routerMAC(r.v4)
	kind, packet := udp(vm.v4, web.v4, 7000, "from the guest")
	guest.send(t, frame(gw, mac, kind, packet))
	texts(t, in, "from the guest")
	web.send(web.v4, netip.AddrPortFrom(vm.v4, 7001), "to the guest")
	guest.until(t, "to the guest")
	web.send(web.v6, netip.AddrPortFrom(vm.v6, 7001), "to the guest by IPv6")
	guest.until(t, "to the guest by IPv6")
}

func TestAGuestIsAnsweredWhoseTheRouterIs(t *testing.T) {
	d, vm, _ := machines(t)
	guest := vm.guest("tap0")
	r := d.routerPlace("a")
	mac := workloadMAC(vm.v4)
	// As any guest begins: it asks for the router's MAC.
	guest.send(t, frame(broadcast, mac, typeARP, arp(1, mac, vm.v4, make([]byte, 6), r.v4)))
	guest.until(t, string(slices.Concat([]byte{0, 2}, routerMAC(r.v4), r.v4.AsSlice(), mac, vm.v4.AsSlice())))
}

func TestWhatAGuestIsToldIsWhatAContainerGets(t *testing.T) {
	w := newWorld(t, "a")
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("vm", "a", 2, egress(plan.EgressNode))
	d.members[0].machine = true
	d.up()
	got := d.attachMachine(t, "vm")
	r := d.routerPlace("a")
	v6 := d.members[0].at[0].IPv6
	whole6 := d.networks[0].IPv6
	want := []control.Iface{{
		Name: "eth0", MAC: "02:7a:0a:14:01:02", MTU: got.Interfaces[0].MTU, Addresses: []string{"10.20.1.2/32", v6 + "/128"},
		Routes: []control.Route{
			{To: "10.20.1.1/32"}, {To: "10.20.0.0/16", Via: "10.20.1.1", OnLink: true}, {To: "0.0.0.0/0", Via: "10.20.1.1", OnLink: true},
			{To: r.v6.String() + "/128"}, {To: whole6, Via: r.v6.String(), OnLink: true}, {To: "::/0", Via: r.v6.String(), OnLink: true},
		},
	}}
	if diff := cmp.Diff(want, got.Ifaces()); diff != "" {
		t.Error(diff)
	}
	if got.Interfaces[0].Tap != "tap0" || got.Interfaces[0].MTU < 1200 || len(got.Nameservers) == 0 || len(got.ResolvConf) == 0 || len(got.Hosts) == 0 {
		t.Errorf("%+v", got)
	}
}

func TestAMachinesNamespaceHasNoAddress(t *testing.T) {
	_, vm, _ := machines(t)
	vm.in(func() error {
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		for _, a := range addrs {
			if !a.IP.IsLoopback() {
				t.Errorf("it has %s on %s", a.IPNet, a.Label)
			}
		}
		return err
	})
}

func TestAMachinesAttachmentIsMended(t *testing.T) {
	d, vm, web := machines(t)
	kind := d.w.nodes["a"].kind
	id := d.desired(d.plan(), "vm").ID
	for name, breaks := range map[string]func() error{
		"no tap":         func() error { return remove("tap0") },
		"no hub":         func() error { return remove("hub0") },
		"no interface":   func() error { return remove("eth0") },
		"tap not joined": func() error { l, err := find("tap0"); return errors.Join(err, netlink.LinkSetNoMaster(l)) },
	} {
		must(t, kind.Attached(id))
		vm.in(breaks)
		if kind.Attached(id) == nil {
			t.Errorf("%s: not noticed", name)
		}
		d.attachMachine(t, "vm")
		must(t, kind.Attached(id))
		guest := vm.guest("tap0")
		web.send(web.v4, netip.AddrPortFrom(vm.v4, 7001), name)
		guest.until(t, name)
		must(t, guest.guest.Close())
	}
}

// TestATapIsNotTakenFromARunningMachine: attaching again leaves what is right alone.
func TestATapIsNotTakenFromARunningMachine(t *testing.T) {
	d, vm, web := machines(t)
	guest := vm.guest("tap0")
	d.attachMachine(t, "vm")
	web.send(web.v4, netip.AddrPortFrom(vm.v4, 7001), "still there")
	guest.until(t, "still there")
}

func TestAMachinesNetworkGoesWithIt(t *testing.T) {
	d, _, _ := machines(t)
	kind := d.w.nodes["a"].kind
	id := d.desired(d.plan(), "vm").ID
	for range 2 {
		must(t, kind.Detach(context.Background(), id))
	}
	if err := kind.Attached(id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still attached: %v", err)
	}
	if _, err := os.Stat(kind.path(containerPrefix, id, ".d")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory is left: %v", err)
	}
	d.routerPlace("a").in(func() error {
		l, err := find(portName(netip.MustParseAddr("10.20.1.2")))
		if l != nil {
			t.Error("its port is left")
		}
		return err
	})
}

// TestAGuestFillsNoTable: whatever MACs a guest sends with, the node remembers none.
func TestAGuestFillsNoTable(t *testing.T) {
	_, vm, web := machines(t)
	guest := vm.guest("tap0")
	table := func() int {
		n := 0
		vm.in(func() error {
			all, err := netlink.NeighList(0, unix.AF_BRIDGE)
			n = len(all)
			return err
		})
		return n
	}
	before := table()
	for i := range 2000 {
		guest.send(t, frame(broadcast, []byte{2, 1, 1, 1, byte(i >> 8), byte(i)}, typeIPv4, make([]byte, 46)))
	}
	web.send(web.v4, netip.AddrPortFrom(vm.v4, 7001), "after")
	guest.until(t, "after")
	if after := table(); after != before {
		t.Errorf("%d entries, before %d", after, before)
	}
}
