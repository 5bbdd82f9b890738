package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

// View is what is known of one workload.
type View struct {
	// Version is that of the contract that runs; 0: nothing is known to run.
	Version uint64
	// Ready: it runs and is healthy in that version, or was a job that exited with 0.
	Ready bool
	// Over says that it has ended for good without being ready: a job that failed, or
	// whose attempts are used up.
	Over bool
	// Returned is the version that its node went back from; 0: none. Version and Ready
	// are then of what runs instead.
	Returned uint64
	// Why is the reason for Returned, one line for people.
	Why string
}

// Case is one contract as one node sees it.
type Case struct {
	Slot    canon.Hash // the node's
	Version uint64     // the contract's newest
	Plan    *plan.Plan // of Version
	// Base is the version that stood before, and what nodes return to; 0: there is
	// none, or it is not proven.
	Base     uint64
	BasePlan *plan.Plan // of Base; nil with 0
	// Here is what the node itself sees of its workloads, There what the proven receipts
	// say: of other nodes' workloads, and of its own from before it started.
	Here, There map[string]View
	Memory      Memory
	Now         int64 // Unix seconds of the node's clock
	// Crowded says that others were promised what Base holds here beyond what Plan asks
	// for: the ledger counts the newest version alone. Such workloads neither stay in
	// Base nor go back to it.
	Crowded bool
}

// Excess is what the workloads of base hold on a slot beyond what p asks for those of
// the same names there; base may be nil.
func Excess(p, base *plan.Plan, slot canon.Hash) plan.Resources {
	var sum plan.Resources
	if base == nil {
		return sum
	}
	for _, w := range base.Workloads {
		if w.Slot == slot {
			more := beyond(w, p)
			sum.CPU, sum.Memory, sum.Disk = sum.CPU+more.CPU, sum.Memory+more.Memory, sum.Disk+more.Disk
		}
	}
	return sum
}

// beyond is what a workload holds more than p asks for it on the same slot.
func beyond(w plan.Workload, p *plan.Plan) plan.Resources {
	n, ok := find(p, w.Name)
	if !ok || n.Slot != w.Slot {
		return plan.Resources{CPU: w.Resources.CPU, Memory: w.Resources.Memory, Disk: w.Resources.Disk}
	}
	less := func(a, b uint64) uint64 { return a - min(a, b) }
	return plan.Resources{
		CPU: less(w.Resources.CPU, n.Resources.CPU), Memory: less(w.Resources.Memory, n.Resources.Memory), Disk: less(w.Resources.Disk, n.Resources.Disk),
	}
}

// Memory is what a node must not forget in the middle of an update. It is of one
// Version; of another one it counts for nothing.
type Memory struct {
	Version  uint64   `cbor:"version"`
	Base     uint64   `cbor:"base"`
	Returned bool     `cbor:"returned"` // the update has failed, the node goes back or went
	Seen     int64    `cbor:"seen"`     // when it learned that, Unix seconds
	Why      string   `cbor:"why"`
	Begun    []Begun  `cbor:"begun"` // sorted by name
	Back     []string `cbor:"back"`  // whose turn to go back has come; sorted
}

// Begun is a workload of this node whose turn has come.
type Begun struct {
	Name  string `cbor:"name"`
	Time  int64  `cbor:"time"`  // when, Unix seconds
	Ready bool   `cbor:"ready"` // it was ready in the new version once
}

// Step is what a node does with one of its workloads.
type Step struct {
	Name string
	// Run is the version of the plan in which the workload is to be here, Case.Version
	// or Case.Base; 0: it is not to be here. While it waits it may also be a still older
	// one, that it runs.
	Run uint64
	// Start says that it may be started or replaced now. Otherwise what runs in that
	// version is left as it is, and nothing new is made.
	Start bool
	// Waiting names the workloads that it waits for, sorted; empty: for none.
	Waiting []string
	// Returned says that it is back, or on its way back, from Case.Version.
	Returned bool
}

// Decide tells what a node does now with each of its workloads, sorted by name, and
// what it must remember before it does it. It changes nothing of c.
func Decide(c Case) ([]Step, Memory) {
	d := &decision{Case: c, next: remembered(c)}
	d.news()
	var steps []Step
	for _, name := range d.mine() {
		if d.next.Returned {
			steps = append(steps, d.back(name))
		} else {
			steps = append(steps, d.forth(name))
		}
	}
	return steps, d.next
}

// remembered is the memory of this version, which of another one begins anew.
func remembered(c Case) Memory {
	m := c.Memory
	if m.Version != c.Version {
		return Memory{Version: c.Version, Base: c.Base}
	}
	m.Begun, m.Back = slices.Clone(m.Begun), slices.Clone(m.Back)
	return m
}

type decision struct {
	Case
	next Memory
}

