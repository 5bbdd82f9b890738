package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// placement is where everything of a deployment runs, as indexes of the facts'
// nodes.
type placement struct {
	at      []int               // of each workload
	guarded []bool              // of each workload: it stands in a micro-VM, and stays in one
	exits   []int               // of each network, -1: none
	routers []map[int]bool      // of each network: the nodes that carry it
	free    []contract.Capacity // of each node, what is left
	nodes   []Node
	indexOf map[string]int // of a network by name
	holder  func(contract canon.Hash) string
	market  *market
	offers  []offer        // of each workload that is a gateway
	entries map[[2]int]int // of each workload and entry of publish that is one for devices
}

// settle chooses the nodes. What the spec names, and what stands, comes first,
// so that a workload which is new can't push another one from its node; then by
// name, so that the order in the file plays no part. What can't be placed is a
// mistake.
func settle(d *Deployment, facts Facts, old standing, devices []device, hosts [][]string) *placement {
	s, nodes := d.source, facts.Nodes
	p := &placement{
		at: make([]int, len(d.Workloads)), guarded: make([]bool, len(d.Workloads)), exits: make([]int, len(d.Networks)), routers: make([]map[int]bool, len(d.Networks)),
		free: make([]contract.Capacity, len(nodes)), nodes: nodes, indexOf: map[string]int{},
		market: newMarket(d, hosts, nodes, old), offers: make([]offer, len(d.Workloads)), entries: map[[2]int]int{}, holder: facts.holder,
	}
	for i, w := range d.Workloads {
		p.at[i], p.guarded[i] = -1, w.Isolation == IsolationAny && old.isolation[w.Name] == plan.IsolationMicroVM
	}
	for i, n := range nodes {
		p.free[i] = contract.Capacity{CPU: n.Free.CPU + n.Own.CPU, Memory: n.Free.Memory + n.Own.Memory, Disk: n.Free.Disk + n.Own.Disk}
	}
	for i, n := range d.Networks {
		p.indexOf[n.Name], p.routers[i], p.exits[i] = i, map[int]bool{}, -1
		if n.Exit == "" {
			continue
		}
		where := s.placeOf(fmt.Sprintf("/networks/%d/exit", i))
		at, err := p.named(n.Exit)
		if err != nil {
			s.add(where, err.Error(), problem.Fix(err))
			continue
		}
		need := capacity(plan.RouterResources())
		if !need.Within(p.free[at]) {
			s.add(where, fmt.Sprintf("node %s has %s free, a network's exit wants %s", nodes[at].Name, describe(p.free[at]), describe(need)), "name another node")
			continue
		}
		p.exits[i] = at
		p.take(at, need, nil)
		p.routers[i][at] = true
	}
	p.keep(d, devices)
	p.enter(d, true, devices, old)
	for _, settled := range []bool{true, false} {
		for _, i := range byName(d.Workloads, func(w Workload) string { return w.Name }) {
			w := d.Workloads[i]
			before := slices.IndexFunc(nodes, func(n Node) bool { return n.Slot == old.slots[w.Name] })
			if w.Kind == plan.KindGateway {
				if settled == (w.Node != "" || before >= 0) {
					p.publish(d, i, before)
				}
				continue
			}
			// One that can't stay where it stands is as good as new.
			if settled && w.Node == "" && (before < 0 || p.fits(d, i, before) != fitting) {
				continue
			}
			if !settled && (w.Node != "" || p.at[i] >= 0) {
				continue
			}
			at, err := p.choose(d, i, before)
			if err != nil {
				where := fmt.Sprintf("/workloads/%d", d.Workloads[i].entry)
				if w.Node != "" {
					where += "/node"
				}
				s.add(s.placeOf(where), err.Error(), problem.Fix(err))
				continue
			}
			p.at[i] = at
			p.take(at, p.need(w, at), w.Networks)
		}
	}
	p.enter(d, false, devices, old)
	return p
}

// byName returns the indexes of list in the order of names.
func byName[T any](list []T, name func(T) string) []int {
	out := make([]int, len(list))
	for i := range out {
		out[i] = i
	}
	slices.SortFunc(out, func(a, b int) int { return strings.Compare(name(list[a]), name(list[b])) })
	return out
}

