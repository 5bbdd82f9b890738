package node

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/gateway/domain"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	publish "github.com/zero-os/zos/workload/gateway"
)

// lister is the book as facts about gateways are read from it.
type lister struct {
	book book
	now  uint64
}

func (l lister) head() light.Head { return light.Head{Time: time.Unix(int64(l.now), 0)} }

func (l lister) Get(_ context.Context, key string) ([]byte, bool, light.Head, error) {
	v, ok := l.book[key]
	return v, ok, l.head(), nil
}

func (l lister) List(_ context.Context, prefix string) ([]light.KV, light.Head, error) {
	var out []light.KV
	for k, v := range l.book {
		if strings.HasPrefix(k, prefix) {
			out = append(out, light.KV{Key: k, Value: v})
		}
	}
	slices.SortFunc(out, func(a, b light.KV) int { return strings.Compare(a.Key, b.Key) })
	return out, l.head(), nil
}

// noDomains says that no domain is proven.
type noDomains struct{}

func (noDomains) Proven(host string, _ canon.Hash) error {
	return problem.New("domain-unproven", "%s: nothing is there", host)
}
func (noDomains) Watch([]claim)             {}
func (noDomains) Run(context.Context) error { return nil }

const gridDomain = "grid.example"

// facts is what this grid's slot knows.
func (g *grid) facts(dir string) *gatewayFacts {
	g.Helper()
	f, _, _, err := contract.Open[contract.Farm](g.farm, contract.KindFarm, g.id)
	if err != nil {
		g.Fatal(err)
	}
	return &gatewayFacts{grid: g.id, farm: g.farm.ID(), farmKey: f.Key, slot: g.slot.ID(), genesis: g.genesis, dir: dir, log: slog.New(slog.DiscardHandler), domains: noDomains{}}
}

func (g *grid) pool(sequence uint64, ranges ...contract.Range) {
	g.Helper()
	p := contract.Pool{Farm: g.farm.ID(), Slot: g.slot.ID(), Sequence: sequence, Ranges: ranges}
	if len(ranges) > 0 {
		p.MAC, p.Shared, p.First, p.Last = "52:54:00:aa:00:01", []string{"198.51.100.10"}, 20000, 20100
	}
	g.apply(contract.NewPool(g.id, p), contract.KindPool, g.farmer)
}

func someRange() contract.Range {
	return contract.Range{Prefix: "198.51.100.0/24", Router: "198.51.100.1", First: "198.51.100.10", Last: "198.51.100.19"}
}

func (g *grid) name(action, label string, until uint64) {
	g.Helper()
	var now contract.HostNameRecord
	if b := g.book[contract.KeyHostName(label)]; b != nil {
		if err := canon.Unmarshal(b, &now); err != nil {
			g.Fatal(err)
		}
	}
	a, err := contract.NewNameApproval(g.id, g.group, action, plan.Name{V: plan.Version, Label: label, Until: until}, now, 1, contract.NewNonce(), g.now+100)
	if err != nil {
		g.Fatal(err)
	}
	g.apply(a, contract.KindApproval, g.people[0], g.people[1])
}

// gateway is a desired gateway with these hosts, and its evidence.
func (g *grid) gateway(hosts ...string) (gatewayCase, plan.Gateway) {
	g.Helper()
	gw := plan.Gateway{V: plan.Version, Addresses: []string{"198.51.100.10"},
		Networks: []plan.Attachment{{Network: "front", IPv4: "10.1.1.9", IPv6: "fd00::9", Egress: plan.EgressNone, Aliases: []string{}, Allow: []plan.Rule{}}}}
	for _, h := range hosts {
		gw.Routes = append(gw.Routes, plan.Route{Host: h, Mode: plan.ModePassthrough, Port: 443, Network: "front", Backends: []string{"web"}, Target: 8443, Check: plan.CheckTCP})
	}
	plan.SortRoutes(gw.Routes)
	config, err := gw.Encode()
	if err != nil {
		g.Fatal(err)
	}
	e := evidence{}
	grp, _, err := get[contract.GroupRecord](g.Context(), reader{g.book}, contract.KeyGroup(g.group))
	if err != nil {
		g.Fatal(err)
	}
	e.Group = grp.Signed
	var founding contract.Group
	if err := canon.Unmarshal(e.Group.Statement, &founding); err != nil {
		g.Fatal(err)
	}
	for _, m := range founding.Members {
		a, _, err := get[contract.AccountRecord](g.Context(), reader{g.book}, contract.KeyAccount(m.Account))
		if err != nil {
			g.Fatal(err)
		}
		e.Members = append(e.Members, a.Signed)
	}
	d := workload.Desired{ID: workload.ID{Contract: canon.Sum([]byte("contract")), Name: "www"}, Version: 1, Plan: plan.Workload{Name: "www", Kind: plan.KindGateway, Config: config}}
	return gatewayCase{d, e}, gw
}

