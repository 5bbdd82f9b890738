package client

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec"
	"github.com/zero-os/zos/spec/plan"
)

// Zone reads the grid's domain, signed by the quorum of its release keys; one
// without a Domain if the grid has none.
func (c *Client) Zone(ctx context.Context) (contract.Zone, error) {
	rec, ok, err := Get[contract.ZoneRecord](ctx, c, contract.KeyZone)
	if err != nil || !ok {
		return contract.Zone{}, err
	}
	genesis, err := contract.DecodeGenesis(c.context.Genesis)
	if err != nil {
		return contract.Zone{}, err
	}
	return contract.OpenZone(rec.Signed, c.Grid(), genesis)
}

// Pool reads the public addresses of a slot, signed by its farm; one that is not
// Live if it has none.
func (c *Client) Pool(ctx context.Context, n Node) (contract.Pool, error) {
	rec, ok, err := Get[contract.PoolRecord](ctx, c, contract.KeyPool(n.Slot))
	if err != nil || !ok {
		return contract.Pool{Farm: n.Farm, Slot: n.Slot}, err
	}
	f, ok, err := Get[contract.FarmRecord](ctx, c, contract.KeyFarm(n.Farm))
	if err != nil {
		return contract.Pool{}, err
	}
	if !ok {
		return contract.Pool{}, problem.New("farm-unknown", "no farm %s", n.Farm.Short())
	}
	farm, id, _, err := contract.Open[contract.Farm](f.Signed, contract.KindFarm, c.Grid())
	if err == nil {
		err = sameID("farm", id, n.Farm)
	}
	if err != nil {
		return contract.Pool{}, err
	}
	return contract.OpenPool(rec.Signed, c.Grid(), n.Farm, farm.Key, n.Slot)
}

// publicFacts adds to what a plan depends on what gateways need: the grid's
// domain, whose the names are, and what others hold of public addresses. A
// deployment that publishes nothing needs none of it.
func (c *Client) publicFacts(ctx context.Context, d *spec.Deployment, p *Planned, facts *spec.Facts) error {
	if !publishes(d) {
		return nil
	}
	zone, err := c.Zone(ctx)
	if err != nil {
		return err
	}
	facts.Zone = zone.Domain
	if err := c.nameFacts(ctx, d, zone, facts); err != nil {
		return err
	}
	facts.Hosts = map[string]canon.Hash{}
	for _, host := range hostsOf(d, zone) {
		rec, held, err := Get[contract.HolderRecord](ctx, c, contract.KeyHost(host, facts.Group))
		if err != nil {
			return err
		}
		if held && rec.Contract != p.Contract {
			facts.Hosts[host] = rec.Contract
		}
	}
	leases, err := List[contract.LeaseRecord](ctx, c, contract.KeyLease(""))
	if err != nil {
		return err
	}
	for i := range facts.Nodes {
		n := &facts.Nodes[i]
		if n.Pool == nil {
			continue
		}
		n.Leased = leasedOf(*n.Pool, leases, p.Contract, p.Standing)
		n.Ports = map[spec.PublicPort]canon.Hash{}
		for _, a := range n.Pool.Shared {
			for _, mode := range []string{plan.ModeTCP, plan.ModeUDP} {
				held, err := List[contract.HolderRecord](ctx, c, strings.TrimSuffix(contract.KeyPort(a, mode, 0), "0"))
				if err != nil {
					return err
				}
				addPorts(n.Ports, mode, held, p.Contract)
			}
		}
	}
	return nil
}

func publishes(d *spec.Deployment) bool {
	return slices.ContainsFunc(d.Workloads, func(w spec.Workload) bool { return w.Kind == plan.KindGateway })
}

// hostsOf are the full names that a deployment publishes.
func hostsOf(d *spec.Deployment, zone contract.Zone) []string {
	var out []string
	for _, w := range d.Workloads {
		for _, p := range w.Publish {
			host := p.Host
			if host != "" && !strings.Contains(host, ".") {
				host += "." + zone.Domain
			}
			if host != "" {
				out = append(out, host)
			}
		}
	}
	return out
}

// nameFacts looks up the names under the grid's domain that a deployment needs.
func (c *Client) nameFacts(ctx context.Context, d *spec.Deployment, zone contract.Zone, facts *spec.Facts) error {
	l, err := c.Ledger(ctx)
	if err != nil {
		return err
	}
	head, err := l.Head(ctx)
	if err != nil {
		return err
	}
	records := map[string]contract.HostNameRecord{}
	for _, host := range hostsOf(d, zone) {
		label, under := zone.Label(host)
		if _, known := records[label]; known || !under || label == "" {
			continue
		}
		rec, ok, err := Get[contract.HostNameRecord](ctx, c, contract.KeyHostName(label))
		if err != nil {
			return err
		}
		if ok {
			records[label] = rec
		}
	}
	names, err := c.Names(ctx)
	if err != nil {
		return err
	}
	group, now := facts.Group, uint64(head.Time.Unix())
	facts.Name = func(label string) (holder string, mine, reserved bool) {
		rec, ok := records[label]
		if !ok {
			return "", false, false
		}
		mine, reserved = standsName(rec, group, now)
		return names.Of(rec.Group), mine, reserved
	}
	facts.Holder = func(id canon.Hash) string {
		k, err := c.Contract(ctx, id)
		if err != nil {
			return "contract " + id.Short()
		}
		return names.Of(k.Group) + "/" + k.Name
	}
	return nil
}

// standsName tells whether a name is a group's, and whether it counts now: its
// own until it ends, another's until its grace has passed as well.
func standsName(rec contract.HostNameRecord, group canon.Hash, now uint64) (mine, reserved bool) {
	if rec.Group == group {
		return true, now <= rec.Until
	}
	return false, rec.Kept(now)
}

// leasedOf are the addresses of a pool that a contract can't have because of
// others, with who has them, or zero for contracts that still share one which the
// pool shares no more.
func leasedOf(pool contract.Pool, leases []Record[contract.LeaseRecord], own canon.Hash, standing *plan.Plan) map[string]canon.Hash {
	shares := map[string]uint64{} // of the standing version: a contract shares an address once
	if standing != nil {
		for _, w := range standing.Workloads {
			if g, err := plan.DecodeGateway(w.Config); err == nil && w.Kind == plan.KindGateway && !g.Leased {
				for _, a := range g.Addresses {
					shares[a] = 1
				}
			}
		}
	}
	out := map[string]canon.Hash{}
	for _, r := range leases {
		a, err := netip.ParseAddr(r.Name)
		if err != nil {
			continue
		}
		in, shared := pool.Contains(a)
		switch {
		case !in:
		case !r.Value.Contract.IsZero() && r.Value.Contract != own:
			out[r.Name] = r.Value.Contract
		case !shared && r.Value.Sharers > shares[r.Name]:
			out[r.Name] = canon.Hash{}
		}
	}
	return out
}

// addPorts adds the ports of one shared address that others hold.
func addPorts(to map[spec.PublicPort]canon.Hash, mode string, held []Record[contract.HolderRecord], own canon.Hash) {
	for _, r := range held {
		if n, err := strconv.ParseUint(r.Name, 10, 16); err == nil && r.Value.Contract != own {
			to[spec.PublicPort{Mode: mode, Port: uint16(n)}] = r.Value.Contract
		}
	}
}
