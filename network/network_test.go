package network

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

func shop() *plan.Plan {
	return &plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Name: "shop", Networks: []plan.Network{
		{Name: "back", IPv4: "10.20.0.0/16", IPv6: "fd00:20::/48", Exit: canon.Hash{2}, Nodes: []plan.NetworkNode{
			{Slot: canon.Hash{1}, IPv4: "10.20.0.0/24", IPv6: "fd00:20::/64"}, {Slot: canon.Hash{2}, IPv4: "10.20.1.0/24", IPv6: "fd00:20:0:1::/64"}}},
		{Name: "front", IPv4: "10.0.0.0/16", IPv6: "fd00:7::/48", Nodes: []plan.NetworkNode{{Slot: canon.Hash{2}, IPv4: "10.0.0.0/24", IPv6: "fd00:7::/64"}}},
	}}
}

func TestTopologyIsWhatThePlanSays(t *testing.T) {
	contract := canon.Sum([]byte("contract"))
	got, err := TopologyOf(contract, shop(), "back", canon.Hash{2})
	if err != nil {
		t.Fatal(err)
	}
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	want := Topology{ID: ID(contract, "back"), Name: "back", Self: canon.Hash{2}, Exit: canon.Hash{2}, Ranges: prefixes("10.20.0.0/16", "fd00:20::/48"), Nodes: []Node{
		{Slot: canon.Hash{1}, Prefixes: prefixes("10.20.0.0/24", "fd00:20::/64")}, {Slot: canon.Hash{2}, Prefixes: prefixes("10.20.1.0/24", "fd00:20:0:1::/64")}}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func TestTopologyOfWhatIsNotInThePlanIsRefused(t *testing.T) {
	torn := shop()
	torn.Networks[0].Nodes[0].IPv4 = "10.20.0.0"
	for name, c := range map[string]struct {
		plan *plan.Plan
		name string
		self canon.Hash
		code string
	}{
		"unknown network": {shop(), "bakc", canon.Hash{1}, "network-unknown"},
		"another slot":    {shop(), "front", canon.Hash{1}, "network-unknown"},
		"no plan":         {nil, "back", canon.Hash{1}, "network-unknown"},
		"empty plan":      {&plan.Plan{}, "back", canon.Hash{1}, "network-unknown"},
		"no range":        {torn, "back", canon.Hash{1}, "plan-invalid"},
	} {
		if _, err := TopologyOf(canon.Hash{9}, c.plan, c.name, c.self); problem.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNetworksOfOneNameAreApart: the id depends on the contract and the name,
// and never changes.
func TestNetworksOfOneNameAreApart(t *testing.T) {
	seen := map[canon.Hash]bool{}
	for _, contract := range []canon.Hash{{}, {1}, canon.Sum(nil)} {
		for _, name := range []string{"", "a", "ab", "back"} {
			id := ID(contract, name)
			if seen[id] || id != ID(contract, name) {
				t.Errorf("%s is the id of two", id)
			}
			seen[id] = true
		}
	}
	if got := ID(canon.Hash{}, "back").String(); got != "b718e3e596a67af62cf6bcfadfed134a5cdd37f7d19ef80f0fb89a9c5898c626" {
		t.Errorf("the id of what runs has changed to %s", got)
	}
}
