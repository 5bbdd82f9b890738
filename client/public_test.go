package client

import (
	"fmt"
	"maps"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/spec"
	"github.com/zero-os/zos/spec/plan"
)

// TestANameCountsForItsGroupUntilItEnds and for others until its grace has passed.
func TestANameCountsForItsGroupUntilItEnds(t *testing.T) {
	mine, other := canon.Hash{1}, canon.Hash{2}
	for _, c := range []struct {
		what           string
		group          canon.Hash
		now            uint64
		mine, reserved bool
	}{
		{"held", mine, 1000, true, true},
		{"ended", mine, 1001, true, false},
		{"another's", other, 1000, false, true},
		{"another's, ended", other, 1001, false, true},
		{"another's, lapsed", other, 1001 + contract.NameGrace, false, false},
	} {
		m, r := standsName(contract.HostNameRecord{Group: c.group, Until: 1000}, mine, c.now)
		if m != c.mine || r != c.reserved {
			t.Errorf("%s: mine %v, reserved %v", c.what, m, r)
		}
	}
}

// TestWhatOthersHoldOfAPoolIsKnown: addresses that others lease, or still share
// although the pool shares them no more, and ports; not what is this contract's
// own, or another pool's.
func TestWhatOthersHoldOfAPoolIsKnown(t *testing.T) {
	own, other := canon.Hash{1}, canon.Hash{2}
	pool := contract.Pool{Ranges: []contract.Range{{Prefix: "198.51.100.0/24", Router: "198.51.100.1", First: "198.51.100.10", Last: "198.51.100.20"}},
		Shared: []string{"198.51.100.10"}, First: 30000, Last: 30009}
	g := plan.Gateway{V: plan.Version, Addresses: []string{"198.51.100.15"}, Networks: []plan.Attachment{{Network: "front", IPv4: "10.0.0.2", IPv6: "fd00::2", Egress: plan.EgressNone}},
		Routes: []plan.Route{{Mode: plan.ModeTCP, Port: 30001, Network: "front", Backends: []string{"web"}, Target: 80, Check: plan.CheckTCP}}}
	config, err := g.Encode()
	if err != nil {
		t.Fatal(err)
	}
	standing := &plan.Plan{Workloads: []plan.Workload{{Name: "www", Kind: plan.KindGateway, Config: config}}}
	var leases []Record[contract.LeaseRecord]
	add := func(address string, by canon.Hash, sharers uint64) {
		leases = append(leases, Record[contract.LeaseRecord]{Name: address, Value: contract.LeaseRecord{Contract: by, Sharers: sharers}})
	}
	add("198.51.100.10", canon.Hash{}, 7) // shared by all
	add("198.51.100.11", other, 0)
	add("198.51.100.12", own, 0)
	add("198.51.100.13", canon.Hash{}, 1) // was shared, another still uses it
	add("198.51.100.15", canon.Hash{}, 1) // was shared, this contract alone uses it
	add("203.0.113.1", other, 0)
	got := leasedOf(pool, leases, own, standing)
	if want := map[string]canon.Hash{"198.51.100.11": other, "198.51.100.13": {}}; !maps.Equal(got, want) {
		t.Errorf("leased %v, want %v", got, want)
	}
	if got := leasedOf(pool, leases, own, nil); len(got) != 3 {
		t.Errorf("without a standing version: %v", got)
	}
	ports := map[spec.PublicPort]canon.Hash{}
	addPorts(ports, plan.ModeUDP, []Record[contract.HolderRecord]{{"30001", contract.HolderRecord{Contract: other}}, {"30002", contract.HolderRecord{Contract: own}}}, own)
	if fmt.Sprint(ports) != fmt.Sprint(map[spec.PublicPort]canon.Hash{{Mode: "udp", Port: 30001}: other}) {
		t.Errorf("ports %v", ports)
	}
}
