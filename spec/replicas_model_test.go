package spec

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/spec/plan"
)

// herd is a deployment of sets of replicas that grow, shrink and change, on nodes of
// a few farms that can do different things and have little room.
type herd struct {
	facts  Facts
	sets   map[string]string // the rest of the entry by name
	parsed *Deployment
	of     string // the text that parsed is of
}

func drawHerd(t *rapid.T) *herd {
	h := &herd{facts: facts(), sets: map[string]string{}}
	h.facts.Nodes = nil
	for i := range rapid.IntRange(2, 6).Draw(t, "nodes") {
		n := Node{Slot: canon.Sum([]byte{byte(i)}), Name: fmt.Sprintf("n%d", i), Farm: canon.Hash{byte(1 + rapid.IntRange(0, 2).Draw(t, "farm"))},
			Free: contract.Capacity{CPU: 4000, Memory: uint64(rapid.IntRange(300, 3000).Draw(t, "memory")) << 20, Disk: 1 << 30}}
		h.can(t, &n)
		h.facts.Nodes = append(h.facts.Nodes, n)
	}
	for range rapid.IntRange(1, 4).Draw(t, "sets") {
		h.change(t)
	}
	return h
}

func (h *herd) can(t *rapid.T, n *Node) {
	n.Isolation = rapid.SampledFrom([][]string{{"microvm", "namespace"}, {"microvm", "namespace"}, {"microvm", "namespace"}, {"microvm", "namespace"}, nil, {"namespace"}, {"microvm"}, {}}).Draw(t, "isolation")
}

func (h *herd) change(t *rapid.T) {
	name := fmt.Sprintf("s%d", rapid.IntRange(0, 4).Draw(t, "set"))
	line := fmt.Sprintf("isolation: %s", rapid.SampledFrom([]string{"any", "any", "any", "any", "microvm", "namespace"}).Draw(t, "class"))
	if n := rapid.IntRange(0, 4).Draw(t, "replicas"); n > 0 {
		line += fmt.Sprintf(", replicas: %d", n)
		if spread := rapid.SampledFrom([]string{"", "", "node", "node", "farm"}).Draw(t, "spread"); spread != "" && n > 1 {
			line += ", spread: " + spread
		}
	}
	line += rapid.SampledFrom([]string{"", ", networks: [a]"}).Draw(t, "networks")
	h.sets[name] = line
}

func (h *herd) text() string {
	out := "apiVersion: zos/v1\nname: shop\ngroup: demo\nnetworks: [{name: a}]\nworkloads:\n  - {name: base, kind: container, image: \"red/web:1\", isolation: any, networks: [a]}\n"
	for _, name := range sorted(h.sets) {
		out += fmt.Sprintf("  - {name: %s, kind: container, image: \"red/web:1\", %s, depends_on: [base]}\n", name, h.sets[name])
	}
	return out
}

func sorted(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (h *herd) plan(t *rapid.T) (plan.Plan, []byte, error) {
	if text := h.text(); h.of != text {
		d, err := Parse("shop.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v", err)
		}
		h.parsed, h.of = d, text
	}
	p, err := Resolve(t.Context(), h.parsed, h.facts)
	if err != nil {
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%v, want an *Error", err)
		}
		return p, nil, err
	}
	b, err := plan.Encode(p)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return p, b, nil
}

