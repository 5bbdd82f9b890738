package spec

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/spec/plan"
)

// joined is the public deployment with a device in front, which enters by node-1.
func joined(t *testing.T) (plan.Plan, Facts) {
	t.Helper()
	f := publicFacts()
	p, err := resolve(t, public, f)
	if err != nil {
		t.Fatal(err)
	}
	node := p.Networks[1].Nodes[0]
	config, err := plan.Device{V: plan.Version, Key: bytes.Repeat([]byte{1}, 32), Account: canon.Hash{9}, Network: plan.Attachment{
		Network: "front", IPv4: "10.1.0.77", IPv6: strings.TrimSuffix(node.IPv6, "/64") + "4d", Egress: plan.EgressNone, Bandwidth: 1_000_000}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	p.Workloads = append(p.Workloads, plan.Workload{Name: "laptop", Kind: plan.KindDevice, Slot: canon.Hash{1}, Resources: plan.DeviceResources(), Config: config})
	slices.SortFunc(p.Workloads, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	f.Standing = &p
	return p, f
}

func deviceIn(t *testing.T, p plan.Plan) (plan.Workload, plan.Device) {
	t.Helper()
	for _, w := range p.Workloads {
		if w.Kind == plan.KindDevice {
			d, err := plan.DecodeDevice(w.Config)
			if err != nil {
				t.Fatal(err)
			}
			return w, d
		}
	}
	return plan.Workload{}, plan.Device{}
}

// TestAnUpdateKeepsDevices although no spec lists them: their entry, key, address
// and limit, also when everything else of their network leaves their node, or the
// gateway lets in by another one.
func TestAnUpdateKeepsDevices(t *testing.T) {
	p, f := joined(t)
	before, _ := deviceIn(t, p)
	for name, change := range map[string]*strings.Replacer{
		"nothing":          strings.NewReplacer(),
		"containers leave": strings.NewReplacer("node: node-1", "node: node-2"),
		"another entry":    strings.NewReplacer("join: front", "join: front\n        entry: node-2"),
		"no entry":         strings.NewReplacer("      - port: udp\n        join: front\n", ""),
		"named in a rule":  strings.NewReplacer("{name: front, aliases: [web]}, back", "{name: front, aliases: [web], allow: [{ports: 22/tcp, from: [laptop]}]}, back"),
	} {
		next, err := resolve(t, change.Replace(public), f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := plan.Encode(next); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if w, _ := deviceIn(t, next); !bytes.Equal(w.Config, before.Config) || w.Slot != before.Slot || w.Resources != before.Resources {
			t.Errorf("%s: the device was %+v, is %+v", name, before, w)
		}
		if name == "named in a rule" {
			if got := decoded(t, next, "web-1").Networks[0].Allow; len(got) != 1 || fmt.Sprint(got[0].Peers) != "[laptop]" {
				t.Errorf("rules %+v", got)
			}
		}
	}
}

// TestDevicesLeaveWithTheirNetwork and get another address when it has another
// range.
func TestDevicesLeaveWithTheirNetwork(t *testing.T) {
	_, f := joined(t)
	text := strings.NewReplacer("  - name: front\n", "", "networks: [{name: front, aliases: [web]}, back]", "networks: [{name: back, aliases: [web]}]",
		"networks: [{name: front, aliases: [web]}]", "networks: [{name: back, aliases: [web]}]", "      - port: udp\n        join: front\n", "").Replace(public)
	next, err := resolve(t, text, f)
	if err != nil {
		t.Fatal(err)
	}
	if w, _ := deviceIn(t, next); w.Name != "" {
		t.Errorf("%s is still there", w.Name)
	}
	next, err = resolve(t, strings.Replace(public, "- name: front\n", "- name: front\n    subnet: 10.99.0.0/16\n", 1), f)
	if err != nil {
		t.Fatal(err)
	}
	if _, d := deviceIn(t, next); d.Network.IPv4 != "10.99.0.2" || d.Network.Bandwidth != 1_000_000 {
		t.Errorf("the device has %+v", d.Network)
	}
}

// TestWhatDevicesStandInTheWayOfIsSaid with every message whole.
func TestWhatDevicesStandInTheWayOfIsSaid(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Facts)
		text   string
		want   string
	}{
		"entry gone": {func(f *Facts) { f.Nodes = f.Nodes[1:] }, strings.NewReplacer("node: node-1", "node: node-2").Replace(public),
			`6:5: the device "laptop" enters the network "front" by node 01000000, which takes this group's workloads no more = revoke it first: zos net revoke shop/front laptop; it can join again by another node`},
		"no room for it": {func(f *Facts) { f.Nodes[0].Free.Memory = 8<<20 + 100 }, strings.NewReplacer("node: node-1", "node: node-2").Replace(public),
			`6:5: node node-1 has 0.99 cores, 0 MiB memory, 1024 MiB disk free, the device "laptop" that enters there wants 0.001 cores, 1 MiB memory, 0 MiB disk = cancel a contract there, or revoke the device`},
		"no room for its router": {func(f *Facts) { f.Nodes[0].Free.Memory = 100 }, strings.NewReplacer("node: node-1", "node: node-2", "      - port: udp\n        join: front\n", "").Replace(public),
			`6:5: node node-1 has 1 cores, 0 MiB memory, 1024 MiB disk free, the router for the device laptop wants 0.01 cores, 8 MiB memory, 0 MiB disk = cancel a contract there, or revoke the device`},
		"its name": {nil, strings.NewReplacer("name: db,", "name: laptop,", "to: db", "to: laptop").Replace(public),
			`8:12: "laptop" is the name of a person's device in this deployment = choose another name`},
		"its name as an alias": {nil, strings.NewReplacer("aliases: [web]}, back", "aliases: [web, laptop]}, back").Replace(public),
			`9:108: "laptop" is the name of a person's device in this deployment = choose another name`},
		"a rule in another network": {nil, strings.NewReplacer("networks: [back]}", "networks: [{name: back, allow: [{ports: 1/tcp, from: [laptop]}]}]}").Replace(public),
			`8:119: no workload or alias "laptop" is in the network "back": this rule would let nobody in = in this network: web-1; a person's device joins before a rule names it`},
	} {
		t.Run(name, func(t *testing.T) {
			_, f := joined(t)
			if c.change != nil {
				c.change(&f)
			}
			_, err := resolve(t, c.text, f)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v", err)
			}
			var got []string
			for _, m := range e.Mistakes {
				got = append(got, fmt.Sprintf("%d:%d: %s = %s", m.Line, m.Column, m.Message, m.Fix))
			}
			if shown := strings.Join(got, "\n"); shown != c.want {
				t.Errorf("got\n%s\nwant\n%s", shown, c.want)
			}
		})
	}
}

