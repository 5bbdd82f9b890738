package node

import (
	"context"
	"net/netip"
	"slices"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
	tenant "github.com/zero-os/zos/workload/network"
)

// person is a member of a contract's group, as this node has proven it.
type person struct {
	account canon.Hash
	key     sign.PublicKey
}

// deviceConfig hands a device's configuration to its account.
func (n *Node) deviceConfig(_ context.Context, q bus.Query) (protocol.DeviceConfig, error) {
	var params protocol.DeviceParams
	if err := canon.Unmarshal(q.Params, &params); err != nil {
		return protocol.DeviceConfig{}, problem.New("request-invalid", "read the parameters of a device's configuration: %w", err)
	}
	members, err := n.membersOf(q.Contract)
	if err != nil {
		return protocol.DeviceConfig{}, err
	}
	var p *plan.Plan
	for _, w := range n.reconc.of(q.Contract) {
		if p = w.Deployment; p != nil {
			break
		}
	}
	d, err := ownDevice(p, n.at.Slot, q.Caller, members, params.Workload)
	if err != nil {
		return protocol.DeviceConfig{}, err
	}
	return configOf(p, q.Contract, n.at.Slot, d, tenant.NewSecrets(n.keys.Entry))
}

// membersOf are the members of a contract's group at its present epoch.
func (n *Node) membersOf(id canon.Hash) ([]person, error) {
	n.mu.Lock()
	e := n.cases[id]
	n.mu.Unlock()
	var out []person
	for _, m := range e.Members {
		a, account, _, err := contract.Open[contract.Account](m, contract.KindAccount, n.at.grid.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, person{account, sign.PublicKey(a.Key)})
	}
	return out, nil
}

// ownDevice decides whether a caller may have the configuration of a device, whose
// preshared key is in it. It must be a device of the plan that enters at this slot,
// the caller a member of the contract's group, and the device that member's own.
//
//	the plan has it here   the caller is        it is
//	no                     anyone               device-unknown
//	yes                    no member            not-permitted
//	yes                    another's account    not-permitted
//	yes                    its account          handed out
func ownDevice(p *plan.Plan, self canon.Hash, caller sign.PublicKey, members []person, name string) (plan.Device, error) {
	unknown := problem.New("device-unknown", "the contract has no device %.63q that enters at this node", name).
		WithFix("if it was approved just now, ask again; otherwise: zos net show CONTRACT")
	if p == nil {
		return plan.Device{}, unknown
	}
	at := slices.IndexFunc(p.Workloads, func(w plan.Workload) bool {
		return w.Name == name && w.Kind == plan.KindDevice && w.Slot == self
	})
	if at < 0 {
		return plan.Device{}, unknown
	}
	d, err := plan.DecodeDevice(p.Workloads[at].Config)
	if err != nil {
		return plan.Device{}, err
	}
	for _, m := range members {
		if m.account == d.Account && len(m.key) > 0 && m.key.Equal(caller) {
			return d, nil
		}
	}
	return plan.Device{}, problem.New("not-permitted", "device %s belongs to another account", name).
		WithFix("ask with the key of the account that joined with it")
}

// configOf is what a device is told.
func configOf(p *plan.Plan, contractID, self canon.Hash, d plan.Device, secrets tenant.Secrets) (protocol.DeviceConfig, error) {
	name := d.Network.Network
	id := network.ID(contractID, name)
	psk, entry := secrets.Device(id, d.Key, d.Account), secrets.Entry(id).Public()
	out := protocol.DeviceConfig{
		Network: name, EntryKey: entry[:], Preshared: psk[:], Device: d.Key,
		Addresses: []string{d.Network.IPv4, d.Network.IPv6}, Ranges: []string{}, DNS: []string{}, Endpoints: endpoints(p, name, self), MTU: wireguard.DefaultMTU,
	}
	for _, n := range p.Networks {
		if n.Name != name {
			continue
		}
		out.Ranges = []string{n.IPv4, n.IPv6}
		for _, node := range n.Nodes {
			if node.Slot != self {
				continue
			}
			for _, text := range []string{node.IPv4, node.IPv6} {
				prefix, err := netip.ParsePrefix(text)
				if err != nil {
					return protocol.DeviceConfig{}, problem.New("plan-invalid", "network %s: %w", name, err)
				}
				out.DNS = append(out.DNS, plan.RouterAddr(prefix).String())
			}
		}
	}
	return out, nil
}

// endpoints are the public addresses and ports of a plan that lead devices of a
// network to an entry, in the order of its gateways, as many as an answer holds.
func endpoints(p *plan.Plan, name string, entry canon.Hash) []string {
	out := []string{}
	for _, w := range p.Workloads {
		if w.Kind != plan.KindGateway {
			continue
		}
		g, err := plan.DecodeGateway(w.Config)
		if err != nil {
			continue // Decode of the plan has accepted it
		}
		for _, r := range g.Routes {
			if r.Network != name || r.Entry != entry {
				continue
			}
			for _, text := range g.Addresses {
				if a, err := netip.ParseAddr(text); err == nil && len(out) < protocol.MaxEndpoints {
					out = append(out, netip.AddrPortFrom(a, r.Port).String())
				}
			}
		}
	}
	return out
}
