package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// site is a plan with one network of some nodes, slot N's part being the N-th.
type site struct {
	plan.Plan
	next map[byte]byte
}

func newSite(nodes ...byte) *site {
	s := &site{Plan: plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Name: "shop", Group: canon.Hash{9}}, next: map[byte]byte{}}
	n := plan.Network{Name: "front", IPv4: "10.20.0.0/16", IPv6: "fd00:20::/48"}
	for _, i := range nodes {
		n.Nodes = append(n.Nodes, plan.NetworkNode{Slot: canon.Hash{i}, IPv4: fmt.Sprintf("10.20.%d.0/24", i), IPv6: fmt.Sprintf("fd00:20:0:%x::/64", i)})
		config, _ := plan.NetworkConfig{V: plan.Version, Network: "front"}.Encode()
		s.Workloads = append(s.Workloads, plan.Workload{Name: plan.RouterName("front", canon.Hash{i}), Kind: plan.KindNetwork, Slot: canon.Hash{i}, Resources: plan.RouterResources(), Config: config})
	}
	s.Networks = []plan.Network{n}
	return s
}

func (s *site) at(node byte) plan.Attachment {
	s.next[node]++
	host := s.next[node] + 1
	return plan.Attachment{Network: "front", IPv4: fmt.Sprintf("10.20.%d.%d", node, host), IPv6: fmt.Sprintf("fd00:20:0:%x::%x", node, host),
		Aliases: []string{}, Allow: []plan.Rule{}, Egress: plan.EgressNone}
}

func (s *site) add(name, kind string, node byte, r plan.Resources, config []byte, err error) {
	if err != nil {
		panic(err)
	}
	s.Workloads = append(s.Workloads, plan.Workload{Name: name, Kind: kind, Slot: canon.Hash{node}, Resources: r, Config: config})
	slices.SortFunc(s.Workloads, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
}

func (s *site) container(name string, node byte) {
	b, err := plan.Container{V: plan.Version, Flist: canon.Hash{1}, Args: []string{"x"}, Env: []string{}, WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), Networks: []plan.Attachment{s.at(node)}}.Encode()
	s.add(name, plan.KindContainer, node, plan.Resources{CPU: 1, Memory: 1 << 20, PIDs: 1}, b, err)
}

func (s *site) device(name string, node byte) {
	b, err := plan.Device{V: plan.Version, Key: slices.Repeat([]byte{node, byte(len(s.Workloads))}, 16), Account: canon.Hash{7}, Network: s.at(node)}.Encode()
	s.add(name, plan.KindDevice, node, plan.DeviceResources(), b, err)
}

// gateway publishes workloads, each on a port, and leads to entries.
func (s *site) gateway(name string, node byte, backends []string, entries ...byte) {
	g := plan.Gateway{V: plan.Version, Addresses: []string{fmt.Sprintf("198.51.100.%d", len(s.Workloads))}, Networks: []plan.Attachment{s.at(node)}, Routes: []plan.Route{}}
	for i, b := range backends {
		g.Routes = append(g.Routes, plan.Route{Mode: plan.ModeTCP, Port: uint16(1000 + i), Network: "front", Backends: []string{b}, Target: 80, Check: plan.CheckNone})
	}
	for i, e := range entries {
		g.Routes = append(g.Routes, plan.Route{Mode: plan.ModeUDP, Port: uint16(2000 + i), Network: "front", Backends: []string{}, Entry: canon.Hash{e}, Target: plan.EntryPort, Check: plan.CheckNone})
	}
	plan.SortRoutes(g.Routes)
	b, err := g.Encode()
	s.add(name, plan.KindGateway, node, plan.GatewayResources(), b, err)
}

// knows lists whom a node knows, besides itself.
func (s *site) knows(t interface{ Fatal(...any) }, self byte) (out string) {
	topology, err := TopologyOf(canon.Hash{1}, &s.Plan, "front", canon.Hash{self})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range topology.Nodes {
		if n.Slot != topology.Self {
			out += string('0' + n.Slot[0])
		}
	}
	return out
}

