package spec

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/spec/plan"
)

// world is a spec that grows and shrinks, and the nodes that it is planned on.
type world struct {
	nodes     []Node
	networks  map[string]string          // subnet by name, or ""
	workloads map[string]map[string]bool // networks by workload
	pinned    map[string]int             // node by workload
}

func drawWorld(t *rapid.T) *world {
	w := &world{networks: map[string]string{}, workloads: map[string]map[string]bool{}, pinned: map[string]int{}}
	for i := range rapid.IntRange(1, 6).Draw(t, "nodes") {
		slot := canon.Sum([]byte(fmt.Sprint("slot", i)))
		w.nodes = append(w.nodes, Node{Slot: slot, Name: fmt.Sprintf("n%d", i), Free: contract.Capacity{CPU: 1 << 20, Memory: 1 << 40, Disk: 1 << 40}})
	}
	for i := range rapid.IntRange(1, 4).Draw(t, "networks") {
		w.networks[fmt.Sprintf("net%d", i)] = rapid.SampledFrom([]string{"", "", fmt.Sprintf("10.%d.0.0/16", 100+i), fmt.Sprintf("172.16.%d.0/20", 16*i)}).Draw(t, "subnet")
	}
	for range rapid.IntRange(1, 12).Draw(t, "workloads") {
		w.add(t)
	}
	return w
}

func (w *world) add(t *rapid.T) {
	name := fmt.Sprintf("w%02d", rapid.IntRange(0, 30).Draw(t, "name"))
	in := map[string]bool{}
	for _, n := range w.names() {
		if rapid.Bool().Draw(t, "in "+n) {
			in[n] = true
		}
	}
	w.workloads[name] = in
	delete(w.pinned, name)
	if rapid.Bool().Draw(t, "pinned") {
		w.pinned[name] = rapid.IntRange(0, len(w.nodes)-1).Draw(t, "node")
	}
}

func (w *world) names() []string {
	var out []string
	for n := range w.networks {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// text writes the spec; networks that nobody is in are left out, for they are
// mistakes. With backwards, everything stands in the other order.
func (w *world) text(backwards bool) string {
	var names []string
	used := map[string]bool{}
	for n, in := range w.workloads {
		names = append(names, n)
		for net := range in {
			used[net] = true
		}
	}
	slices.Sort(names)
	nets := w.names()
	if backwards {
		slices.Reverse(names)
		slices.Reverse(nets)
	}
	var b strings.Builder
	b.WriteString("apiVersion: zos/v1\nname: shop\ngroup: demo\nnetworks:\n")
	none := true
	for _, n := range nets {
		if used[n] {
			none = false
			fmt.Fprintf(&b, "  - name: %s\n", n)
			if s := w.networks[n]; s != "" {
				fmt.Fprintf(&b, "    subnet: %s\n", s)
			}
		}
	}
	text := b.String()
	if none {
		text = strings.TrimSuffix(text, "networks:\n")
	}
	b.Reset()
	b.WriteString(text + "workloads:\n")
	for _, n := range names {
		fmt.Fprintf(&b, "  - name: %s\n    kind: container\n    image: red/web:1\n", n)
		if at, ok := w.pinned[n]; ok {
			fmt.Fprintf(&b, "    node: %s\n", w.nodes[at].Name)
		}
		if in := w.workloads[n]; len(in) > 0 {
			b.WriteString("    networks:\n")
			for _, net := range w.names() {
				if in[net] {
					fmt.Fprintf(&b, "      - %s\n", net)
				}
			}
		}
	}
	return b.String()
}

func (w *world) resolve(t *rapid.T, standing *plan.Plan, backwards bool) plan.Plan {
	f := facts()
	f.Nodes, f.Standing = w.nodes, standing
	text := w.text(backwards)
	d, err := Parse("shop.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%s\nin\n%s", err, text)
	}
	p, err := Resolve(t.Context(), d, f)
	if err != nil {
		t.Fatalf("%s\nin\n%s", err, text)
	}
	return p
}

// where is a workload's place: its node and its address in a network.
type where struct {
	slot canon.Hash
	addr netip.Addr
}

func wheres(t *rapid.T, p plan.Plan) map[[2]string]where {
	out := map[[2]string]where{}
	for _, w := range p.Workloads {
		if w.Kind != plan.KindContainer {
			continue
		}
		c, err := plan.DecodeContainer(w.Config)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range c.Networks {
			out[[2]string{w.Name, a.Network}] = where{w.Slot, netip.MustParseAddr(a.IPv4)}
		}
	}
	return out
}

// TestAllocationIsValidDeterministicAndStable plans random deployments, changes
// them at random and plans again: every plan is one that the ledger takes (so
// nothing is given twice or lies outside), and what stays keeps its node, its
// ranges and its addresses.
func TestAllocationIsValidDeterministicAndStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		p := w.resolve(t, nil, false)
		for range rapid.IntRange(1, 4).Draw(t, "updates") {
			encoded, err := plan.Encode(p)
			if err != nil {
				t.Fatalf("the ledger would refuse it: %v", err)
			}
			if same, err := plan.Encode(w.resolve(t, &p, false)); err != nil || !bytes.Equal(encoded, same) {
				t.Fatalf("an update that changes nothing changes the plan, %v", err)
			}
			before := wheres(t, p)
			change(t, w)
			next := w.resolve(t, &p, false)
			again, err := plan.Encode(next)
			if err != nil {
				t.Fatal(err)
			}
			if turned, err := plan.Encode(w.resolve(t, &p, true)); err != nil || !bytes.Equal(again, turned) {
				t.Fatalf("the order in the file changes the plan, %v", err)
			}
			kept(t, p, next, before, wheres(t, next), w)
			p = next
		}
	})
}

