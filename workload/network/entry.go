package network

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/netns"
	netplan "github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// entry is a router's way in for devices.
type entry struct {
	*wireguard.Entry
	inode uint64 // of the router's namespace
}

// Secrets are the node's part in the encryption of its networks' entries. All come
// from one secret of the node's identity, so that what people's machines were told
// holds for as long as the node's identity does, and nothing need be stored.
type Secrets struct{ secret [32]byte }

// NewSecrets derives from the secret of a node's identity, 32 bytes that are used
// for nothing else.
func NewSecrets(identity [32]byte) Secrets { return Secrets{identity} }

// Entry is the private key of a network's entry.
func (s Secrets) Entry(network canon.Hash) wireguard.Key {
	k := s.derive("zos-entry-v1", network[:])
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// Device is the preshared key of an entry and a device, known to nobody else but
// the device's account.
func (s Secrets) Device(network canon.Hash, key []byte, account canon.Hash) wireguard.Key {
	return s.derive("zos-device-v1", network[:], key, account[:])
}

// derive makes a key of a label and parts, whose lengths the label fixes.
func (s Secrets) derive(label string, parts ...[]byte) wireguard.Key {
	info := label + "\x00"
	for _, p := range parts {
		info += string(p)
	}
	k, err := hkdf.Key(sha256.New, s.secret[:], nil, info, len(wireguard.Key{}))
	if err != nil {
		panic(err) // it is shorter than the longest that there is
	}
	return wireguard.Key(k)
}

// peers are the devices of a view.
func (s Secrets) peers(network canon.Hash, v View) []wireguard.Peer {
	out := []wireguard.Peer{}
	for _, d := range v.Devices {
		out = append(out, wireguard.Peer{
			PublicKey: wireguard.Key(d.Key), PresharedKey: s.Device(network, d.Key, d.Account),
			AllowedIPs: []netip.Prefix{single(d.IPv4), single(d.IPv6)},
		})
	}
	return out
}

// enter makes the way in what the view says: its interface, who may enter, and the
// routes to them. The filter stands already, and has cut who is gone.
func (k *Kind) enter(ctx context.Context, id workload.ID, ns int, inode uint64, v View) error {
	e := k.entryOf(id)
	if e != nil && (!v.Entry || e.inode != inode || k.entered(e, id, v, false) != nil) {
		k.mu.Lock()
		delete(k.entries, id)
		k.mu.Unlock()
		if err := e.Close(); err != nil {
			return err
		}
		e = nil
	}
	if !v.Entry {
		// One that an earlier process left in the kernel.
		return netns.Do(ns, func() error { return remove(entryName) })
	}
	if k.cfg.Secrets == (Secrets{}) {
		return errors.New("this node has no secret to make keys of")
	}
	network := netplan.ID(id.Contract, v.Network)
	if e == nil {
		w, err := wireguard.OpenEntry(ctx, wireguard.EntryConfig{
			Name: entryName, PrivateKey: k.cfg.Secrets.Entry(network), NetNS: ns, Port: plan.EntryPort, MTU: v.MTU, Engine: k.cfg.Engine, Logger: k.cfg.Log,
		})
		if err != nil {
			return err
		}
		e = &entry{w, inode}
		k.mu.Lock()
		k.entries[id] = e
		k.mu.Unlock()
	}
	if err := e.SetPeers(k.cfg.Secrets.peers(network, v)); err != nil {
		return err
	}
	return netns.Do(ns, func() error { return deviceRoutes(v) })
}

// deviceRoutes leads to the devices of a view and to nobody else by the entry.
func deviceRoutes(v View) error {
	l, err := find(entryName)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("%s is gone", entryName)
	}
	var want []netip.Prefix
	for _, d := range v.Devices {
		want = append(want, single(d.IPv4), single(d.IPv6))
	}
	for _, p := range want {
		if err := route(netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p), Scope: scopeOf(p)}); err != nil {
			return err
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		have, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: l.Attrs().Index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list the routes to devices: %w", err)
		}
		for _, r := range have {
			stays := func(p netip.Prefix) bool { return r.Dst != nil && r.Dst.String() == ipNet(p).String() }
			if r.Dst == nil || slices.ContainsFunc(want, stays) || r.Dst.IP.IsMulticast() {
				continue
			}
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove the route to %s: %w", r.Dst, err)
			}
		}
	}
	return nil
}

func scopeOf(p netip.Prefix) netlink.Scope {
	if p.Addr().Is4() {
		return netlink.SCOPE_LINK
	}
	return netlink.SCOPE_UNIVERSE
}

// entered tells whether a way in is there, and with peers also whether those who may
// enter are the view's.
func (k *Kind) entered(e *entry, id workload.ID, v View, peers bool) error {
	have, err := e.Stats()
	if err != nil || !peers {
		return err
	}
	want := k.cfg.Secrets.peers(netplan.ID(id.Contract, v.Network), v)
	if len(have) != len(want) {
		return fmt.Errorf("%d devices may enter, %d should", len(have), len(want))
	}
	for _, h := range have {
		if !slices.ContainsFunc(want, func(p wireguard.Peer) bool {
			return p.PublicKey == h.PublicKey && slices.Equal(p.AllowedIPs, h.AllowedIPs)
		}) {
			return fmt.Errorf("the device %s may enter, or with other addresses than it should", h.PublicKey)
		}
	}
	return nil
}

func (k *Kind) entryOf(id workload.ID) *entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.entries[id]
}

// leave forgets a way in: with remove for good, otherwise so that the kernel's lives
// on.
func (k *Kind) leave(id workload.ID, remove bool) error {
	k.mu.Lock()
	e := k.entries[id]
	delete(k.entries, id)
	k.mu.Unlock()
	switch {
	case e == nil:
		return nil
	case remove:
		return e.Close()
	}
	return e.Leave()
}
