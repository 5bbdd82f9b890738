package contract

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

const domain = "grid.example"

// A pool of the tests: .10 and .11 are shared, .12 to .19 are leased.
func somePool(w *world, slot int, sequence uint64) Pool {
	third := fmt.Sprint(100 + slot)
	return NewPool(w.grid, Pool{Farm: w.farm, Slot: w.slots[slot], MAC: "52:54:00:aa:00:01", Sequence: sequence,
		Ranges: []Range{{Prefix: "198.51." + third + ".0/24", Router: "198.51." + third + ".1", First: "198.51." + third + ".10", Last: "198.51." + third + ".19"}},
		Shared: []string{"198.51." + third + ".10", "198.51." + third + ".11"}, First: 20000, Last: 20100})
}

// publicWorld is a world whose two slots have pools, whose grid has a domain, and
// that has a second group, "rivals", of eve alone, which the farm admits too.
func publicWorld(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	for slot := range w.slots {
		w.ok(w.sign(somePool(w, slot, 1), KindPool, "farm"))
	}
	w.ok(w.sign(NewZone(w.grid, domain, 1), KindZone, "release-1", "release-2"))
	w.addGroup("rivals", "eve", 1, w.members("eve")...)
	w.ok(w.sign(NewConsent(w.grid, w.farm, w.signed["rivals"].ID(), big, 1, start+365*86400), KindConsent, "farm"))
	return w
}

// as is w with another group as the one that plans.
func (w *world) as(group string) *world {
	other := *w
	other.group = w.signed[group].ID()
	return &other
}

func hostRoute(host string) plan.Route {
	return plan.Route{Host: host, Mode: plan.ModePassthrough, Port: 443, Network: "front", Backends: []string{"web"}, Target: 8443, Check: plan.CheckTCP}
}

func portRoute(mode string, port uint16) plan.Route {
	return plan.Route{Mode: mode, Port: port, Network: "front", Backends: []string{"web"}, Target: 5432, Check: plan.CheckNone}
}

// gate is a gateway of a plan; its place in the network is filled in.
type gate struct {
	slot      int
	leased    bool
	addresses []string
	routes    []plan.Route
}

// onShared publishes on the first shared address of a slot.
func onShared(slot int, routes ...plan.Route) gate {
	return gate{slot: slot, addresses: []string{fmt.Sprintf("198.51.%d.10", 100+slot)}, routes: routes}
}

// onLeased publishes on an address of its own.
func onLeased(slot int, last int, routes ...plan.Route) gate {
	return gate{slot: slot, leased: true, addresses: []string{fmt.Sprintf("198.51.%d.%d", 100+slot, last)}, routes: routes}
}