func change(t *rapid.T, w *world) {
	for range rapid.IntRange(0, 4).Draw(t, "added") {
		w.add(t)
	}
	for _, n := range slices.Sorted(func(yield func(string) bool) {
		for n := range w.workloads {
			if !yield(n) {
				return
			}
		}
	}) {
		if len(w.workloads) > 1 && rapid.IntRange(0, 3).Draw(t, "remove "+n) == 0 {
			delete(w.workloads, n)
			delete(w.pinned, n)
		}
	}
}

// kept compares two versions: an address changes only when its workload moves,
// and a workload moves only when the spec names another node.
func kept(t *rapid.T, old, now plan.Plan, before, after map[[2]string]where, w *world) {
	for key, b := range before {
		a, stays := after[key]
		if !stays {
			continue
		}
		if pin, ok := w.pinned[key[0]]; a.slot != b.slot && (!ok || w.nodes[pin].Slot != a.slot) {
			t.Fatalf("%v moved without a reason", key)
		}
		if a.slot == b.slot && a.addr != b.addr {
			t.Fatalf("%v had %s, now %s", key, b.addr, a.addr)
		}
	}
	// What was given back is not given to another one at once.
	owner := map[string]map[netip.Addr]string{}
	for key, b := range before {
		if owner[key[1]] == nil {
			owner[key[1]] = map[netip.Addr]string{}
		}
		owner[key[1]][b.addr] = key[0]
	}
	for key, a := range after {
		if was := owner[key[1]][a.addr]; was != "" && was != key[0] {
			t.Fatalf("%s's address %s in %s is %s's now", was, a.addr, key[1], key[0])
		}
	}
	nodes, had := map[string]plan.NetworkNode{}, map[string]canon.Hash{}
	for _, n := range old.Networks {
		for _, node := range n.Nodes {
			nodes[n.Name+node.Slot.String()] = node
			had[n.Name+node.IPv4] = node.Slot
		}
	}
	for _, n := range now.Networks {
		for _, node := range n.Nodes {
			if b, ok := nodes[n.Name+node.Slot.String()]; ok && b != node {
				t.Fatalf("network %s: node %s had %+v, now %+v", n.Name, node.Slot.Short(), b, node)
			}
			if was, ok := had[n.Name+node.IPv4]; ok && was != node.Slot {
				t.Fatalf("network %s: node %s's range %s is given to %s at once", n.Name, was.Short(), node.IPv4, node.Slot.Short())
			}
		}
	}
}

