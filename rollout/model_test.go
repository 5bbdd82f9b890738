package rollout

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

// world is several nodes that decide alone, and a ledger of receipts that each reads
// when it pleases.
type world struct {
	t        *rapid.T
	base     *plan.Plan
	next     *plan.Plan
	nodes    []canon.Hash
	memories map[canon.Hash]Memory
	// runs is what is there by node and name; a moved workload may be on two for a moment.
	runs map[canon.Hash]map[string]View
	// ledger holds every receipt ever written, by workload; seen how far a node has read.
	ledger  map[string][]View
	read    map[canon.Hash]map[string]View
	bad     map[string]bool // never ready in the new version
	over    bool            // bad ones end, instead of hanging
	orderly bool            // nothing fails: what was seen ready still is
	now     int64
}

func newWorld(t *rapid.T, most uint64, bad bool) *world {
	wd := &world{t: t, memories: map[canon.Hash]Memory{}, runs: map[canon.Hash]map[string]View{}, ledger: map[string][]View{}, read: map[canon.Hash]map[string]View{}, bad: map[string]bool{}}
	count := rapid.IntRange(1, 4).Draw(t, "nodes")
	for i := range count {
		id := slot(i)
		wd.nodes = append(wd.nodes, id)
		wd.runs[id], wd.read[id] = map[string]View{}, map[string]View{}
	}
	u := plan.Update{Strategy: plan.UpdateRolling, MaxUnavailable: most, Deadline: 500, Return: true}
	draw := func(label string) *plan.Plan {
		p := &plan.Plan{Update: u}
		replicas := rapid.IntRange(1, 5).Draw(t, label+" replicas")
		for i := range replicas {
			p.Workloads = append(p.Workloads, plan.Workload{Name: fmt.Sprintf("web-%d", i), Set: "web"})
		}
		for _, name := range []string{"a", "db", "z"} {
			if rapid.Bool().Draw(t, label+" "+name) {
				p.Workloads = append(p.Workloads, plan.Workload{Name: name})
			}
		}
		return p
	}
	wd.base, wd.next = draw("base"), draw("next")
	// Where a workload is, and what it comes after, is of its name: as a planner leaves
	// it. Some move.
	rank := rapid.Permutation([]string{"a", "db", "web-0", "web-1", "web-2", "web-3", "web-4", "z"}).Draw(t, "order")
	edge := func(from, to string) bool { return canon.Sum([]byte(from + to))[0]&3 == 0 }
	for _, p := range []*plan.Plan{wd.base, wd.next} {
		slices.SortFunc(p.Workloads, func(a, b plan.Workload) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
		for i := range p.Workloads {
			x := &p.Workloads[i]
			n := int(canon.Sum([]byte(x.Name + rank[0]))[0])
			if p == wd.next && !bad && rapid.IntRange(0, 5).Draw(t, "moves") == 0 {
				n++
			}
			x.Slot = wd.nodes[n%count]
			for _, y := range p.Workloads {
				if slices.Index(rank, y.Name) < slices.Index(rank, x.Name) && edge(x.Name, y.Name) {
					x.After = append(x.After, y.Name)
				}
			}
		}
	}
	for _, x := range wd.base.Workloads {
		wd.runs[x.Slot][x.Name] = oldReady
		wd.ledger[x.Name] = []View{oldReady}
	}
	if bad {
		names := []string{}
		for _, x := range wd.next.Workloads {
			names = append(names, x.Name)
		}
		wd.bad[rapid.SampledFrom(names).Draw(t, "bad")] = true
		wd.over = rapid.Bool().Draw(t, "ends")
	}
	return wd
}

func (wd *world) decide(n canon.Hash) {
	steps, m := Decide(Case{Slot: n, Version: 2, Plan: wd.next, Base: 1, BasePlan: wd.base, Here: maps.Clone(wd.runs[n]), There: maps.Clone(wd.read[n]), Memory: wd.memories[n], Now: wd.now})
	wd.memories[n] = m
	for _, s := range steps {
		v, exists := wd.runs[n][s.Name]
		switch {
		case s.Run == 0:
			delete(wd.runs[n], s.Name)
		case !s.Start || exists && v.Version == s.Run:
		default:
			if m.Returned && s.Run == 2 {
				wd.t.Fatalf("node goes on with %s after it has seen the return", s.Name)
			}
			x, _ := find(wd.next, s.Name)
			for _, a := range x.After {
				if s.Run == 2 && wd.orderly && !wd.ready(a, 2) {
					wd.t.Fatalf("%s starts before %s is ready", s.Name, a)
				}
			}
			wd.runs[n][s.Name] = View{Version: s.Run}
		}
	}
	// Its receipts.
	for _, x := range wd.next.Workloads {
		if x.Slot != n {
			continue
		}
		v, ok := wd.runs[n][x.Name]
		if m.Returned && v.Version != 2 {
			v.Returned, ok = 2, true
		}
		if ok {
			wd.ledger[x.Name] = append(wd.ledger[x.Name], v)
		}
	}
}

// look shows a node any receipt of a workload, an old one maybe.
func (wd *world) look(n canon.Hash, name string, newest bool) {
	all := wd.ledger[name]
	if len(all) == 0 {
		return
	}
	i := len(all) - 1
	if !newest {
		i = rapid.IntRange(0, i).Draw(wd.t, "receipt")
	}
	wd.read[n][name] = all[i]
}

// settle lets what was started become ready, or fail.
func (wd *world) settle(n canon.Hash, name string) {
	v, ok := wd.runs[n][name]
	if !ok {
		return
	}
	if v.Version == 2 && wd.bad[name] {
		v.Over = wd.over
	} else {
		v.Ready = true
	}
	wd.runs[n][name] = v
}

func (wd *world) ready(name string, version uint64) bool {
	for _, runs := range wd.runs {
		if v := runs[name]; v.Ready && (version == 0 || v.Version == version) {
			return true
		}
	}
	return false
}

// away counts replicas of both versions that don't serve, without the bad one.
func (wd *world) away() (n uint64, names []string) {
	for _, x := range wd.next.Workloads {
		if _, both := find(wd.base, x.Name); both && x.Set != "" && !wd.bad[x.Name] && !wd.ready(x.Name, 0) {
			n++
			names = append(names, x.Name)
		}
	}
	return n, names
}

func (wd *world) chaos(most uint64) {
	names := slices.Sorted(maps.Keys(wd.ledger))
	for _, x := range wd.next.Workloads {
		names = append(names, x.Name)
	}
	for range rapid.IntRange(0, 120).Draw(wd.t, "steps") {
		n := wd.nodes[rapid.IntRange(0, len(wd.nodes)-1).Draw(wd.t, "node")]
		name := rapid.SampledFrom(names).Draw(wd.t, "name")
		wd.now++
		switch rapid.IntRange(0, 2).Draw(wd.t, "action") {
		case 0:
			wd.decide(n)
		case 1:
			wd.look(n, name, false)
		case 2:
			wd.settle(n, name)
		}
		if a, who := wd.away(); a > most {
			wd.t.Fatalf("%d replicas are away, %v, at most %d may be", a, who, most)
		}
	}
}

// calm lets everything be read, settled and decided until nothing changes.
func (wd *world) calm(most uint64, step int64) {
	names := map[string]bool{}
	for _, p := range []*plan.Plan{wd.base, wd.next} {
		for _, x := range p.Workloads {
			names[x.Name] = true
		}
	}
	for range 60 {
		wd.now += step
		for _, n := range wd.nodes {
			wd.decide(n)
			for name := range names {
				wd.settle(n, name)
			}
			wd.decide(n)
			for _, other := range wd.nodes {
				for name := range names {
					wd.look(other, name, true)
				}
			}
			if a, who := wd.away(); a > most {
				wd.t.Fatalf("%d replicas are away, %v, at most %d may be", a, who, most)
			}
		}
	}
}

func (wd *world) converged(p *plan.Plan, version uint64) {
	for _, n := range wd.nodes {
		want := []string{}
		for _, x := range p.Workloads {
			if x.Slot == n {
				want = append(want, x.Name)
				if v := wd.runs[n][x.Name]; v.Version != version || !v.Ready {
					wd.t.Fatalf("%s is %+v, want version %d ready; memory %+v", x.Name, v, version, wd.memories[n])
				}
			}
		}
		if got := slices.Sorted(maps.Keys(wd.runs[n])); !slices.Equal(got, want) {
			wd.t.Fatalf("a node runs %v, want %v", got, want)
		}
	}
}

func TestAHealthyUpdateConvergesWithNoMoreAwayThanAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.Uint64Range(1, 3).Draw(t, "most")
		wd := newWorld(t, most, false)
		wd.next.Update.Deadline, wd.orderly = 1<<30, true
		wd.chaos(most)
		wd.calm(most, 1)
		wd.converged(wd.next, 2)
	})
}

func TestAFailedUpdateReturnsEverywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.Uint64Range(1, 3).Draw(t, "most")
		wd := newWorld(t, most, true)
		wd.chaos(1 << 20)
		wd.calm(1<<20, 50)
		wd.converged(wd.base, 1)
	})
}

func TestANodeThatRestartsConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wd := newWorld(t, 1, rapid.Bool().Draw(t, "fails"))
		wd.chaos(1 << 20)
		n := wd.nodes[rapid.IntRange(0, len(wd.nodes)-1).Draw(t, "reboots")]
		wd.runs[n] = map[string]View{} // nothing runs after a reboot; what was remembered is on the disk
		wd.read[n] = map[string]View{}
		wd.calm(1<<20, 50)
		if len(wd.bad) > 0 {
			wd.converged(wd.base, 1)
		} else {
			wd.converged(wd.next, 2)
		}
	})
}
