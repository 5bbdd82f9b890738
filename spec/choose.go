package spec

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// Can tells whether the node runs containers of a class. One that has said nothing
// runs namespaces.
func (n Node) Can(class string) bool {
	if n.Isolation == nil {
		return class == plan.IsolationNamespace
	}
	return slices.Contains(n.Isolation, class)
}

// class is the isolation that a container has on a node; "" of what is none.
func (p *placement) class(w Workload, at int) string {
	switch {
	case w.Kind != plan.KindContainer:
		return ""
	case w.Isolation != IsolationAny:
		return w.Isolation
	case p.nodes[at].Can(plan.IsolationMicroVM):
		return plan.IsolationMicroVM
	}
	return plan.IsolationNamespace
}

// wants is the class that a node must have for workload wi; "" if any will do. What
// stands in a micro-VM is never lowered by the planner: people write that.
func (p *placement) wants(d *Deployment, wi int) string {
	w := d.Workloads[wi]
	switch {
	case w.Kind == plan.KindVM || p.guarded[wi]:
		return plan.IsolationMicroVM
	case w.Kind == plan.KindContainer && w.Isolation != IsolationAny:
		return w.Isolation
	}
	return ""
}

// fit is why a workload can't be on a node, the first reason that there is.
type fit int

const (
	fitting fit = iota
	cannotIsolate
	cannotSpread // another replica is on the node, or in its farm
	noRoom
)

// fits tells whether workload wi may be on a node, next to what has its place.
func (p *placement) fits(d *Deployment, wi, at int) fit {
	w := d.Workloads[wi]
	switch want := p.wants(d, wi); {
	case want != "" && !p.nodes[at].Can(want), w.Kind == plan.KindContainer && !p.nodes[at].Can(p.class(w, at)):
		return cannotIsolate
	case p.replicaAt(d, wi, at) != "":
		return cannotSpread
	case !p.need(w, at).Within(p.free[at]):
		return noRoom
	}
	return fitting
}

// replicaAt names the replica of wi's set that keeps wi from a node; "": none does.
func (p *placement) replicaAt(d *Deployment, wi, at int) string {
	w := d.Workloads[wi]
	if w.Spread == "" {
		return ""
	}
	for i, other := range d.Workloads {
		if i == wi || other.Set != w.Set || p.at[i] < 0 {
			continue
		}
		if p.at[i] == at || w.Spread == SpreadFarm && p.nodes[p.at[i]].Farm == p.nodes[at].Farm {
			return other.Name
		}
	}
	return ""
}

// choose picks the node for workload wi: the named one, or the one where it stands,
// or the one with most free memory that it fits, ties broken by id.
func (p *placement) choose(d *Deployment, wi, before int) (int, error) {
	w := d.Workloads[wi]
	if len(p.nodes) == 0 {
		return 0, noNode()
	}
	if w.Node != "" {
		at, err := p.named(w.Node)
		if err != nil {
			return 0, err
		}
		switch p.fits(d, wi, at) {
		case cannotIsolate:
			return 0, p.unavailable(d, wi, at)
		case noRoom:
			return 0, problem.New("capacity-exceeded", "node %s has %s free, this workload wants %s", p.nodes[at].Name, describe(p.free[at]), describe(p.need(w, at))).
				WithFix("%s", p.roomFix(d, wi, at, "lower its resources or name another node"))
		}
		return at, nil
	}
	if before >= 0 && p.fits(d, wi, before) == fitting {
		return before, nil
	}
	best := -1
	var count [noRoom + 1]int
	for i, n := range p.nodes {
		why := p.fits(d, wi, i)
		count[why]++
		if why != fitting {
			continue
		}
		if best < 0 || p.free[i].Memory > p.free[best].Memory ||
			p.free[i].Memory == p.free[best].Memory && n.Slot.String() < p.nodes[best].Slot.String() {
			best = i
		}
	}
	switch {
	case best >= 0:
		return best, nil
	case count[cannotIsolate] == len(p.nodes):
		return 0, p.unavailable(d, wi, -1)
	case count[cannotSpread] > 0:
		return 0, p.crowded(d, wi)
	}
	who := "no node"
	if want := p.wants(d, wi); want != "" {
		who = "no node that " + canDo(w, want)
	}
	least := contract.Capacity{CPU: w.CPU, Memory: math.MaxUint64, Disk: w.Disk}
	for i := range p.nodes {
		least.Memory = min(least.Memory, w.Memory+plan.Overhead(w.Kind, p.class(w, i)))
	}
	return 0, problem.New("capacity-exceeded", "%s has %s free", who, describe(least)).
		WithFix("%s", p.roomFix(d, wi, -1, "lower its resources, or cancel a contract"))
}

