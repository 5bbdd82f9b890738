package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/zero-os/zos/spec/plan"
)

// order checks what the entries come after: names of the deployment, and no circle.
func (s *source) order(d *Deployment) {
	known := map[string]int{}
	for i, w := range d.Workloads {
		known[w.Name] = i
	}
	for i, w := range d.Workloads {
		for k, name := range w.After {
			where := s.placeOf(fmt.Sprintf("/workloads/%d/depends_on/%d", i, k))
			j, exists := known[name]
			switch {
			case name == w.Name:
				s.add(where, fmt.Sprintf("the workload %q can't wait for itself", name), "remove it")
			case exists && !plan.Runs(d.Workloads[j].Kind):
				s.add(where, fmt.Sprintf("%q is a gateway, which nothing has to wait for", name), "remove it")
			case !exists:
				names := slices.DeleteFunc(slices.Sorted(maps.Keys(known)), func(n string) bool { return n == w.Name || !plan.Runs(d.Workloads[known[n]].Kind) })
				fix := "known here: " + strings.Join(names, ", ")
				if near := Nearest(name, names); len(near) > 0 {
					fix = fmt.Sprintf("did you mean %q?", near[0])
				} else if len(names) == 0 {
					fix = "remove it: there is no other workload"
				}
				s.add(where, fmt.Sprintf("no workload %q is in this deployment", name), fix)
			}
		}
	}
	if len(s.mistakes) == 0 {
		s.circle(d, known)
	}
}

// circle names one circle of entries that wait for each other, if there is one.
func (s *source) circle(d *Deployment, known map[string]int) {
	const visiting, done = 1, 2
	state := make([]int, len(d.Workloads))
	var way []string
	var visit func(i int) bool
	visit = func(i int) bool {
		state[i] = visiting
		way = append(way, d.Workloads[i].Name)
		for k, name := range d.Workloads[i].After {
			j := known[name]
			if state[j] == visiting {
				from := slices.Index(way, name)
				s.add(s.placeOf(fmt.Sprintf("/workloads/%d/depends_on/%d", i, k)),
					fmt.Sprintf("these workloads wait for each other: %s → %s", strings.Join(way[from:], " → "), name), "remove one of these lines of depends_on")
				return true
			}
			if state[j] == 0 && visit(j) {
				return true
			}
		}
		way = way[:len(way)-1]
		state[i] = done
		return false
	}
	for i := range d.Workloads {
		if state[i] == 0 && visit(i) {
			return
		}
	}
}

// replicas puts NAME-1 to NAME-N in the place of each entry with replicas, with the
// alias NAME in each of its networks, and replaces the names in After by the
// workloads that they mean.
func (s *source) replicas(d *Deployment) {
	sets, entries := map[string]uint64{}, map[string]int{}
	for i, w := range d.Workloads {
		entries[w.Name] = i
		if w.Replicas > 0 {
			sets[w.Name] = w.Replicas
		}
	}
	var out []Workload
	for i, w := range d.Workloads {
		var after []string
		for _, name := range w.After {
			after = append(after, members(name, sets[name])...)
		}
		slices.Sort(after)
		w.After = slices.Compact(after)
		if w.Replicas == 0 {
			out = append(out, w)
			continue
		}
		names := members(w.Name, w.Replicas)
		if last := names[len(names)-1]; !plan.ValidName(last) {
			s.add(s.placeOf(fmt.Sprintf("/workloads/%d/name", i)), fmt.Sprintf("%q is too long for replicas, the last of which is %s", w.Name, last), fmt.Sprintf("use at most %d characters", 63-(len(last)-len(w.Name))))
		}
		for _, name := range names {
			if j, taken := entries[name]; taken {
				s.add(s.placeOf(fmt.Sprintf("/workloads/%d/name", j)), fmt.Sprintf("%q is the name of a replica of the workload in line %d", name, s.lineOf(i)), "choose another name")
			}
			r := w
			r.Name, r.Set = name, w.Name
			r.Networks = make([]Attachment, len(w.Networks))
			for k, a := range w.Networks {
				if !slices.Contains(a.Aliases, w.Name) {
					a.Aliases = append(slices.Clone(a.Aliases), w.Name)
				}
				if a.Allow = slices.Clone(a.Allow); a.Allow != nil {
					for n := range a.Allow {
						a.Allow[n].From = slices.Clone(a.Allow[n].From)
					}
				}
				r.Networks[k] = a
			}
			out = append(out, r)
		}
	}
	if len(out) > plan.MaxWorkloads/2 { // the rest is for routers and devices
		s.add(s.placeOf("/workloads"), fmt.Sprintf("with its replicas the deployment has %d workloads, at most %d are allowed", len(out), plan.MaxWorkloads/2), "split the deployment")
		return
	}
	d.Workloads = out
}

// members are the workloads that an entry's name means.
func members(name string, replicas uint64) []string {
	if replicas == 0 {
		return []string{name}
	}
	out := make([]string, replicas)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", name, i+1)
	}
	return out
}