// TestAnEntryIsMadeANodeOfTheNetwork if it carries none of it, and the next
// version keeps what was picked.
func TestAnEntryIsMadeANodeOfTheNetwork(t *testing.T) {
	f := publicFacts()
	f.Nodes = append(f.Nodes, Node{Slot: canon.Hash{5}, Name: "node-5", Free: contract.Capacity{CPU: 1000, Memory: 1 << 30, Disk: 1 << 30}})
	p, err := resolve(t, strings.Replace(public, "join: front", "join: front\n        entry: node-5", 1), f)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Encode(p); err != nil {
		t.Fatal(err)
	}
	g, _ := published(t, p, "www")
	if g.Routes[2].Entry != (canon.Hash{5}) || !slices.ContainsFunc(p.Networks[1].Nodes, func(n plan.NetworkNode) bool { return n.Slot == canon.Hash{5} }) {
		t.Errorf("routes %+v, nodes %+v", g.Routes, p.Networks[1].Nodes)
	}
	f.Standing = &p
	next, err := resolve(t, public, f) // the entry is not named any more
	if err != nil {
		t.Fatal(err)
	}
	if g, _ := published(t, next, "www"); g.Routes[2].Entry != (canon.Hash{5}) {
		t.Errorf("the entry moved: %+v", g.Routes[2])
	}
}

// TestAPickedPortStays when others come before it, when the spec's order changes,
// and when replicas come; and it goes with its own node only.
func TestAPickedPortStays(t *testing.T) {
	f := publicFacts()
	p, err := resolve(t, public, f)
	if err != nil {
		t.Fatal(err)
	}
	f.Standing = &p
	f.Nodes[2].Pool.Last = 30009
	port := func(p plan.Plan, target uint16) (out []string) {
		g, _ := published(t, p, "www")
		for _, r := range g.Routes {
			if r.Host == "" && r.Target == target && r.Port != 30002 {
				out = append(out, r.String())
			}
		}
		return out
	}
	for name, c := range map[string]struct {
		text string
		want string
	}{
		"first another": {strings.Replace(public, "      - port: tcp\n", "      - {port: tcp, to: db:1}\n      - port: tcp\n", 1), "[30001/tcp] [30003/tcp]"},
		"a replica":     {strings.Replace(public, "networks: [back]}", "networks: [{name: back, aliases: [pg]}]}\n  - {name: db-2, kind: container, image: red/web:1, networks: [{name: back, aliases: [pg]}]}", 1), "[30001/tcp] []"},
		"written now":   {strings.Replace(public, "      - port: tcp\n", "      - {port: 30001/tcp, to: db:1}\n      - port: tcp\n", 1), "[30003/tcp] [30001/tcp]"},
	} {
		if name == "a replica" {
			c.text = strings.Replace(c.text, "to: db.back:5432", "to: pg:5432", 1)
		}
		next, err := resolve(t, c.text, f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := fmt.Sprint(port(next, 5432), port(next, 1)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
