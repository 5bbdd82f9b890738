package spec

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// device is a person's machine that stands. No spec lists devices: they join and
// are revoked by decisions of their own, and an update keeps them.
type device struct {
	plan.Workload
	plan.Device
}

// remaining are the standing devices of the networks that the deployment still
// has; the others leave with their network.
func (old standing) remaining(d *Deployment) []device {
	var out []device
	for _, dev := range old.devices {
		if slices.ContainsFunc(d.Networks, func(n Network) bool { return n.Name == dev.Network.Network }) {
			out = append(out, dev)
		}
	}
	return out
}

// meet checks the names that a spec has against those of standing devices.
func meet(d *Deployment, devices []device) {
	s := d.source
	for _, x := range d.strangers {
		if !slices.ContainsFunc(devices, func(dev device) bool { return dev.Name == x.name && dev.Network.Network == x.network }) {
			s.add(x.where, x.message, x.fix)
		}
	}
	for wi, w := range d.Workloads {
		clash := func(name, pointer string) {
			if slices.ContainsFunc(devices, func(dev device) bool { return dev.Name == name }) {
				s.add(s.placeOf(fmt.Sprintf("/workloads/%d%s", d.Workloads[wi].entry, pointer)), fmt.Sprintf("%q is the name of a person's device in this deployment", name), "choose another name")
			}
		}
		clash(w.Name, "/name")
		for ai, a := range w.Networks {
			for i, alias := range a.Aliases {
				clash(alias, fmt.Sprintf("/networks/%d/aliases/%d", ai, i))
			}
		}
	}
}

// keep gives the standing devices their room on the nodes by which they enter.
func (p *placement) keep(d *Deployment, devices []device) {
	for _, dev := range devices {
		i := p.indexOf[dev.Network.Network]
		where := d.source.placeOf(fmt.Sprintf("/networks/%d", i))
		at := slices.IndexFunc(p.nodes, func(n Node) bool { return n.Slot == dev.Slot })
		if at < 0 {
			d.source.add(where, fmt.Sprintf("the device %q enters the network %q by node %s, which takes this group's workloads no more", dev.Name, dev.Network.Network, dev.Slot.Short()),
				fmt.Sprintf("revoke it first: zos net revoke %s/%s %s; it can join again by another node", d.Name, dev.Network.Network, dev.Name))
			continue
		}
		if p.carry(d, i, at, where, "device "+dev.Name, "cancel a contract there, or revoke the device") {
			need := capacity(dev.Resources)
			if !need.Within(p.free[at]) {
				d.source.add(where, fmt.Sprintf("node %s has %s free, the device %q that enters there wants %s", p.nodes[at].Name, describe(p.free[at]), dev.Name, describe(need)), "cancel a contract there, or revoke the device")
				continue
			}
			p.take(at, need, nil)
		}
	}
}

// carry makes a node one of a network's, with a router, if it isn't yet.
func (p *placement) carry(d *Deployment, network, at int, where place, who, fix string) bool {
	if p.routers[network][at] {
		return true
	}
	need := capacity(plan.RouterResources())
	if !need.Within(p.free[at]) {
		d.source.add(where, fmt.Sprintf("node %s has %s free, the router for the %s wants %s", p.nodes[at].Name, describe(p.free[at]), who, describe(need)), fix)
		return false
	}
	p.take(at, need, nil)
	p.routers[network][at] = true
	return true
}

// enter chooses the nodes by which devices enter: first those that the spec
// names, before the workloads have their places, and later the others. Those
// stay where they are; new ones are by the lowest slot that devices enter by, or
// else that runs a container of the network.
func (p *placement) enter(d *Deployment, named bool, devices []device, old standing) {
	for wi, w := range d.Workloads {
		for pi, e := range w.Publish {
			if !e.Join || named != (e.Entry != "") {
				continue
			}
			at, where := -1, d.source.placeOf(fmt.Sprintf("/workloads/%d/publish/%d/join", d.Workloads[wi].entry, pi))
			if named {
				where = d.source.placeOf(fmt.Sprintf("/workloads/%d/publish/%d/entry", d.Workloads[wi].entry, pi))
				var err error
				if at, err = p.named(e.Entry); err != nil {
					d.source.add(where, err.Error(), problem.Fix(err))
					continue
				}
			} else if at = p.entry(d, wi, pi, devices, old); at < 0 {
				continue // the network's containers have no place, which is a mistake already
			}
			if p.carry(d, p.indexOf[e.Network], at, where, "devices that enter there", "name another node") {
				p.entries[[2]int{wi, pi}] = at
			}
		}
	}
}

// entry picks a node for devices to enter by; -1: there is none.
func (p *placement) entry(d *Deployment, wi, pi int, devices []device, old standing) int {
	network := d.Workloads[wi].Publish[pi].Network
	var stood, others, theirs, runs []canon.Hash
	stood = append(stood, p.market.stood[wi][pi].Entry)
	for _, g := range old.gateways {
		for _, r := range g.Routes {
			if r.Network == network && !r.Entry.IsZero() {
				others = append(others, r.Entry)
			}
		}
	}
	for _, dev := range devices {
		if dev.Network.Network == network {
			theirs = append(theirs, dev.Slot)
		}
	}
	for i, w := range d.Workloads {
		if plan.Runs(w.Kind) && slices.ContainsFunc(w.Networks, func(a Attachment) bool { return a.Network == network }) && p.at[i] >= 0 { // else it has no place
			runs = append(runs, p.nodes[p.at[i]].Slot)
		}
	}
	for _, list := range [][]canon.Hash{stood, others, theirs, runs} {
		slices.SortFunc(list, func(a, b canon.Hash) int { return bytes.Compare(a[:], b[:]) })
		for _, slot := range list {
			if at := slices.IndexFunc(p.nodes, func(n Node) bool { return n.Slot == slot }); at >= 0 {
				return at
			}
		}
	}
	return -1
}