// TestWhoKnowsWhom is the truth table of Edges.Meet: 1 has a gateway, 2 its backend,
// 3 another workload, 4 whatever the case says.
func TestWhoKnowsWhom(t *testing.T) {
	for name, c := range map[string]struct {
		change        func(s *site)
		of1, of2, of3 string
		of4           string
	}{
		"4 is empty":                           {func(*site) {}, "2", "134", "24", "23"},
		"4 is an entry of the gateway":         {func(s *site) { s.gateway("x", 1, nil, 4) }, "24", "134", "24", "123"},
		"1 carries a workload too":             {func(s *site) { s.container("near", 1) }, "234", "134", "124", "123"},
		"a device enters at 1":                 {func(s *site) { s.device("laptop", 1) }, "234", "134", "124", "123"},
		"1 is the exit":                        {func(s *site) { s.Networks[0].Exit = canon.Hash{1} }, "234", "134", "124", "123"},
		"2 is the exit":                        {func(s *site) { s.Networks[0].Exit = canon.Hash{2} }, "2", "134", "24", "23"},
		"4 is a gateway's, of 3":               {func(s *site) { s.gateway("x", 4, []string{"other"}) }, "2", "13", "24", "3"},
		"4 is a gateway's, with 1 as entry":    {func(s *site) { s.gateway("x", 4, nil, 1) }, "2", "13", "2", ""},
		"4 is that, and a device enters at 1":  {func(s *site) { s.gateway("x", 4, nil, 1); s.device("laptop", 1) }, "234", "13", "12", "1"},
		"the gateway is its own node's entry":  {func(s *site) { s.gateway("x", 1, nil, 1) }, "2", "134", "24", "23"},
		"two gateways of one node":             {func(s *site) { s.gateway("x", 1, []string{"other"}) }, "23", "134", "124", "23"},
		"4 is a gateway's, of the same":        {func(s *site) { s.gateway("x", 4, []string{"web"}) }, "2", "134", "2", "2"},
		"4 is a gateway's and has a workload":  {func(s *site) { s.gateway("x", 4, []string{"web"}); s.container("y", 4) }, "2", "134", "24", "23"},
		"4 is a gateway's, which is published": {func(s *site) { s.container("y", 4); s.gateway("x", 1, []string{"y"}) }, "24", "134", "24", "123"},
	} {
		s := newSite(1, 2, 3, 4)
		s.container("web", 2)
		s.container("other", 3)
		s.gateway("www", 1, []string{"web"})
		c.change(s)
		if err := s.Validate(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for node, want := range map[byte]string{1: c.of1, 2: c.of2, 3: c.of3, 4: c.of4} {
			if got := s.knows(t, node); got != want {
				t.Errorf("%s: %d knows %q, want %q", name, node, got, want)
			}
		}
	}
}

// TestKnowingIsSymmetricAndLeast: whoever knows a node is known by it; who carries
// more than gateways knows everyone but gateways' nodes that need not know it; and a
// node with nothing but gateways knows exactly where its routes lead.
func TestKnowingIsSymmetricAndLeast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := []byte{1, 2, 3, 4, 5}
		s := newSite(nodes...)
		at := rapid.SampledFrom(nodes)
		carries, names, where := map[byte]bool{}, []string{}, map[string]byte{}
		for i := range rapid.IntRange(1, 4).Draw(t, "containers") {
			name, node := fmt.Sprintf("c%d", i), at.Draw(t, "node")
			s.container(name, node)
			names, where[name], carries[node] = append(names, name), node, true
		}
		for i := range rapid.IntRange(0, 2).Draw(t, "devices") {
			node := at.Draw(t, "node")
			s.device(fmt.Sprintf("d%d", i), node)
			carries[node] = true
		}
		leads, gateways := map[[2]byte]bool{}, map[byte]bool{}
		for i := range rapid.IntRange(0, 4).Draw(t, "gateways") {
			node := at.Draw(t, "node")
			backends := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, len(names), rapid.ID[string]).Draw(t, "backends")
			entries := rapid.SliceOfNDistinct(at, 0, 2, rapid.ID[byte]).Draw(t, "entries")
			s.gateway(fmt.Sprintf("g%d", i), node, backends, entries...)
			gateways[node] = true
			for _, b := range backends {
				leads[[2]byte{node, where[b]}] = true
			}
			for _, e := range entries {
				leads[[2]byte{node, e}] = true
			}
		}
		if exit := rapid.IntRange(0, 5).Draw(t, "exit"); exit > 0 {
			s.Networks[0].Exit = canon.Hash{byte(exit)}
			carries[byte(exit)] = true
		}
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		edge := func(n byte) bool { return gateways[n] && !carries[n] }
		for _, a := range nodes {
			got := s.knows(t, a)
			for _, b := range nodes {
				if a == b {
					continue
				}
				want := (!edge(a) || leads[[2]byte{a, b}]) && (!edge(b) || leads[[2]byte{b, a}])
				if strings.Contains(got, string('0'+b)) != want {
					t.Fatalf("%d knows %d: %t, want %t", a, b, !want, want)
				}
				if strings.Contains(s.knows(t, b), string('0'+a)) != want {
					t.Fatalf("%d and %d: not symmetric", a, b)
				}
			}
		}
	})
}

func TestAGatesTargetsAreWhatItsRoutesName(t *testing.T) {
	s := newSite(1, 2, 3)
	s.container("web", 2)
	s.container("unpublished", 2)
	s.gateway("www", 1, []string{"web", "web"}, 3)
	gates, err := GatesOf(&s.Plan, "front")
	if err != nil || len(gates) != 1 {
		t.Fatalf("%v, %v", gates, err)
	}
	want := []Target{
		{Workload: "web", Slot: canon.Hash{2}, IPv4: netip.MustParseAddr("10.20.2.2"), IPv6: netip.MustParseAddr("fd00:20:0:2::2"), Protocol: "tcp", Port: 80},
		{Slot: canon.Hash{3}, IPv4: netip.MustParseAddr("10.20.3.1"), IPv6: netip.MustParseAddr("fd00:20:0:3::1"), Protocol: "udp", Port: plan.EntryPort},
	}
	if !slices.Equal(gates[0].Targets, want) {
		t.Errorf("got %v\nwant %v", gates[0].Targets, want)
	}
	torn := newSite(1)
	torn.gateway("www", 1, []string{"web"})
	if _, err := GatesOf(&torn.Plan, "front"); problem.Code(err) != "plan-invalid" {
		t.Errorf("a backend that is not there: %v", err)
	}
	torn = newSite(1)
	torn.gateway("www", 1, nil, 5)
	if _, err := TopologyOf(canon.Hash{1}, &torn.Plan, "front", canon.Hash{1}); problem.Code(err) != "plan-invalid" {
		t.Errorf("an entry that is not there: %v", err)
	}
}