// gatewayPlan is a plan of a container web and gateways gw-0, gw-1 … that publish
// it.
func (w *world) gatewayPlan(name string, gates ...gate) (plan.Plan, []byte) {
	w.t.Helper()
	web := w.job("web", w.slots[0])
	web.Resources = plan.Resources{CPU: 1, Memory: 1 << 20, PIDs: 1}
	c, err := plan.DecodeContainer(web.Config)
	if err != nil {
		w.t.Fatal(err)
	}
	net := plan.Network{Name: "front", IPv4: "10.1.0.0/16", IPv6: "fd00:1::/48"}
	jobs := []plan.Workload{}
	for i, slot := range w.slots {
		net.Nodes = append(net.Nodes, plan.NetworkNode{Slot: slot, IPv4: fmt.Sprintf("10.1.%d.0/24", i), IPv6: fmt.Sprintf("fd00:1:0:%d::/64", i+1)})
		config, err := plan.NetworkConfig{V: plan.Version, Network: "front"}.Encode()
		if err != nil {
			w.t.Fatal(err)
		}
		r := plan.Resources{CPU: 1, Memory: 1 << 20, PIDs: 1}
		jobs = append(jobs, plan.Workload{Name: plan.RouterName("front", slot), Kind: plan.KindNetwork, Slot: slot, Resources: r, Config: config})
	}
	at := func(slot, host int) plan.Attachment {
		return plan.Attachment{Network: "front", IPv4: fmt.Sprintf("10.1.%d.%d", slot, host), IPv6: fmt.Sprintf("fd00:1:0:%d::%d", slot+1, host), Egress: plan.EgressNone}
	}
	a := at(0, 2)
	a.Open = true
	c.Networks = []plan.Attachment{a}
	if web.Config, err = c.Encode(); err != nil {
		w.t.Fatal(err)
	}
	jobs = append(jobs, web)
	for i, one := range gates {
		routes := slices.Clone(one.routes)
		plan.SortRoutes(routes)
		config, err := plan.Gateway{V: plan.Version, Addresses: one.addresses, Leased: one.leased, Networks: []plan.Attachment{at(one.slot, 3+i)}, Routes: routes}.Encode()
		if err != nil {
			w.t.Fatal(err)
		}
		jobs = append(jobs, plan.Workload{Name: fmt.Sprint("gw-", i), Kind: plan.KindGateway, Slot: w.slots[one.slot], Resources: plan.Resources{CPU: 1, Memory: 1 << 20, PIDs: 1}, Config: config})
	}
	slices.SortFunc(net.Nodes, func(a, b plan.NetworkNode) int { return slices.Compare(a.Slot[:], b.Slot[:]) })
	slices.SortFunc(jobs, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
	p := plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: w.group, Name: name, Networks: []plan.Network{net}, Workloads: jobs}
	b, err := plan.Encode(p)
	if err != nil {
		w.t.Fatal(err)
	}
	return p, b
}

func (w *world) publish(name string, gates ...gate) Approval {
	w.t.Helper()
	p, b := w.gatewayPlan(name, gates...)
	return NewDeploy(w.grid, p, b, 1, nonce(name), w.now+86400)
}

func (w *world) republish(contract canon.Hash, current uint64, name string, gates ...gate) Approval {
	w.t.Helper()
	p, b := w.gatewayPlan(name, gates...)
	return NewUpdate(w.grid, contract, current, p, b, 1, nonce(name), w.now+86400)
}

// says applies what must fail with code, in words that hold part.
func (w *world) says(s Signed, code, part string) {
	w.t.Helper()
	_, err := Apply(w.copy(), w.now, w.tx(s))
	if problem.Code(err) != code || !strings.Contains(err.Error(), part) {
		w.t.Errorf("%v (code %q), want code %q and %q", err, problem.Code(err), code, part)
	}
	w.refused(s, code)
}

func (w *world) copy() memory {
	m := memory{}
	for k, v := range w.st {
		m[k] = v
	}
	return m
}

func TestALeasedAddressIsOneContractsAlone(t *testing.T) {
	w := publicWorld(t)
	eve := w.as("rivals")
	mine := w.ok(w.approve(w.publish("shop", onLeased(0, 12, portRoute(plan.ModeTCP, 25))), "red", "green")).Contract
	if rec := record[LeaseRecord](w, KeyLease("198.51.100.12")); rec != (LeaseRecord{Contract: mine}) {
		t.Errorf("lease: %+v", rec)
	}
	w.says(eve.approve(eve.publish("theirs", onLeased(0, 12, portRoute(plan.ModeTCP, 26))), "eve"), "address-taken", "198.51.100.12 is leased by demo/shop")
	w.says(w.approve(w.publish("second", onLeased(0, 12, portRoute(plan.ModeTCP, 26))), "red"), "address-taken", "demo/shop")
	w.ok(eve.approve(eve.publish("theirs", onLeased(0, 13, portRoute(plan.ModeTCP, 25))), "eve"))

	// It is held from the last approval to the end, and moves within one update.
	w.ok(w.approve(w.republish(mine, 1, "shop", onLeased(0, 14, portRoute(plan.ModeTCP, 25)), onLeased(1, 12, portRoute(plan.ModeTCP, 25))), "red", "green"))
	w.absent(KeyLease("198.51.100.12"))
	w.says(eve.approve(eve.publish("more", onLeased(1, 12, portRoute(plan.ModeTCP, 25))), "eve"), "address-taken", "demo/shop")
	a := w.cancel(mine, 2, "shop")
	w.ok(w.approve(a, "red", "green"))
	w.ok(eve.approve(eve.publish("more", onLeased(1, 12, portRoute(plan.ModeTCP, 25))), "eve"))
	w.absent(KeyLease("198.51.100.14"))
}

