package spec

import (
	"bytes"
	"errors"
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

// bazaar is a spec with gateways that grows and shrinks, and the nodes, pools
// and leases that it is planned on.
type bazaar struct {
	facts      Facts
	containers map[string]string   // the rest of its line
	gateways   map[string]string   // node and address
	publish    map[string][]string // entries by gateway, each once
}

func drawBazaar(t *rapid.T) *bazaar {
	b := &bazaar{facts: facts(), containers: map[string]string{}, gateways: map[string]string{}, publish: map[string][]string{}}
	b.facts.Zone, b.facts.Nodes = "grid.example", nil
	b.facts.Name = func(string) (string, bool, bool) { return "demo", true, true }
	for i := range rapid.IntRange(2, 4).Draw(t, "nodes") {
		n := Node{Slot: canon.Sum([]byte{byte(i)}), Name: fmt.Sprintf("n%d", i), Free: contract.Capacity{CPU: 1 << 20, Memory: uint64(rapid.IntRange(1, 3).Draw(t, "memory")) << 40, Disk: 1 << 40},
			Ports: map[PublicPort]canon.Hash{}, Leased: map[string]canon.Hash{}}
		if i == 0 || rapid.Bool().Draw(t, "pool") {
			n.Pool = &contract.Pool{Slot: n.Slot, Ranges: []contract.Range{{Prefix: fmt.Sprintf("198.51.%d.0/24", i), Router: fmt.Sprintf("198.51.%d.1", i),
				First: fmt.Sprintf("198.51.%d.10", i), Last: fmt.Sprintf("198.51.%d.14", i)}}}
			if i == 0 || rapid.Bool().Draw(t, "shares") {
				n.Pool.Shared = []string{fmt.Sprintf("198.51.%d.10", i), fmt.Sprintf("198.51.%d.11", i)}
				n.Pool.First, n.Pool.Last = 30000, uint16(rapid.IntRange(30001, 30009).Draw(t, "last"))
			}
			if rapid.Bool().Draw(t, "leases") {
				n.Ports[PublicPort{"tcp", 30000}], n.Leased[fmt.Sprintf("198.51.%d.12", i)] = canon.Hash{7}, canon.Hash{8}
			}
		}
		b.facts.Nodes = append(b.facts.Nodes, n)
	}
	for range rapid.IntRange(1, 4).Draw(t, "containers") {
		b.container(t)
	}
	for range rapid.IntRange(1, 3).Draw(t, "gateways") {
		b.gateway(t)
	}
	return b
}

func (b *bazaar) container(t *rapid.T) {
	name := fmt.Sprintf("c%d", rapid.IntRange(0, 5).Draw(t, "container"))
	line := "networks: [{name: a, aliases: [all]}, b]"
	if rapid.Bool().Draw(t, "pinned") {
		line = "node: " + rapid.SampledFrom(b.facts.Nodes).Draw(t, "node").Name + ", " + line
	}
	b.containers[name] = line
}

func (b *bazaar) gateway(t *rapid.T) {
	name := fmt.Sprintf("g%d", rapid.IntRange(0, 3).Draw(t, "gateway"))
	line := ""
	if rapid.IntRange(0, 3).Draw(t, "pinned") == 0 {
		line = ", node: " + rapid.SampledFrom(b.facts.Nodes).Draw(t, "node").Name
	}
	line += rapid.SampledFrom([]string{"", "", ", address: own", ", address: own", ", address: 198.51.0.13", ", address: 198.51.0.11"}).Draw(t, "address")
	b.gateways[name] = line
	b.publish[name] = nil
	b.more(t, name)
}

func (b *bazaar) more(t *rapid.T, name string) {
	for range rapid.IntRange(1, 4).Draw(t, "entries") {
		to := rapid.SampledFrom([]string{"to: all:80", "to: all:5432", "to: c.a:80", "to: c.b:443", "join: a", "join: b"}).Draw(t, "to")
		to = strings.Replace(to, "c.", slices.Sorted(keysOf(b.containers))[0]+".", 1)
		entry := ""
		switch {
		case strings.HasPrefix(to, "join"):
			entry = "port: " + rapid.SampledFrom([]string{"udp", "30001/udp"}).Draw(t, "port")
			if rapid.Bool().Draw(t, "named") {
				to += ", entry: " + rapid.SampledFrom(b.facts.Nodes).Draw(t, "entry").Name
			}
		case rapid.Bool().Draw(t, "host"):
			entry = "host: " + rapid.SampledFrom([]string{"x", "y", "www.z.example", "z.grid.example"}).Draw(t, "host")
		default:
			entry = "port: " + rapid.SampledFrom([]string{"tcp", "tcp", "udp", "30001/tcp", "30002/tcp", "443/tcp"}).Draw(t, "port")
		}
		clash := func(other string) bool {
			what, _, _ := strings.Cut(other, ",")
			return other == entry+", "+to || what == entry && entry != "port: tcp" && entry != "port: udp"
		}
		if !slices.ContainsFunc(b.publish[name], clash) {
			b.publish[name] = append(b.publish[name], entry+", "+to)
		}
	}
}

func keysOf[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (b *bazaar) text(backwards bool) string {
	lines := []string{}
	for _, n := range slices.Sorted(keysOf(b.containers)) {
		lines = append(lines, fmt.Sprintf("  - {name: %s, kind: container, image: red/web:1, %s}\n", n, b.containers[n]))
	}
	for _, n := range slices.Sorted(keysOf(b.gateways)) {
		entries := slices.Clone(b.publish[n])
		if backwards {
			slices.Reverse(entries)
		}
		lines = append(lines, fmt.Sprintf("  - {name: %s, kind: gateway%s, publish: [{%s}]}\n", n, b.gateways[n], strings.Join(entries, "}, {")))
	}
	if backwards {
		slices.Reverse(lines)
	}
	return "apiVersion: zos/v1\nname: shop\ngroup: demo\nnetworks: [{name: a}, {name: b}]\nworkloads:\n" + strings.Join(lines, "")
}

// resolve plans in both orders of the file: both give the same plan, or neither
// gives one and says where the mistake is.
func (b *bazaar) resolve(t *rapid.T, standing *plan.Plan) (plan.Plan, bool) {
	b.facts.Standing = standing
	var plans [][]byte
	var out plan.Plan
	for _, backwards := range []bool{false, true} {
		text := b.text(backwards)
		d, err := Parse("shop.yaml", []byte(text))
		if err == nil {
			out, err = Resolve(t.Context(), d, b.facts)
		}
		var mistakes *Error
		if err != nil && (!errors.As(err, &mistakes) || strings.Contains(err.Error(), "split the deployment")) {
			t.Fatalf("%v\nin\n%s", err, text)
		}
		var encoded []byte
		if err == nil {
			if encoded, err = plan.Encode(out); err != nil {
				t.Fatalf("the ledger would refuse it: %v\nin\n%s", err, text)
			}
		}
		plans = append(plans, encoded)
	}
	if !bytes.Equal(plans[0], plans[1]) {
		t.Fatalf("the order in the file changes the plan of\n%s", b.text(false))
	}
	return out, plans[0] != nil
}

// offered checks that the plan takes of pools what they have, and nothing of what
// others hold.
func (b *bazaar) offered(t *rapid.T, p plan.Plan) {
	leased := map[string]string{}
	for _, w := range p.Workloads {
		if w.Kind != plan.KindGateway {
			continue
		}
		g, err := plan.DecodeGateway(w.Config)
		if err != nil {
			t.Fatal(err)
		}
		n := b.facts.Nodes[slices.IndexFunc(b.facts.Nodes, func(n Node) bool { return n.Slot == w.Slot })]
		for _, a := range g.Addresses {
			if _, held := n.Leased[a]; held || !inPool(*n.Pool, a) || g.Leased == slices.Contains(n.Pool.Shared, a) {
				t.Fatalf("%s is at %s of %+v, leased %v", w.Name, a, n.Pool, g.Leased)
			}
			if other := leased[a]; g.Leased && other != "" {
				t.Fatalf("%s and %s lease %s", w.Name, other, a)
			} else if g.Leased {
				leased[a] = w.Name
			}
		}
		for _, r := range g.Routes {
			if _, held := n.Ports[PublicPort{r.Mode, r.Port}]; !g.Leased && r.Host == "" && (held || r.Port < n.Pool.First || r.Port > n.Pool.Last) {
				t.Fatalf("%s publishes %s of %+v", w.Name, r, n.Pool)
			}
		}
	}
}

// lead adds a device to a plan, as joining does.
func lead(t *rapid.T, p plan.Plan, i int) plan.Plan {
	for _, w := range p.Workloads {
		g, err := plan.DecodeGateway(w.Config)
		if err != nil || w.Kind != plan.KindGateway {
			continue
		}
		for _, r := range g.Routes {
			if r.Entry.IsZero() {
				continue
			}
			n := p.Networks[slices.IndexFunc(p.Networks, func(n plan.Network) bool { return n.Name == r.Network })]
			node := n.Nodes[slices.IndexFunc(n.Nodes, func(n plan.NetworkNode) bool { return n.Slot == r.Entry })]
			a := netip.MustParsePrefix(node.IPv4).Addr().As4()
			a[3] = byte(100 + i)
			config, err := plan.Device{V: plan.Version, Key: bytes.Repeat([]byte{byte(i + 1)}, 32), Account: canon.Hash{1}, Network: plan.Attachment{
				Network: n.Name, IPv4: netip.AddrFrom4(a).String(), IPv6: ulaAddr(netip.MustParsePrefix(node.IPv6), a[3]).String(), Egress: plan.EgressNone}}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			p.Workloads = append(slices.Clone(p.Workloads), plan.Workload{Name: fmt.Sprintf("laptop-%d", i), Kind: plan.KindDevice, Slot: r.Entry, Resources: plan.DeviceResources(), Config: config})
			slices.SortFunc(p.Workloads, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	return p
}

func ulaAddr(node netip.Prefix, last byte) netip.Addr {
	a := node.Addr().As16()
	a[15] = last
	return netip.AddrFrom16(a)
}

// TestWhatIsPublishedIsOfferedDeterministicAndStable plans random gateways on
// random pools, changes them and plans again: every plan is valid and takes only
// what is offered and free, however the file is ordered; what stays keeps its
// node, address and ports, and devices keep theirs.
func TestWhatIsPublishedIsOfferedDeterministicAndStable(t *testing.T) {
	planned := 0
	rapid.Check(t, func(t *rapid.T) {
		b := drawBazaar(t)
		p, ok := b.resolve(t, nil)
		for i := range rapid.IntRange(1, 3).Draw(t, "updates") {
			if !ok {
				return
			}
			planned++
			b.offered(t, p)
			p = lead(t, p, i)
			encoded, err := plan.Encode(p)
			if err != nil {
				t.Fatal(err)
			}
			if same, ok := b.resolve(t, &p); !ok {
				t.Fatalf("what stands can't be planned again:\n%s", b.text(false))
			} else if again, _ := plan.Encode(same); !bytes.Equal(encoded, again) {
				t.Fatalf("an update that changes nothing changes the plan of\n%s", b.text(false))
			}
			before := b.stands(t, p)
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				switch g := rapid.SampledFrom(slices.Sorted(keysOf(b.gateways))).Draw(t, "changed"); rapid.IntRange(0, 3).Draw(t, "change") {
				case 0:
					b.container(t)
				case 1:
					b.gateway(t)
				case 2:
					b.more(t, g)
				case 3:
					if i := rapid.IntRange(0, len(b.publish[g])-1).Draw(t, "dropped"); len(b.publish[g]) > 1 {
						b.publish[g] = slices.Delete(slices.Clone(b.publish[g]), i, i+1)
					}
				}
			}
			next, again := b.resolve(t, &p)
			if !again {
				return
			}
			after := b.stands(t, next)
			for key, was := range before {
				// A port that its own gateway writes now is where it says.
				if now, stays := after[key]; stays && now != was && !strings.Contains(b.text(false), "port: "+was) {
					t.Fatalf("%s was %s, is %s in\n%s", key, was, now, b.text(false))
				}
			}
			p = next
		}
	})
	t.Logf("%d plans", planned)
	if planned == 0 {
		t.Error("no deployment could be planned")
	}
}

// stands is what must not change while the spec says the same of it: devices'
// entries and addresses, and of each gateway its node and addresses, and under
// those the ports that the planner picked, by the entry as the spec has it.
func (b *bazaar) stands(t *rapid.T, p plan.Plan) map[string]string {
	out := map[string]string{}
	literal := func(r plan.Route) bool {
		return strings.Contains(b.text(false), "port: "+r.String())
	}
	for _, w := range p.Workloads {
		if d, err := plan.DecodeDevice(w.Config); err == nil && w.Kind == plan.KindDevice {
			out["device "+w.Name] = w.Slot.String() + d.Network.IPv4 + d.Network.IPv6
		}
		g, err := plan.DecodeGateway(w.Config)
		if err != nil || w.Kind != plan.KindGateway {
			continue
		}
		at := fmt.Sprintf("%s%s %s", w.Name, b.gateways[w.Name], w.Slot)
		out[at] = fmt.Sprint(g.Addresses)
		for _, n := range g.Networks {
			out[at+" in "+n.Network] = n.IPv4
		}
		count := map[string]int{}
		key := func(r plan.Route) string {
			return fmt.Sprintf("%s %v %s %s %v %d %s", at, g.Addresses, r.Mode, r.Network, r.Backends, r.Target, r.Entry)
		}
		for _, r := range g.Routes {
			count[key(r)]++
		}
		for _, r := range g.Routes {
			if r.Host == "" && !literal(r) && count[key(r)] == 1 {
				out[key(r)] = r.String()
			}
		}
	}
	return out
}