// need is what w takes of a node: its own, what its machine takes besides, and a
// router for each of its networks that the node doesn't carry yet.
func (p *placement) need(w Workload, at int) contract.Capacity {
	c := contract.Capacity{CPU: w.CPU, Memory: w.Memory + plan.Overhead(w.Kind, p.class(w, at)), Disk: w.Disk}
	router := capacity(plan.RouterResources())
	for _, a := range w.Networks {
		if !p.routers[p.indexOf[a.Network]][at] {
			c.CPU, c.Memory, c.Disk = c.CPU+router.CPU, c.Memory+router.Memory, c.Disk+router.Disk
		}
	}
	return c
}

func (p *placement) take(at int, c contract.Capacity, networks []Attachment) {
	p.free[at].CPU -= c.CPU
	p.free[at].Memory -= c.Memory
	p.free[at].Disk -= c.Disk
	for _, a := range networks {
		p.routers[p.indexOf[a.Network]][at] = true
	}
}

// named finds the node that a spec names, by name or by the start of its id.
func (p *placement) named(text string) (int, error) {
	if len(p.nodes) == 0 {
		return 0, noNode()
	}
	names := make([]string, 0, len(p.nodes))
	for i, n := range p.nodes {
		if isNamed(n, text) {
			return i, nil
		}
		names = append(names, n.Name)
	}
	fix := "known: " + strings.Join(names, ", ")
	if near := Nearest(text, names); len(near) > 0 {
		fix = fmt.Sprintf("did you mean %q?", near[0])
	}
	return 0, problem.New("node-unknown", "no node %q takes this group's workloads", text).WithFix("%s", fix)
}

// isNamed tells whether text names a node.
func isNamed(n Node, text string) bool {
	return n.Name == text || len(text) >= 8 && strings.HasPrefix(n.Slot.String(), text)
}

func noNode() error {
	return problem.New("no-node", "no farm has admitted this group, or none of its nodes has joined").
		WithFix("ask a farm to run: zos farm admit GROUP")
}

func capacity(r plan.Resources) contract.Capacity {
	return contract.Capacity{CPU: r.CPU, Memory: r.Memory, Disk: r.Disk}
}

func describe(c contract.Capacity) string {
	return fmt.Sprintf("%g cores, %d MiB memory, %d MiB disk", float64(c.CPU)/1000, c.Memory>>20, c.Disk>>20)
}

// standing is what a deployment has now, for its next version to keep.
type standing struct {
	slots map[string]canon.Hash // of containers, machines and gateways by name
	// isolation is the class of containers, and secrets those of containers and
	// machines, by name.
	isolation map[string]string
	secrets   map[string][]plan.Secret
	networks  map[string]plan.Network      // by name
	attached  map[string][]plan.Attachment // of all workloads by name
	gateways  map[string]plan.Gateway      // by name
	devices   []device                     // by name
}

// readStanding reads a plan that the ledger has judged; nil gives nothing.
func readStanding(p *plan.Plan) standing {
	out := standing{slots: map[string]canon.Hash{}, isolation: map[string]string{}, secrets: map[string][]plan.Secret{}, networks: map[string]plan.Network{}, attached: map[string][]plan.Attachment{}, gateways: map[string]plan.Gateway{}}
	if p == nil {
		return out
	}
	for _, n := range p.Networks {
		out.networks[n.Name] = n
	}
	for _, w := range p.Workloads {
		switch w.Kind {
		case plan.KindContainer:
			out.slots[w.Name] = w.Slot
			if c, err := plan.DecodeContainer(w.Config); err == nil {
				out.attached[w.Name], out.isolation[w.Name], out.secrets[w.Name] = c.Networks, c.Isolation, c.Secrets
			}
		case plan.KindVM:
			out.slots[w.Name] = w.Slot
			if m, err := plan.DecodeVM(w.Config); err == nil {
				out.attached[w.Name], out.secrets[w.Name] = m.Networks, m.Secrets
			}
		case plan.KindGateway:
			out.slots[w.Name] = w.Slot
			if g, err := plan.DecodeGateway(w.Config); err == nil {
				out.attached[w.Name], out.gateways[w.Name] = g.Networks, g
			}
		case plan.KindDevice:
			if d, err := plan.DecodeDevice(w.Config); err == nil {
				out.attached[w.Name] = []plan.Attachment{d.Network}
				out.devices = append(out.devices, device{w, d})
			}
		}
	}
	return out
}