func TestTwoProposalsForOneAddressTheFirstApprovedWins(t *testing.T) {
	w := publicWorld(t)
	a, b := w.publish("a", onLeased(0, 12, portRoute(plan.ModeTCP, 25))), w.publish("b", onLeased(0, 12, portRoute(plan.ModeTCP, 25)))
	w.ok(w.approve(a, "red"))
	w.ok(w.approve(b, "green"))
	w.absent(KeyLease("198.51.100.12"))
	w.ok(w.approve(b, "blue"))
	w.says(w.approve(a, "green"), "address-taken", "demo/b")
}

func TestSharedAddressesAreSharedByPortAndHost(t *testing.T) {
	w := publicWorld(t)
	eve := w.as("rivals")
	mine := w.ok(w.approve(w.publish("shop", onShared(0, hostRoute("www.shop.test"), portRoute(plan.ModeTCP, 20000))), "red", "green")).Contract
	w.says(eve.approve(eve.publish("theirs", onShared(0, portRoute(plan.ModeTCP, 20000))), "eve"), "port-taken", "port 20000/tcp of 198.51.100.10 is published by demo/shop")
	// Another protocol, address or port is free; an own domain can be claimed by many: DNS tells whose it is.
	theirs := eve.ok(eve.approve(eve.publish("theirs", onShared(0, portRoute(plan.ModeUDP, 20000), portRoute(plan.ModeTCP, 20001), hostRoute("www.shop.test"))), "eve")).Contract
	if rec := record[LeaseRecord](w, KeyLease("198.51.100.10")); rec != (LeaseRecord{Sharers: 2}) {
		t.Errorf("lease: %+v", rec)
	}
	w.says(w.approve(w.publish("twice", onShared(1, hostRoute("www.shop.test"))), "red"), "host-taken", "host www.shop.test is published by demo/shop")
	// Several gateways of one contract publish one host.
	w.ok(w.approve(w.republish(mine, 1, "shop", onShared(0, hostRoute("www.shop.test")), onShared(1, hostRoute("www.shop.test"))), "red", "green"))
	w.absent(KeyPort("198.51.100.10", "tcp", 20000))
	w.ok(eve.approve(eve.republish(theirs, 1, "theirs", onShared(0, portRoute(plan.ModeTCP, 20000))), "eve"))
	w.absent(KeyHost("www.shop.test", eve.group))
	w.absent(KeyPort("198.51.100.10", "udp", 20000))
}