func (g *grid) refresh(f *gatewayFacts, cases ...gatewayCase) error {
	g.Helper()
	_, err := f.refresh(g.Context(), lister{g.book, g.now}, cases)
	return err
}

func TestAGatewayServesWhatTheFarmAndTheLedgerGiveIt(t *testing.T) {
	g := newGrid(t)
	g.apply(contract.NewZone(g.id, gridDomain, 1, g.farm.ID()), contract.KindZone, g.keeper)
	c, gw := g.gateway("shop."+gridDomain, "nobody."+gridDomain, gridDomain, "own.example")
	f := g.facts("")
	if _, known := f.Pool(); known {
		t.Error("a pool is known before the ledger was read")
	}
	if err := g.refresh(f, c); err != nil {
		t.Fatal(err)
	}
	if p, known := f.Pool(); !known || len(p.Ranges) > 0 {
		t.Errorf("without a pool: %+v, %v", p, known)
	}
	if j := f.Judge(c.d, gw); problem.Code(j.Err) != "no-pool" {
		t.Errorf("without a pool: %v", j.Err)
	}
	g.pool(1, someRange())
	g.name(contract.ActionReserve, "shop", g.now+1000)
	if err := g.refresh(f, c); err != nil {
		t.Fatal(err)
	}
	j := f.Judge(c.d, gw)
	if j.Err != nil {
		t.Error(j.Err)
	}
	want := map[string]string{"nobody." + gridDomain: "name-unreserved", gridDomain: "name-unreserved", "own.example": "domain-unproven"}
	for _, r := range gw.Routes {
		if code := problem.Code(j.Hosts[r.Host]); code != want[r.Host] {
			t.Errorf("%s: %q, want %q", r.Host, code, want[r.Host])
		}
	}
	// The name ends.
	g.now += 1001
	if err := g.refresh(f, c); err != nil {
		t.Fatal(err)
	}
	if j := f.Judge(c.d, gw); problem.Code(j.Hosts["shop."+gridDomain]) != "name-expired" {
		t.Errorf("after its end: %v", j.Hosts)
	}
	// The farm takes its addresses back.
	g.pool(2)
	if err := g.refresh(f, c); err != nil {
		t.Fatal(err)
	}
	if j := f.Judge(c.d, gw); problem.Code(j.Err) != "no-pool" {
		t.Errorf("taken back: %v", j.Err)
	}
}

// A ledger that forges a record makes no node serve a name.
func TestAForgedNameIsNotServed(t *testing.T) {
	g := newGrid(t)
	g.apply(contract.NewZone(g.id, gridDomain, 1, g.farm.ID()), contract.KindZone, g.keeper)
	g.pool(1, someRange())
	g.name(contract.ActionReserve, "shop", g.now+1000)
	c, gw := g.gateway("bank." + gridDomain)
	var rec contract.HostNameRecord
	if err := canon.Unmarshal(g.book[contract.KeyHostName("shop")], &rec); err != nil {
		t.Fatal(err)
	}
	rec.Skeleton = contract.Skeleton("bank")
	b, err := canon.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	g.book[contract.KeyHostName("bank")] = b
	f := g.facts("")
	if err := g.refresh(f, c); err != nil {
		t.Fatal(err)
	}
	if j := f.Judge(c.d, gw); problem.Code(j.Hosts["bank."+gridDomain]) != "record-mismatch" {
		t.Errorf("it says %v", j.Hosts)
	}
}

func TestAnOldPoolIsNotTakenAndTheNewestIsKept(t *testing.T) {
	g := newGrid(t)
	g.pool(1, someRange())
	old := g.book[contract.KeyPool(g.slot.ID())]
	g.pool(2)
	g.pool(3, someRange())
	dir := t.TempDir()
	f := g.facts(dir)
	if err := g.refresh(f); err != nil {
		t.Fatal(err)
	}
	newest := g.book[contract.KeyPool(g.slot.ID())]
	g.book[contract.KeyPool(g.slot.ID())] = old
	if err := g.refresh(f); problem.Code(err) != "ledger-lying" {
		t.Errorf("an old pool: %v", err)
	}
	delete(g.book, contract.KeyPool(g.slot.ID()))
	if err := g.refresh(f); problem.Code(err) != "ledger-lying" {
		t.Errorf("no pool any more: %v", err)
	}
	// Without a ledger, the next daemon goes on with it.
	again := g.facts(dir)
	again.restore()
	if p, known := again.Pool(); !known || p.Sequence != 3 {
		t.Errorf("restored %+v, %v", p, known)
	}
	g.book[contract.KeyPool(g.slot.ID())] = newest
	if err := g.refresh(again); err != nil {
		t.Error(err)
	}
}