// mine names this slot's workloads of both versions.
func (d *decision) mine() []string {
	var names []string
	for _, p := range []*plan.Plan{d.Plan, d.BasePlan} {
		if p == nil {
			continue
		}
		for _, w := range p.Workloads {
			if w.Slot == d.Slot {
				names = append(names, w.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// news takes into memory what has become known: that a workload was ready, or that
// the update has failed, here or elsewhere.
func (d *decision) news() {
	for _, w := range d.Plan.Workloads {
		// A node that forgot still finds its own word on the ledger.
		if v := d.There[w.Name]; w.Slot == d.Slot && v.Version == d.Version {
			d.begin(w.Name, v.Ready)
		}
	}
	for i := range d.next.Begun {
		b := &d.next.Begun[i]
		v := d.Here[b.Name]
		if v.Version != d.Version {
			v = View{}
		}
		b.Ready = b.Ready || v.Ready
		if why := failed(*b, v, d.Plan.Update, d.Now); why != "" {
			d.fail(why)
		}
	}
	for _, w := range d.Plan.Workloads {
		if v := d.There[w.Name]; v.Returned == d.Version {
			d.fail(cmp.Or(v.Why, "workload "+w.Name+" went back"))
		}
	}
}

// failed tells why an update has failed by what is seen of one workload that has
// begun; "" if it has not. Once it was ready, what happens to it later is no
// failure of the update.
func failed(b Begun, v View, u plan.Update, now int64) string {
	switch {
	case b.Ready:
	case v.Over:
		return fmt.Sprintf("workload %s ended in the new version without being ready", b.Name)
	case now-b.Time >= int64(u.Deadline):
		return fmt.Sprintf("workload %s was not ready %d s after its turn", b.Name, u.Deadline)
	}
	return ""
}

// fail begins the return, if the plan wants it and there is where to return to.
func (d *decision) fail(why string) {
	if d.next.Returned || !d.Plan.Update.Return || d.BasePlan == nil {
		return
	}
	d.next.Returned, d.next.Seen, d.next.Why = true, d.Now, why
}

// forth is one workload on the way to the new version.
func (d *decision) forth(name string) Step {
	w, wanted := find(d.Plan, name)
	before, had := find(d.BasePlan, name)
	here := wanted && w.Slot == d.Slot
	was := had && before.Slot == d.Slot
	var waiting []string
	if had && wanted {
		waiting = d.turn(d.Plan, name, d.readyAhead, func(string) bool { return true })
	}
	if !here {
		// It moved to another node, or is in the plan no more. One that moved stays until its
		// turn, so that not all of a set move at once.
		if len(waiting) > 0 && !d.begun(name) {
			return d.stay(before, waiting)
		}
		d.begin(name, true)
		return Step{Name: name}
	}
	now := d.Here[name]
	first := !d.begun(name) && now.Version != d.Version
	if first {
		waiting = merge(waiting, d.after(w, d.readyAhead))
	} else {
		// The turn is never taken back. What ended with its node waits for the others again.
		waiting = nil
		if now.Version == 0 {
			waiting = d.after(w, d.readyAhead)
		}
	}
	if len(waiting) == 0 || !first {
		d.begin(name, false)
		return Step{Name: name, Run: d.Version, Start: len(waiting) == 0, Waiting: waiting}
	}
	if was {
		return d.stay(before, waiting)
	}
	return Step{Name: name, Run: d.Version, Waiting: waiting}
}

// stay keeps what runs until its turn: in the version before, or, if it is well in a
// still older one, as it is.
func (d *decision) stay(w plan.Workload, waiting []string) Step {
	if d.lapsed(w) {
		return d.claim(w.Name)
	}
	now := d.Here[w.Name]
	s := Step{Name: w.Name, Run: d.Base, Waiting: waiting}
	switch {
	case now.Version == d.Base:
		s.Start = true
	case now.Version == 0:
		s.Start = len(d.after(w, d.readyAny)) == 0
	default:
		s.Start = !now.Ready
	}
	return s
}

// lapsed tells whether others were promised what a workload of Base holds here.
func (d *decision) lapsed(w plan.Workload) bool {
	return d.Crowded && beyond(w, d.Plan) != (plan.Resources{})
}

// claim is a workload as the newest version has it here, whoever's turn it is.
func (d *decision) claim(name string) Step {
	if w, ok := find(d.Plan, name); !ok || w.Slot != d.Slot {
		return Step{Name: name}
	}
	d.begin(name, false)
	return Step{Name: name, Run: d.Version, Start: true}
}

// back is one workload on the way back to the version before.
func (d *decision) back(name string) Step {
	w, had := find(d.BasePlan, name)
	s := Step{Name: name, Returned: true}
	if n, in := find(d.Plan, name); in && stays(n.Kind) || !in && had && stays(w.Kind) {
		if s.Returned = false; in && n.Slot == d.Slot {
			s.Run, s.Start = d.Version, true
		}
		return s
	}
	if !had || w.Slot != d.Slot {
		return s // it was made by the update, or moved here
	}
	if d.lapsed(w) {
		return d.claim(name)
	}
	now := d.Here[name]
	if now.Version != 0 && now.Version != d.Base && !slices.Contains(d.next.Back, name) {
		late := d.Now-d.next.Seen >= int64(d.Plan.Update.Deadline)
		if waiting := d.turn(d.BasePlan, name, d.readyBack, d.readyAny); now.Ready && len(waiting) > 0 && !late {
			// It is well where it is: others go back first.
			return Step{Name: name, Run: now.Version, Waiting: waiting}
		}
	}
	if !slices.Contains(d.next.Back, name) {
		d.next.Back = append(d.next.Back, name)
		slices.Sort(d.next.Back)
	}
	s.Run, s.Start = d.Base, true
	if now.Version == 0 {
		s.Waiting = d.after(w, d.readyAny)
		s.Start = len(s.Waiting) == 0
	}
	return s
}

// stays tells which kinds of workloads never go back. What a gateway publishes and
// who may enter by a device is what the contract holds on the ledger now: names and
// addresses of the version before may be another's.
func stays(kind string) bool { return kind == plan.KindGateway || kind == plan.KindDevice }

// turn names the workloads of the replica set that must be ready before this one may
// be replaced; none: it is its turn. earlier says which of those before it in the
// order are ready, later which of those after it.
func (d *decision) turn(p *plan.Plan, name string, earlier, later func(string) bool) []string {
	w, ok := find(p, name)
	if !ok || w.Set == "" || d.Plan.Update.Strategy != plan.UpdateRolling {
		return nil
	}
	var away []string
	ready := earlier
	for _, other := range order(p, w.Set) {
		if other == name {
			ready = later
			continue
		}
		if !ready(other) {
			away = append(away, other)
		}
	}
	if uint64(len(away)) < d.Plan.Update.MaxUnavailable {
		return nil
	}
	slices.Sort(away)
	return away
}

// after names those that a workload comes after and that are not ready.
func (d *decision) after(w plan.Workload, ready func(string) bool) []string {
	var away []string
	for _, name := range w.After {
		if !ready(name) {
			away = append(away, name)
		}
	}
	return away
}

// known is what is known of a workload: of one here by sight, else by receipts.
func (d *decision) known(name string) View {
	w, ok := find(d.Plan, name)
	if b, in := find(d.BasePlan, name); !ok && in {
		w, ok = b, true
	}
	if ok && w.Slot == d.Slot {
		v := d.Here[name]
		if d.next.Returned && v.Version == d.Base {
			v.Returned = d.Version
		}
		return v
	}
	return d.There[name]
}

// readyAhead: ready in the new version.
func (d *decision) readyAhead(name string) bool {
	v := d.known(name)
	return v.Ready && v.Version == d.Version && v.Returned != d.Version
}

// readyBack: back from the new version, and ready.
func (d *decision) readyBack(name string) bool {
	if w, ok := find(d.Plan, name); ok && stays(w.Kind) {
		return d.known(name).Ready
	}
	v := d.known(name)
	return v.Ready && v.Returned == d.Version
}

// Done tells whether an update is over as far as a node can see: every workload of the
// plan is ready in the new version, or the node has gone back and so has everyone.
func Done(c Case) bool {
	d := &decision{Case: c, next: remembered(c)}
	p, ready := c.Plan, d.readyAhead
	if d.next.Returned {
		p, ready = c.BasePlan, d.readyBack
	}
	for _, w := range p.Workloads {
		if !ready(w.Name) {
			return false
		}
	}
	return true
}

// readyAny: ready in whatever version it runs.
func (d *decision) readyAny(name string) bool { return d.known(name).Ready }

func (d *decision) begun(name string) bool {
	return slices.ContainsFunc(d.next.Begun, func(b Begun) bool { return b.Name == name })
}

// begin remembers that a workload's turn has come. proved says that nothing of it can
// fail the update any more: it was ready, or has left this node.
func (d *decision) begin(name string, proved bool) {
	if d.begun(name) {
		return
	}
	d.next.Begun = append(d.next.Begun, Begun{Name: name, Time: d.Now, Ready: proved})
	slices.SortFunc(d.next.Begun, func(a, b Begun) int { return strings.Compare(a.Name, b.Name) })
}

// order is a replica set in the order of its update.
func order(p *plan.Plan, set string) []string {
	depths := map[string]int{}
	var depth func(name string) int
	depth = func(name string) int {
		if n, ok := depths[name]; ok {
			return n
		}
		depths[name] = 0 // a circle, which plans don't have, ends here
		n := 0
		if w, ok := find(p, name); ok {
			for _, a := range w.After {
				n = max(n, depth(a)+1)
			}
		}
		depths[name] = n
		return n
	}
	var names []string
	for _, w := range p.Workloads {
		if w.Set == set {
			names = append(names, w.Name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(depth(a), depth(b)), strings.Compare(a, b))
	})
	return names
}

func find(p *plan.Plan, name string) (plan.Workload, bool) {
	if p == nil {
		return plan.Workload{}, false
	}
	i, ok := slices.BinarySearchFunc(p.Workloads, name, func(w plan.Workload, name string) int { return strings.Compare(w.Name, name) })
	if !ok {
		return plan.Workload{}, false
	}
	return p.Workloads[i], true
}

func merge(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}