func TestAGatewayHasOnlyWhatItsPoolOffers(t *testing.T) {
	w := publicWorld(t)
	web := hostRoute("www.shop.test")
	for name, c := range map[string]struct {
		gate gate
		code string
	}{
		"shared by host":             {onShared(0, web), ""},
		"shared, first port":         {onShared(0, portRoute(plan.ModeTCP, 20000)), ""},
		"shared, last port":          {onShared(0, portRoute(plan.ModeUDP, 20100)), ""},
		"shared, both addresses":     {gate{0, false, []string{"198.51.100.10", "198.51.100.11"}, []plan.Route{web}}, ""},
		"leased, any port":           {onLeased(0, 19, portRoute(plan.ModeTCP, 1)), ""},
		"leased, by host":            {onLeased(0, 19, web), ""},
		"shared, port below":         {onShared(0, portRoute(plan.ModeTCP, 19999)), "port-not-offered"},
		"shared, port above":         {onShared(0, portRoute(plan.ModeTCP, 20101)), "port-not-offered"},
		"shared, all of 443":         {onShared(0, portRoute(plan.ModeTCP, 443)), "port-not-offered"},
		"shared, DNS":                {onShared(0, portRoute(plan.ModeUDP, 53)), "port-not-offered"},
		"leased what is shared":      {onLeased(0, 10, web), "address-not-offered"},
		"shared what is leased":      {gate{0, false, []string{"198.51.100.12"}, []plan.Route{web}}, "address-not-offered"},
		"before the range":           {onLeased(0, 9, web), "address-not-offered"},
		"behind the range":           {onLeased(0, 20, web), "address-not-offered"},
		"the router":                 {onLeased(0, 1, web), "address-not-offered"},
		"another slot's":             {gate{1, true, []string{"198.51.100.12"}, []plan.Route{web}}, "address-not-offered"},
		"one of two somewhere else":  {gate{0, true, []string{"198.51.100.12", "198.51.101.12"}, []plan.Route{web}}, "address-not-offered"},
		"IPv6 that the pool has not": {gate{0, true, []string{"2001:db8::12"}, []plan.Route{web}}, "address-not-offered"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			s := w.approve(w.publish("shop", c.gate), "red")
			_, err := Apply(w.copy(), w.now, w.tx(s))
			if problem.Code(err) != c.code || c.code == "" && err != nil {
				t.Errorf("%v, want code %q", err, c.code)
			}
			// The node says the same.
			_, b := w.gatewayPlan("shop", c.gate)
			p, err := plan.Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			_, gateways, err := gatewaysOf(p)
			if err != nil {
				t.Fatal(err)
			}
			pool := record[PoolRecord](w, KeyPool(w.slots[c.gate.slot])).Signed
			if _, err := JudgeGateway(w.grid, w.farm, w.key("farm").Public(), w.slots[c.gate.slot], pool, 1, gateways[0]); problem.Code(err) != c.code || c.code == "" && err != nil {
				t.Errorf("the node: %v, want code %q", err, c.code)
			}
		})
	}
	w.t = t
	w.ok(w.sign(NewPool(w.grid, Pool{Farm: w.farm, Slot: w.slots[0], Sequence: 2}), KindPool, "farm"))
	w.refused(w.approve(w.publish("shop", onShared(0, web)), "red"), "no-pool")
	slot := w.addSlot("n3", big)
	w.slots = append(w.slots, slot)
	w.refused(w.approve(w.publish("shop", onShared(2, web)), "red"), "no-pool")
}

func TestAShrunkPoolLeavesWhatContractsHoldToNobodyElse(t *testing.T) {
	w := publicWorld(t)
	eve := w.as("rivals")
	mine := w.ok(w.approve(w.publish("shop", onLeased(0, 12, portRoute(plan.ModeTCP, 25))), "red", "green")).Contract
	shared := w.ok(w.approve(w.publish("web", onShared(0, hostRoute("www.shop.test"))), "red", "green")).Contract
	p := somePool(w, 0, 2)
	p.Ranges[0].First, p.Shared, p.First, p.Last = "198.51.100.13", nil, 0, 0
	w.ok(w.sign(p, KindPool, "farm"))
	w.refused(w.approve(w.republish(mine, 1, "shop", onLeased(0, 12, portRoute(plan.ModeTCP, 25))), "red"), "address-not-offered")
	// Another slot takes the addresses over: they are still the contracts'.
	q := somePool(w, 1, 2)
	q.Ranges, q.Shared, q.First, q.Last = []Range{{Prefix: "198.51.100.0/24", Router: "198.51.100.1", First: "198.51.100.10", Last: "198.51.100.12"}}, nil, 0, 0
	w.ok(w.sign(q, KindPool, "farm"))
	at := func(last int) gate {
		return gate{1, true, []string{fmt.Sprint("198.51.100.", last)}, []plan.Route{portRoute(plan.ModeTCP, 25)}}
	}
	w.says(eve.approve(eve.publish("theirs", at(12)), "eve"), "address-taken", "leased by demo/shop")
	w.says(eve.approve(eve.publish("theirs", at(10)), "eve"), "address-taken", "was shared, and 1 contracts")
	// The contract itself follows its address in one update.
	w.ok(w.approve(w.republish(mine, 1, "shop", at(12)), "red", "green"))
	w.ok(w.approve(w.cancel(shared, 1, "web"), "red", "green"))
	w.ok(eve.approve(eve.publish("theirs", at(10)), "eve"))
	w.ok(w.approve(w.cancel(mine, 2, "shop"), "red", "green"))
	w.absent(KeyLease("198.51.100.12"))
}

