package contract

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// wiredPlan is a plan with a private network: db on slot 0, its exit, and web
// on slot 1. Both slots run a router.
func (w *world) wiredPlan(name string) plan.Plan {
	w.t.Helper()
	attach := func(job plan.Workload, a plan.Attachment) plan.Workload {
		c, err := plan.DecodeContainer(job.Config)
		if err != nil {
			w.t.Fatal(err)
		}
		a.Network = "back"
		c.Networks = []plan.Attachment{a}
		if job.Config, err = canon.Marshal(c); err != nil {
			w.t.Fatal(err)
		}
		return job
	}
	router := func(slot canon.Hash) plan.Workload {
		config, err := plan.NetworkConfig{V: plan.Version, Network: "back"}.Encode()
		if err != nil {
			w.t.Fatal(err)
		}
		return plan.Workload{Name: plan.RouterName("back", slot), Kind: plan.KindNetwork, Slot: slot, Resources: plan.RouterResources(), Config: config}
	}
	p := plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: w.group, Name: name,
		Networks: []plan.Network{{Name: "back", IPv4: "10.20.0.0/16", IPv6: "fd00:20::/48", Exit: w.slots[0], Nodes: []plan.NetworkNode{
			{Slot: w.slots[0], IPv4: "10.20.0.0/24", IPv6: "fd00:20::/64"}, {Slot: w.slots[1], IPv4: "10.20.1.0/24", IPv6: "fd00:20:0:1::/64"}}}},
		Workloads: []plan.Workload{
			attach(w.job("db", w.slots[0]), plan.Attachment{IPv4: "10.20.0.2", IPv6: "fd00:20::2", Aliases: []string{"postgres"}, Egress: plan.EgressNone,
				Allow: []plan.Rule{{Protocol: plan.ProtocolTCP, First: 5432, Last: 5432, Peers: []string{"web"}}, {Protocol: plan.ProtocolICMP}}}),
			attach(w.job("web", w.slots[1]), plan.Attachment{IPv4: "10.20.1.2", IPv6: "fd00:20:0:1::2", Open: true, Egress: plan.EgressExit, Bandwidth: 100_000_000}),
			router(w.slots[0]), router(w.slots[1]),
		}}
	nodes := p.Networks[0].Nodes
	slices.SortFunc(nodes, func(a, b plan.NetworkNode) int { return bytes.Compare(a.Slot[:], b.Slot[:]) })
	slices.SortFunc(p.Workloads, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
	return p
}

// wired is the approval of wiredPlan.
func (w *world) wired(name string) Approval {
	w.t.Helper()
	p := w.wiredPlan(name)
	b, err := plan.Encode(p)
	if err != nil {
		w.t.Fatal(err)
	}
	return NewDeploy(w.grid, p, b, 1, nonce(name), later)
}

func TestRoutersCountAgainstCapacityAndAreToldToTheirNodes(t *testing.T) {
	w := newWorld(t)
	res := w.ok(w.approve(w.wired("hello"), "red", "green"))
	if !res.Accepted {
		t.Fatalf("%+v", res)
	}
	router := plan.RouterResources()
	want := Capacity{CPU: 1000 + router.CPU, Memory: gib + router.Memory, Disk: gib}
	if got := w.used(KeyUsed(w.slots[0])); got != want {
		t.Errorf("slot uses %s, want %s", got, want)
	}
	v, err := Judge(w.evidence(res.Contract))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, job := range v.Workloads {
		names = append(names, job.Name)
	}
	if got, want := strings.Join(names, " "), plan.RouterName("back", w.slots[0])+" db"; got != want {
		t.Errorf("the node runs %s, want %s", got, want)
	}
	b, err := plan.Encode(v.Deployment)
	if err != nil || plan.Hash(b) != v.Plan {
		t.Errorf("the deployment that the node is given is not the approved one: %v", err)
	}
}

// TestANetworkReachesOnlySlotsThatAgreed: a slot carries a network by a workload
// of its own, so its farm's consent and its capacity are asked for. A plan that
// names a slot without that is refused.
func TestANetworkReachesOnlySlotsThatAgreed(t *testing.T) {
	w := newWorld(t)
	p := w.wiredPlan("hello")
	name := plan.RouterName("back", w.slots[1])
	p.Workloads = slices.DeleteFunc(p.Workloads, func(job plan.Workload) bool { return job.Name == name })
	b, err := canon.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	w.refused(w.approve(NewDeploy(w.grid, p, b, 1, nonce("a"), later), "red", "green"), "plan-invalid")

	farm := w.sign(NewFarm(w.grid, "shed", w.key("shed").Public()), KindFarm, "shed")
	w.ok(farm)
	slot := w.sign(NewSlot(w.grid, farm.ID(), "n9", "mac:52:54:00:00:00:09", IdentityDisk, nil, big), KindSlot, "shed")
	w.ok(slot)
	own := w.slots[1]
	w.slots[1] = slot.ID()
	w.refused(w.approve(w.wired("hello"), "red"), "no-consent")
	w.slots[1] = own

	// The farm grants what the containers take, and no router.
	w.ok(w.consent(Capacity{CPU: 2000, Memory: 2 * gib, Disk: 2 * gib}, 2))
	w.refused(w.approve(w.wired("hello"), "red"), "consent-exceeded")
	router := plan.RouterResources()
	w.ok(w.consent(Capacity{CPU: 2000 + 2*router.CPU, Memory: 2*gib + 2*router.Memory, Disk: 2 * gib}, 3))
	w.ok(w.approve(w.wired("hello"), "red"))
}

// TestAChangedAddressIsAnotherPlan: nothing of a network can be altered under
// approvals that stand.
func TestAChangedAddressIsAnotherPlan(t *testing.T) {
	w := newWorld(t)
	res := w.ok(w.approve(w.wired("hello"), "red", "green"))
	e := w.evidence(res.Contract)
	s := &e.History[0]
	if !bytes.Contains(s.Statement, []byte("10.20.1.2")) {
		t.Fatal("the address is not in the signed bytes")
	}
	s.Statement = bytes.Replace(bytes.Clone(s.Statement), []byte("10.20.1.2"), []byte("10.20.1.3"), 1)
	if _, err := Judge(e.point()); problem.Code(err) == "" {
		t.Errorf("Judge took it: %v", err)
	}
}