// roomFix is what can be done about a workload that has no room on a node, or with
// -1 on none. One that would be in a micro-VM only because nodes can have one may
// lack no more than what the micro-VM itself takes.
func (p *placement) roomFix(d *Deployment, wi, at int, fix string) string {
	w := d.Workloads[wi]
	for i := range p.nodes {
		if at >= 0 && i != at || p.wants(d, wi) != "" || p.class(w, i) != plan.IsolationMicroVM || !p.nodes[i].Can(plan.IsolationNamespace) {
			continue
		}
		own := plan.Overhead(w.Kind, plan.IsolationMicroVM)
		need := p.need(w, i)
		need.Memory -= own
		if need.Within(p.free[i]) {
			return fmt.Sprintf("%s; or write isolation: namespace, if this software may share the node's kernel: a micro-VM takes %d MiB of memory for itself", fix, own>>20)
		}
	}
	return fix
}

func canDo(w Workload, class string) string {
	switch {
	case w.Kind == plan.KindVM:
		return "runs machines"
	case class == plan.IsolationMicroVM:
		return "runs micro-VMs"
	}
	return "runs containers in namespaces"
}

// unavailable says that workload wi's isolation can't be had on a node, or with -1
// on none, and where it can.
func (p *placement) unavailable(d *Deployment, wi, at int) error {
	w, want := d.Workloads[wi], p.wants(d, wi)
	var could []string
	for _, n := range p.nodes {
		if n.Can(want) {
			could = append(could, n.Name)
		}
	}
	var fixes []string
	if len(could) > 0 {
		fixes = append(fixes, "nodes that could: "+strings.Join(could, ", "))
	} else {
		fixes = append(fixes, "ask a farm with such nodes to run: zos farm admit GROUP")
	}
	if w.Kind == plan.KindContainer && want == plan.IsolationMicroVM && !w.Privileged {
		fixes = append(fixes, "or write isolation: namespace, which shares the node's kernel")
	}
	what := fmt.Sprintf("no node that takes this group's workloads %s", canDo(w, want))
	if at >= 0 {
		what = fmt.Sprintf("node %s is none that %s%s", p.nodes[at].Name, canDo(w, want), why(p.nodes[at]))
	} else if len(p.nodes) == 1 {
		what += why(p.nodes[0])
	}
	if p.guarded[wi] {
		what += ", and this one is in a micro-VM now"
	}
	return problem.New("isolation-unavailable", "%s", what).WithFix("%s", strings.Join(fixes, "; "))
}

// why is what a node said about the class that it doesn't have.
func why(n Node) string {
	switch {
	case n.Isolation == nil:
		return " (it has not said what it can do)"
	case n.Lacks != "":
		return " (" + n.Lacks + ")"
	}
	return ""
}

// crowded says what is missing to spread a set of replicas.
func (p *placement) crowded(d *Deployment, wi int) error {
	w := d.Workloads[wi]
	places := map[canon.Hash]bool{} // that the set could be spread over, were each free
	for i, n := range p.nodes {
		if want := p.wants(d, wi); want != "" && !n.Can(want) {
			continue
		}
		if p.replicaAt(d, wi, i) == "" && !p.need(w, i).Within(p.free[i]) {
			continue
		}
		if w.Spread == SpreadFarm {
			places[n.Farm] = true
		} else {
			places[n.Slot] = true
		}
	}
	return problem.New("spread-impossible", "%d replicas of %s want as many %ss, and there %s %d with room for one", w.Replicas, w.Set, w.Spread, isAre(len(places)), len(places)).
		WithFix("lower replicas to %d, or ask %s to run: zos farm admit GROUP", max(1, len(places)), map[string]string{SpreadNode: "a farm with more nodes", SpreadFarm: "another farm"}[w.Spread])
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