// TestNarrowNetworksGiveBackWhatTheyHad fills a network of two nodes, and moves
// its workload to a third: the range of the one that left is all there is.
func TestNarrowNetworksGiveBackWhatTheyHad(t *testing.T) {
	text := strings.Replace(shop, "10.20.0.0/16", "10.20.0.0/23", 1)
	f := facts()
	f.Nodes = append(f.Nodes, Node{Slot: canon.Hash{3}, Name: "node-3", Free: f.Nodes[0].Free})
	p, err := resolve(t, text, f)
	if err != nil {
		t.Fatal(err)
	}
	f.Standing = &p
	next, err := resolve(t, strings.Replace(text, "node: node-2", "node: node-3", 1), f)
	if err != nil {
		t.Fatal(err)
	}
	if got := next.Networks[0].Nodes[1]; got.Slot != (canon.Hash{3}) || got.IPv4 != "10.20.1.0/24" {
		t.Errorf("node-3 has %+v", got)
	}
}

// TestAChosenRangeStays when another network is written before it, or takes the
// default's place.
func TestAChosenRangeStays(t *testing.T) {
	p, err := resolve(t, shop, facts())
	if err != nil {
		t.Fatal(err)
	}
	f := facts()
	f.Standing = &p
	next, err := resolve(t, strings.NewReplacer("networks:\n  - name: back", "networks:\n  - name: admin\n  - name: back", "      - front\n", "      - front\n      - admin\n").Replace(shop), f)
	if err != nil {
		t.Fatal(err)
	}
	if next.Networks[0].Name != "admin" || next.Networks[0].IPv4 != "10.1.0.0/16" || next.Networks[2].IPv4 != p.Networks[1].IPv4 {
		t.Errorf("networks %+v", next.Networks)
	}
}

// TestAWrittenRangeDoesNotPushAStandingOneAway: that would give running
// workloads other addresses.
func TestAWrittenRangeDoesNotPushAStandingOneAway(t *testing.T) {
	p, err := resolve(t, shop, facts())
	if err != nil {
		t.Fatal(err)
	}
	f := facts()
	f.Standing = &p
	_, err = resolve(t, strings.Replace(shop, "10.20.0.0/16", "10.0.0.0/12", 1), f)
	for _, want := range []string{"shop.yaml:6:13: 10.0.0.0/12 overlaps 10.0.0.0/16, which the network \"front\" has now", "write its subnet too"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err = resolve(t, strings.NewReplacer("10.20.0.0/16", "10.0.0.0/12", "- name: front", "- name: front\n    subnet: 10.16.0.0/16").Replace(shop), f); err != nil {
		t.Errorf("both written: %v", err)
	}
}

// TestAMeshOfFiftyNodesFits in a plan, with a workload on each.
func TestAMeshOfFiftyNodesFits(t *testing.T) {
	f := facts()
	f.Nodes = nil
	text := "apiVersion: zos/v1\nname: mesh\ngroup: demo\nnetworks: [{name: lan}]\nworkloads:\n"
	for i := range 50 {
		f.Nodes = append(f.Nodes, Node{Slot: canon.Sum([]byte{byte(i)}), Name: fmt.Sprintf("n%d", i), Free: contract.Capacity{CPU: 1000, Memory: 1 << 30, Disk: 1 << 30}})
		text += fmt.Sprintf("  - {name: w%d, kind: container, image: red/web:1, node: n%d, networks: [lan]}\n", i, i)
	}
	p, err := resolve(t, text, f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := plan.Encode(p)
	if err != nil || len(p.Workloads) != 100 || len(p.Networks[0].Nodes) != 50 {
		t.Fatalf("%d workloads, %v", len(p.Workloads), err)
	}
	t.Logf("%d bytes", len(b))
}