func TestTheZoneIsWhatTheLedgerPublishes(t *testing.T) {
	g := newGrid(t)
	g.apply(contract.NewZone(g.id, gridDomain, 1, g.farm.ID()), contract.KindZone, g.keeper)
	g.pool(1, someRange())
	g.name(contract.ActionReserve, "shop", g.now+1000)
	g.name(contract.ActionReserve, "idle", g.now+1000)
	f := g.facts("")
	if err := g.refresh(f); err != nil {
		t.Fatal(err)
	}
	z := f.Zone()
	if z == nil || z.Domain != gridDomain || len(z.NS) != 1 || z.NS[0].Name != "ns1."+gridDomain || len(z.Names) != 0 {
		t.Fatalf("zone %+v", z)
	}
	// A farm that nobody appointed answers for nothing, though it has a gateway.
	g.apply(contract.NewZone(g.id, gridDomain, 2, canon.Sum([]byte("another farm"))), contract.KindZone, g.keeper)
	later := g.facts("")
	if err := g.refresh(later); err != nil {
		t.Fatal(err)
	}
	if z := later.Zone(); z != nil && len(z.NS) != 0 {
		t.Errorf("name servers %+v", z.NS)
	}
}

func TestGatewayStatusIsCutToTheLimits(t *testing.T) {
	g := newGrid(t)
	c, gw := g.gateway("shop." + gridDomain)
	id := publish.RouteID(c.d.ID, gw.Routes[0])
	now := time.Unix(1_900_000_000, 0)
	s := publish.State{
		Gateways: []workload.Desired{c.d},
		Routes:   map[string]control.Route{id: {ID: id, Backends: []control.Backend{{Name: "web", Addr: "10.1.1.2:8443"}, {Name: "web2", Addr: "10.1.1.3:8443"}}}},
		Status: control.Status{Routes: []control.RouteStatus{{ID: id, Total: 3, Backends: []control.BackendStatus{
			{Addr: "10.1.1.2:8443", Healthy: true, Checked: true, Since: 1_899_999_990}, {Addr: "10.1.1.3:8443", Error: strings.Repeat("é", 300), Checked: true, Since: 1 << 63}}}}},
	}
	out := gatewayStatusOf(g.slot.ID(), s, now)
	r := out.Gateways[0].Routes[0]
	if !r.Serving || r.Code != "" || r.Counters.Connections != 3 || r.Backends[0].State != protocol.BackendHealthy || r.Backends[0].Since.Seconds != 10 || r.Backends[1].State != protocol.BackendUnhealthy {
		t.Errorf("route %+v", r)
	}
	b, err := canon.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := protocol.DecodeGatewayStatus(b); err != nil {
		t.Error(err)
	}
	w := s.Routes[id]
	w.Problem = "name-expired host shop: it ended"
	s.Routes[id] = w
	if r := gatewayStatusOf(g.slot.ID(), s, now).Gateways[0].Routes[0]; r.Serving || r.Code != "name-expired" || r.Message != "host shop: it ended" {
		t.Errorf("route %+v", r)
	}
}

// records are what DNS says.
type records map[string][]string

func (r records) Lookup(_ context.Context, name string, _ uint16) (domain.Answer, error) {
	out := domain.Answer{TTL: time.Minute}
	for _, text := range r[name] {
		var parts []string
		for len(text) > 255 {
			parts, text = append(parts, text[:255]), text[255:]
		}
		out.Records = append(out.Records, &dns.TXT{Hdr: dns.RR_Header{Name: name + ".", Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}, Txt: append(parts, text)})
	}
	return out, nil
}

func TestADomainIsServedForTheGroupThatProvesIt(t *testing.T) {
	g := newGrid(t)
	g.pool(1, someRange())
	c, gw := g.gateway("shop.own.example", "www.other.example")
	statement := domain.Statement{Grid: g.id, Group: g.group, Domain: "own.example"}
	proof := domain.Proof{Group: g.group}
	for _, by := range g.people[:2] {
		sig, err := domain.Sign(t.Context(), statement, by)
		if err != nil {
			t.Fatal(err)
		}
		proof.Signatures = append(proof.Signatures, sig)
	}
	text, err := domain.Make(proof)
	if err != nil {
		t.Fatal(err)
	}
	changed := make(chan struct{}, 1)
	f := g.facts("")
	own := newOwnDomains(g.id, records{"_zos.own.example": {text}}, func() { changed <- struct{}{} })
	f.domains = own
	if err := g.refresh(f, c); err != nil {
		t.Fatal(err)
	}
	if j := f.Judge(c.d, gw); problem.Code(j.Hosts["shop.own.example"]) != "name-unchecked" {
		t.Errorf("before the first look: %v", j.Hosts)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = own.Run(ctx) }()
	defer func() { cancel(); <-done }()
	<-changed
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err := g.refresh(f, c); err != nil {
			t.Fatal(err)
		}
		j := f.Judge(c.d, gw)
		if j.Hosts["shop.own.example"] == nil && problem.Code(j.Hosts["www.other.example"]) == "domain-unproven" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it says %v", j.Hosts)
		}
	}
}