func TestANodeBelievesItsFarmsNewestPoolOnly(t *testing.T) {
	w := publicWorld(t)
	w.key("other")
	g := plan.Gateway{V: plan.Version, Addresses: []string{"198.51.100.10"}, Routes: []plan.Route{hostRoute("www.shop.test")},
		Networks: []plan.Attachment{{Network: "front", IPv4: "10.1.0.3", IPv6: "fd00:1::3", Egress: plan.EgressNone}}}
	farmKey := w.key("farm").Public()
	good := w.sign(somePool(w, 0, 5), KindPool, "farm")
	altered := good
	altered.Statement = slices.Clone(good.Statement)
	altered.Statement[len(altered.Statement)-1] ^= 1
	wide := somePool(w, 0, 5)
	wide.Ranges[0].Prefix = "198.0.0.0/8"
	for name, c := range map[string]struct {
		pool   Signed
		slot   int
		newest uint64
		code   string
	}{
		"the newest":                    {good, 0, 5, ""},
		"a newer one than known":        {good, 0, 4, ""},
		"an old one":                    {good, 0, 6, "stale-sequence"},
		"signed by nobody":              {w.sign(somePool(w, 0, 5), KindPool), 0, 0, "signature-missing"},
		"signed by another farm":        {w.sign(somePool(w, 0, 5), KindPool, "other"), 0, 0, "signature-missing"},
		"signed by both":                {w.sign(somePool(w, 0, 5), KindPool, "farm", "other"), 0, 0, "signature-unexpected"},
		"signed by a validator's group": {w.sign(somePool(w, 0, 5), KindPool, "red", "green"), 0, 0, "signature-missing"},
		"of another slot":               {good, 1, 0, "pool-untrusted"},
		"of another farm": {w.sign(NewPool(w.grid, Pool{Farm: w.group, Slot: w.slots[0], MAC: "52:54:00:aa:00:01", Ranges: somePool(w, 0, 5).Ranges, Sequence: 5}), KindPool, "farm"),
			0, 0, "pool-untrusted"},
		"of another grid":   {w.sign(NewPool(w.group, somePool(w, 0, 5)), KindPool, "farm"), 0, 0, "wrong-grid"},
		"another statement": {w.signed["farm"], 0, 0, "wrong-kind"},
		"altered":           {altered, 0, 0, "statement-invalid"},
		"out of its limits": {w.sign(wide, KindPool, "farm"), 0, 0, "pool-invalid"},
		"withdrawn":         {w.sign(NewPool(w.grid, Pool{Farm: w.farm, Slot: w.slots[0], Sequence: 9}), KindPool, "farm"), 0, 0, "no-pool"},
		"nothing":           {Signed{}, 0, 0, "statement-invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := JudgeGateway(w.grid, w.farm, farmKey, w.slots[c.slot], c.pool, c.newest, g)
			got := problem.Code(err)
			if name == "altered" && err != nil {
				got = c.code // which code depends on the byte
			}
			if got != c.code || c.code == "" && err != nil {
				t.Errorf("%v, want code %q", err, c.code)
			}
		})
	}
}

func TestJudgeGoesOnForPlansWithGateways(t *testing.T) {
	w := publicWorld(t)
	w.consentAnew()
	id := w.ok(w.approve(w.publish("shop", onShared(1, hostRoute("www.shop.test"))), "red", "green")).Contract
	v, err := Judge(w.evidence(id))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(v.Deployment.Workloads); n != 4 || len(v.Workloads) != 2 {
		t.Errorf("%d workloads, %d here", n, len(v.Workloads))
	}
}

func (w *world) consentAnew() { w.ok(w.consent(big.times(2), 2)) }