// TestReplicasOfAnyDeploymentKeepTheirPromises: spread ones are never together, no
// node carries more than it has or runs what it can't, none leaves a micro-VM by
// itself, what stands and still fits stays, and planning again changes nothing.
func TestReplicasOfAnyDeploymentKeepTheirPromises(t *testing.T) {
	planned, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		h := drawHerd(t)
		for range 3 {
			p, b, err := h.plan(t)
			if _, again, err2 := h.plan(t); !bytes.Equal(b, again) || (err == nil) != (err2 == nil) {
				t.Fatalf("the same input gave other bytes, or %v and %v", err, err2)
			}
			if err != nil {
				refused++
			} else {
				planned++
				h.check(t, p)
				h.stand(p)
				if _, again, err := h.plan(t); err != nil || !bytes.Equal(b, again) {
					t.Fatalf("what stands is planned otherwise: %v\n%s", err, h.text())
				}
			}
			h.change(t)
			if rapid.Bool().Draw(t, "learns") {
				h.can(t, &h.facts.Nodes[rapid.IntRange(0, len(h.facts.Nodes)-1).Draw(t, "node")])
			}
		}
	})
	if planned < 20 || refused < 5 {
		t.Errorf("%d deployments were planned, %d refused: the draw shows nothing", planned, refused)
	} else {
		t.Logf("%d deployments were planned, %d refused", planned, refused)
	}
}

// stand makes a plan the standing one.
func (h *herd) stand(p plan.Plan) {
	for i := range h.facts.Nodes {
		n := &h.facts.Nodes[i]
		n.Free = contract.Capacity{CPU: n.Free.CPU + n.Own.CPU, Memory: n.Free.Memory + n.Own.Memory, Disk: n.Free.Disk + n.Own.Disk}
		n.Own = usedOn(p, n.Slot)
		n.Free = contract.Capacity{CPU: n.Free.CPU - n.Own.CPU, Memory: n.Free.Memory - n.Own.Memory, Disk: n.Free.Disk - n.Own.Disk}
	}
	h.facts.Standing = &p
}

func usedOn(p plan.Plan, slot canon.Hash) (c contract.Capacity) {
	for _, w := range p.Workloads {
		if w.Slot == slot {
			c.CPU, c.Memory, c.Disk = c.CPU+w.Resources.CPU, c.Memory+w.Resources.Memory, c.Disk+w.Resources.Disk
		}
	}
	return c
}

func (h *herd) check(t *rapid.T, p plan.Plan) {
	nodes := map[canon.Hash]Node{}
	for _, n := range h.facts.Nodes {
		nodes[n.Slot] = n
		if used := usedOn(p, n.Slot); !used.Within(contract.Capacity{CPU: n.Free.CPU + n.Own.CPU, Memory: n.Free.Memory + n.Own.Memory, Disk: n.Free.Disk + n.Own.Disk}) {
			t.Fatalf("%s carries %s of %s\n%s", n.Name, used, n.Free, h.text())
		}
	}
	before := map[string]string{}
	if h.facts.Standing != nil {
		for _, w := range h.facts.Standing.Workloads {
			if w.Kind == plan.KindContainer {
				c, _ := plan.DecodeContainer(w.Config)
				before[w.Name] = c.Isolation
			}
		}
	}
	seen := map[string]string{}
	for _, w := range p.Workloads {
		if w.Kind != plan.KindContainer {
			continue
		}
		c, err := plan.DecodeContainer(w.Config)
		if err != nil {
			t.Fatal(err)
		}
		n := nodes[w.Slot]
		if !n.Can(c.Isolation) {
			t.Fatalf("%s is in a %s on %s, which can %v", w.Name, c.Isolation, n.Name, n.Isolation)
		}
		entry := h.sets[w.Set]
		if w.Set == "" {
			entry = h.sets[w.Name]
		}
		if (entry == "" || strings.Contains(entry, "isolation: any")) && before[w.Name] == plan.IsolationMicroVM && c.Isolation != plan.IsolationMicroVM {
			t.Fatalf("%s left its micro-VM", w.Name)
		}
		key := ""
		switch {
		case strings.Contains(entry, "spread: node"):
			key = w.Set + n.Slot.String()
		case strings.Contains(entry, "spread: farm"):
			key = w.Set + n.Farm.String()
		}
		if other := seen[key]; key != "" && other != "" {
			t.Fatalf("%s and %s are together on %s", w.Name, other, n.Name)
		}
		seen[key] = w.Name
	}
}
