package client

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/device"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// entryTime is how long an entry may take for one answer.
const entryTime = 10 * time.Second

// DeviceConfig asks the node by which a device enters for what the device needs
// besides its key. Only the device's account may. What the plan says is believed
// of the plan alone: an answer that differs is refused, code "reply-invalid".
func (c *Client) DeviceConfig(ctx context.Context, k Contract, name string, key wireguard.Key, by sign.Signer) (device.Config, error) {
	i := slices.IndexFunc(k.Plan.Workloads, func(w plan.Workload) bool { return w.Name == name && w.Kind == plan.KindDevice })
	if i < 0 {
		return device.Config{}, problem.New("device-unknown", "deployment %s has no device %s", k.Name, name)
	}
	ctx, cancel := context.WithTimeout(ctx, entryTime)
	defer cancel()
	params, err := canon.Marshal(protocol.DeviceParams{Workload: name})
	if err != nil {
		return device.Config{}, err
	}
	asker, err := c.asker(ctx, by)
	if err != nil {
		return device.Config{}, err
	}
	b, err := asker.Call(ctx, bus.Ask{Slot: k.Plan.Workloads[i].Slot, Contract: k.ID, Method: bus.MethodDevice, Params: params})
	if err != nil {
		return device.Config{}, err
	}
	answer, err := protocol.DecodeDeviceConfig(b)
	if err != nil {
		return device.Config{}, err
	}
	return deviceConfig(&k.Plan, k.Plan.Workloads[i], key, answer)
}

// deviceConfig puts together what the plan says and what the entry alone knows:
// its key and the preshared one. Ranges, addresses and endpoints that the plan
// does not have would lead the machine's packets elsewhere.
func deviceConfig(p *plan.Plan, w plan.Workload, key wireguard.Key, answer protocol.DeviceConfig) (device.Config, error) {
	d, err := plan.DecodeDevice(w.Config)
	if err != nil {
		return device.Config{}, err
	}
	n, err := FindNetwork(p, d.Network.Network)
	if err != nil {
		return device.Config{}, err
	}
	public := key.Public()
	differs := func(what string) error {
		return problem.New("reply-invalid", "the node by which %s enters tells other %s than the plan has", w.Name, what).
			WithFix("if the deployment was just updated, run it again; otherwise tell the node's farm")
	}
	switch {
	case !bytes.Equal(d.Key, public[:]):
		return device.Config{}, problem.New("key-invalid", "the plan has another key for %s than this machine", w.Name)
	case !bytes.Equal(answer.Device, d.Key) || answer.Network != n.Name:
		return device.Config{}, differs("devices")
	case !slices.Equal(answer.Ranges, []string{n.IPv4, n.IPv6}) || !slices.Equal(answer.Addresses, []string{d.Network.IPv4, d.Network.IPv6}):
		return device.Config{}, differs("addresses")
	}
	known := EndpointsOf(p, n.Name, w.Slot)
	out := device.Config{Domain: n.Name + ".internal", PrivateKey: key, Entry: wireguard.Key(answer.EntryKey), Preshared: wireguard.Key(answer.Preshared)}
	for _, text := range answer.Endpoints { // the decoder has parsed all of these
		e, err := netip.ParseAddrPort(text)
		if err != nil || !slices.Contains(known, e) {
			return device.Config{}, differs("endpoints")
		}
		out.Endpoints = append(out.Endpoints, e)
	}
	if len(out.Endpoints) == 0 {
		return device.Config{}, problem.New("no-entry", "no gateway lets devices into network %s any more", n.Name).
			WithFix("add to what a gateway of its spec publishes, and deploy it again: - {port: udp, join: %s}", n.Name)
	}
	for _, text := range answer.Addresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return device.Config{}, differs("addresses")
		}
		out.Addresses = append(out.Addresses, a)
	}
	for _, text := range answer.Ranges {
		r, err := netip.ParsePrefix(text)
		if err != nil {
			return device.Config{}, differs("addresses")
		}
		out.Ranges = append(out.Ranges, r)
	}
	for _, text := range answer.DNS {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return device.Config{}, differs("resolvers")
		}
		out.DNS = append(out.DNS, a)
	}
	return out, out.Check()
}

// EndpointsOf are the public addresses and ports of a plan that lead devices of a
// network to an entry, in the order of its gateways and their addresses.
func EndpointsOf(p *plan.Plan, network string, entry canon.Hash) []netip.AddrPort {
	var out []netip.AddrPort
	for _, w := range p.Workloads {
		if w.Kind != plan.KindGateway {
			continue
		}
		g, err := plan.DecodeGateway(w.Config)
		if err != nil {
			continue // a plan of a contract is valid
		}
		for _, r := range g.Routes {
			if r.Network != network || r.Entry != entry {
				continue
			}
			for _, text := range g.Addresses {
				if a, err := netip.ParseAddr(text); err == nil {
					out = append(out, netip.AddrPortFrom(a, r.Port))
				}
			}
		}
	}
	return out
}

// DevicePending tells whether an error of DeviceConfig goes away by itself: the
// node has not heard of the approval yet, or is busy making the way in.
func DevicePending(err error) bool {
	switch problem.Code(err) {
	case "device-unknown", "not-yet", "network-pending", "not-permitted", "node-not-ready", "node-busy":
		return true
	}
	return passing(err)
}
