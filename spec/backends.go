package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/zero-os/zos/spec/plan"
)

// homes are the networks of containers: by a name or an alias, and in each of
// them the workloads that it means.
type homes map[string]map[string][]string

func homesOf(d *Deployment) homes {
	out := homes{}
	add := func(name, network, workload string) {
		if out[name] == nil {
			out[name] = map[string][]string{}
		}
		out[name][network] = append(out[name][network], workload)
	}
	for _, w := range d.Workloads {
		if !plan.Runs(w.Kind) {
			continue
		}
		out[w.Name] = map[string][]string{}
		if w.Set != "" && out[w.Set] == nil {
			out[w.Set] = map[string][]string{} // also if it is in no network
		}
		for _, a := range w.Networks {
			add(w.Name, a.Network, w.Name)
		}
	}
	for _, w := range d.Workloads {
		for _, a := range w.Networks {
			for _, alias := range a.Aliases {
				if plan.Runs(w.Kind) && alias != w.Name {
					add(alias, a.Network, w.Name)
				}
			}
		}
	}
	return out
}

// backends looks up what gateways publish, once all workloads are read: it
// replaces the names in Backends, and puts each gateway into the networks that
// this takes.
func (s *source) backends(d *Deployment) {
	known := homesOf(d)
	for wi := range d.Workloads {
		w := &d.Workloads[wi]
		in := map[string]int{} // the first entry that needs a network
		for pi := range w.Publish {
			p := &w.Publish[pi]
			at := fmt.Sprintf("/workloads/%d/publish/%d", d.Workloads[wi].entry, pi)
			switch {
			case p.Join && !slices.ContainsFunc(d.Networks, func(n Network) bool { return n.Name == p.Network }):
				s.add(s.placeOf(at+"/join"), fmt.Sprintf("no network %q is in this deployment", p.Network), suggestNetwork(p.Network, d.Networks))
				continue
			case !p.Join && !s.backend(d, known, p, at+"/to"):
				continue
			}
			if _, ok := in[p.Network]; !ok {
				in[p.Network] = pi
			}
			if len(in) > plan.MaxAttachments {
				s.add(s.placeOf(at), fmt.Sprintf("with %s this gateway is in %d networks, at most %d are allowed", p.Network, len(in), plan.MaxAttachments),
					"publish it by another gateway")
				break
			}
		}
		for _, name := range slices.Sorted(maps.Keys(in)) {
			w.Networks = append(w.Networks, Attachment{Network: name, Egress: plan.EgressNone})
		}
	}
}

// backend looks up one name, and tells whether it means somebody.
func (s *source) backend(d *Deployment, known homes, p *Publish, pointer string) bool {
	name := p.Backends[0]
	where := s.placeOf(pointer)
	networks, found := known[name]
	line := func() int {
		i := slices.IndexFunc(d.Workloads, func(w Workload) bool { return w.Name == name || w.Set == name })
		if i < 0 { // an alias: of the first that has it
			i = slices.IndexFunc(d.Workloads, func(w Workload) bool {
				return slices.ContainsFunc(w.Networks, func(a Attachment) bool { return slices.Contains(a.Aliases, name) })
			})
		}
		return s.lineOf(d.Workloads[i].entry)
	}
	switch {
	case !found && slices.ContainsFunc(d.Workloads, func(w Workload) bool { return w.Name == name }):
		s.add(where, fmt.Sprintf("the workload %q is a gateway itself", name), "name the container that answers")
	case !found:
		names := slices.Sorted(maps.Keys(known))
		fix := "known here: " + strings.Join(names, ", ")
		if near := Nearest(name, names); len(near) > 0 {
			fix = fmt.Sprintf("did you mean \"%s:%d\"?", near[0], p.Target)
		} else if len(names) == 0 {
			fix = "add a workload of kind container"
		}
		s.add(where, fmt.Sprintf("no workload or alias %q is in this deployment", name), fix)
	case p.Network != "" && !slices.ContainsFunc(d.Networks, func(n Network) bool { return n.Name == p.Network }):
		s.add(where, fmt.Sprintf("no network %q is in this deployment", p.Network), suggestNetwork(p.Network, d.Networks))
	case p.Network != "" && len(networks[p.Network]) == 0:
		s.add(where, fmt.Sprintf("%q is not in the network %q", name, p.Network), fmt.Sprintf("add %s to the networks of the workload in line %d", p.Network, line()))
	case len(networks) == 0:
		s.add(where, fmt.Sprintf("the workload %q is in no network, so no gateway reaches it", name), fmt.Sprintf("add a line networks: [NETWORK] to the workload in line %d", line()))
	case p.Network == "" && len(networks) > 1:
		list := slices.Sorted(maps.Keys(networks))
		ways := make([]string, len(list))
		for i, n := range list {
			ways[i] = fmt.Sprintf("%s.%s:%d", name, n, p.Target)
		}
		s.add(where, fmt.Sprintf("%q is in the networks %s", name, strings.Join(list, ", ")), "write which one: "+strings.Join(ways, " or "))
	default:
		if p.Network == "" {
			p.Network = slices.Collect(maps.Keys(networks))[0]
		}
		p.Backends = slices.Sorted(slices.Values(networks[p.Network]))
		return true
	}
	return false
}
