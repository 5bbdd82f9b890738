package node

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

func digestOf(text string) string {
	h := canon.Sum([]byte(text))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// bind makes key the one that speaks for the slot.
func (g *grid) bind(epoch uint64, key sign.Signer) {
	g.Helper()
	sealing, err := seal.KeyFromSeed(canon.Sum(key.Public()))
	if err != nil {
		g.Fatal(err)
	}
	g.apply(contract.NewNode(g.id, g.slot.ID(), epoch, key.Public(), sealing.Public(), canon.Hash{}, contract.NewNonce(), g.now+100), contract.KindNode, key, g.farmer)
}

// publicPlan is a plan whose gateway on the slot has these routes.
func (g *grid) publicPlan(name string, routes ...plan.Route) (plan.Plan, []byte) {
	g.Helper()
	must := func(b []byte, err error) []byte {
		g.Helper()
		if err != nil {
			g.Fatal(err)
		}
		return b
	}
	at := func(host string, open bool) []plan.Attachment {
		return []plan.Attachment{{Network: "front", IPv4: "10.1.0." + host, IPv6: "fd00:1:0:1::" + host, Egress: plan.EgressNone, Open: open}}
	}
	small := plan.Resources{CPU: 1, Memory: 1 << 20, PIDs: 8}
	web, err := plan.Container{V: plan.Version, Flist: canon.Sum([]byte("image")), Size: 1, Args: []string{"/web"}, Env: []string{}, WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(),
		NoNewPrivs: true, Networks: at("2", true)}.Encode()
	web = must(web, err)
	plan.SortRoutes(routes)
	gw, err := plan.Gateway{V: plan.Version, Addresses: []string{"198.51.100.10"}, Networks: at("3", false), Routes: routes}.Encode()
	gw = must(gw, err)
	router, err := plan.NetworkConfig{V: plan.Version, Network: "front"}.Encode()
	router = must(router, err)
	jobs := []plan.Workload{
		{Name: "gw", Kind: plan.KindGateway, Slot: g.slot.ID(), Resources: small, Config: gw},
		{Name: plan.RouterName("front", g.slot.ID()), Kind: plan.KindNetwork, Slot: g.slot.ID(), Resources: small, Config: router},
		{Name: "web", Kind: plan.KindContainer, Slot: g.slot.ID(), Resources: small, Config: web},
	}
	slices.SortFunc(jobs, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
	p := plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: g.group, Name: name, Workloads: jobs, Networks: []plan.Network{{Name: "front", IPv4: "10.1.0.0/16", IPv6: "fd00:1::/48",
		Nodes: []plan.NetworkNode{{Slot: g.slot.ID(), IPv4: "10.1.0.0/24", IPv6: "fd00:1:0:1::/64"}}}}}
	b, err := plan.Encode(p)
	return p, must(b, err)
}

func route(host, mode string) plan.Route {
	return plan.Route{Host: host, Mode: mode, Port: 443, Network: "front", Backends: []string{"web"}, Target: 8443, Check: plan.CheckTCP}
}

// ending is a grid with a gateway that ends the TLS of shop and passes that of app
// through, and its slot's key.
func ending(t *testing.T) (g *grid, id canon.Hash, key sign.Signer) {
	t.Helper()
	g = newGrid(t)
	g.apply(contract.NewZone(g.id, gridDomain, 1, g.farm.ID()), contract.KindZone, g.keeper)
	g.pool(1, someRange())
	key = g.signer()
	g.bind(1, key)
	g.name(contract.ActionReserve, "shop", g.now+1000)
	g.name(contract.ActionReserve, "app", g.now+1000)
	p, b := g.publicPlan("public", route("shop."+gridDomain, plan.ModeTerminate), route("app."+gridDomain, plan.ModePassthrough))
	id = g.apply(contract.NewDeploy(g.id, p, b, 1, contract.NewNonce(), g.now+100), contract.KindApproval, g.people[0], g.people[1]).ID()
	return g, id, key
}

// blocks is a ledger whose every transaction is a block. It loses answers, or is of
// an old head, as often as it is told.
type blocks struct {
	lister
	lose *int
	old  *int
}

func (b blocks) Get(ctx context.Context, key string) ([]byte, bool, light.Head, error) {
	if *b.old > 0 {
		*b.old--
		return nil, false, b.head(), nil
	}
	return b.lister.Get(ctx, key)
}

func (b blocks) Submit(_ context.Context, tx []byte) (light.Result, error) {
	trial := book{}
	for k, v := range b.book {
		trial[k] = v
	}
	if _, err := contract.Apply(trial, b.now, tx); err != nil {
		return light.Result{}, err
	}
	clear(b.book)
	for k, v := range trial {
		b.book[k] = v
	}
	if *b.lose > 0 {
		*b.lose--
		return light.Result{}, problem.New(light.CodeUnreachable, "the answer is lost")
	}
	return light.Result{}, nil
}

func (g *grid) challenges(key sign.Signer, epoch uint64) (*challenges, blocks, *int) {
	l := blocks{lister{g.book, g.now}, new(int), new(int)}
	said := new(int)
	return newChallenges(g.id, g.slot.ID(), key, func() (submitter, uint64) { return l, epoch }, func() { *said++ }), l, said
}

func texts(z *control.Zone) map[string][]string {
	out := map[string][]string{}
	for _, r := range z.TXT {
		out[r.Name] = r.Texts
	}
	return out
}

// TestTheZoneAnswersChallengesOfThisMomentAlone follows one from a node to the name
// servers of the grid's domain, and what ends it.
func TestTheZoneAnswersChallengesOfThisMomentAlone(t *testing.T) {
	const host, name = "shop." + gridDomain, "_acme-challenge.shop." + gridDomain
	value := digestOf("one")
	for what, c := range map[string]func(g *grid, id canon.Hash, key sign.Signer, c *challenges){
		"it expires": func(g *grid, _ canon.Hash, _ sign.Signer, _ *challenges) {
			g.now += uint64(challengeLife.Seconds()) + 1
		},
		"it is taken back": func(g *grid, id canon.Hash, _ sign.Signer, c *challenges) {
			if err := c.Answer(g.Context(), id, host, ""); err != nil {
				g.Fatal(err)
			}
		},
		"the contract is cancelled": func(g *grid, id canon.Hash, _ sign.Signer, _ *challenges) { g.cancel(id, "public", 1) },
		"the host is passed through now": func(g *grid, id canon.Hash, _ sign.Signer, _ *challenges) {
			p, b := g.publicPlan("public", route(host, plan.ModePassthrough))
			g.apply(contract.NewUpdate(g.id, id, 1, p, b, 1, contract.NewNonce(), g.now+100), contract.KindApproval, g.people[0], g.people[1])
		},
		"the node is another one": func(g *grid, _ canon.Hash, _ sign.Signer, _ *challenges) { g.bind(2, g.signer()) },
		"the name is released": func(g *grid, _ canon.Hash, _ sign.Signer, _ *challenges) {
			g.name(contract.ActionRelease, "shop", g.now+1000)
		},
	} {
		t.Run(what, func(t *testing.T) {
			g, id, key := ending(t)
			f := g.facts("")
			f.zoneAgain()
			if err := g.refresh(f); err != nil || len(f.Zone().TXT) > 0 {
				t.Fatalf("%v, zone %+v", err, f.Zone())
			}
			ch, _, said := g.challenges(key, 1)
			if err := ch.Answer(g.Context(), id, host, value); err != nil {
				t.Fatal(err)
			}
			if *said != 1 {
				t.Errorf("it was said %d times that there is one", *said)
			}
			f.zoneAgain()
			if err := g.refresh(f); err != nil {
				t.Fatal(err)
			}
			if got := texts(f.Zone()); len(got) != 1 || !slices.Equal(got[name], []string{value}) {
				t.Fatalf("texts %v", got)
			}
			c(g, id, key, ch)
			f.zoneAgain()
			if err := g.refresh(f); err != nil {
				t.Fatal(err)
			}
			if got := texts(f.Zone()); len(got) > 0 {
				t.Errorf("texts %v", got)
			}
		})
	}
}

// A ledger that shows an answer which nobody signed, or for whom it may not be, makes
// no name server answer it.
func TestAForgedChallengeIsNotAnswered(t *testing.T) {
	g, id, key := ending(t)
	put := func(c contract.Challenge, by ...sign.Signer) {
		t.Helper()
		s, err := contract.Sign(t.Context(), contract.NewChallenge(g.id, c), contract.KindChallenge, by...)
		if err != nil {
			t.Fatal(err)
		}
		b, err := canon.Marshal(contract.ChallengeRecord{Signed: s, Time: g.now})
		if err != nil {
			t.Fatal(err)
		}
		g.book[contract.KeyChallenge(c.Host, c.Slot)] = b
	}
	good := contract.Challenge{Slot: g.slot.ID(), Epoch: 1, Contract: id, Host: "shop." + gridDomain, Value: digestOf("one"), Sequence: 1, Expiry: g.now + 60}
	f := g.facts("")
	expect := func(what string, n int) {
		t.Helper()
		f.zoneAgain()
		if err := g.refresh(f); err != nil {
			t.Fatal(err)
		}
		if got := texts(f.Zone()); len(got) != n {
			t.Errorf("%s: texts %v", what, got)
		}
	}
	put(good, g.signer())
	expect("another key", 0)
	put(good)
	expect("no key", 0)
	other := good
	other.Host = "app." + gridDomain
	put(other, key)
	expect("a host that is passed through", 0)
	g.book[contract.KeyChallengePrefix+"x"] = []byte("nonsense")
	expect("nonsense", 0)
	put(good, key)
	expect("as it should be", 1)
}

func TestAnAnswerIsSentUntilItsFateIsKnown(t *testing.T) {
	g, id, key := ending(t)
	host := "shop." + gridDomain
	c, l, said := g.challenges(key, 1)
	ctx := t.Context()
	sequence := func() uint64 {
		rec, _, err := get[contract.ChallengesRecord](ctx, reader{g.book}, contract.KeyChallenges(g.slot.ID()))
		if err != nil {
			t.Fatal(err)
		}
		return rec.Sequence
	}
	if err := c.Answer(ctx, id, host, digestOf("one")); err != nil || sequence() != 1 {
		t.Fatalf("%v, sequence %d", err, sequence())
	}
	// The answer of the ledger is lost: it stands, and the next one goes on from there.
	*l.lose = 1
	if err := c.Answer(ctx, id, host, digestOf("two")); problem.Code(err) != light.CodeUnreachable || sequence() != 2 {
		t.Fatalf("%v, sequence %d", err, sequence())
	}
	// What was read is old.
	*l.old = 1
	if err := c.Answer(ctx, id, host, digestOf("three")); err != nil || sequence() != 3 {
		t.Fatalf("%v, sequence %d", err, sequence())
	}
	for range 2 { // twice: there is nothing to take back any more
		if err := c.Answer(ctx, id, host, ""); err != nil {
			t.Fatal(err)
		}
	}
	if *said != 3 {
		t.Errorf("it was said %d times that the ledger has another", *said)
	}
	if err := c.Answer(ctx, id, "app."+gridDomain, digestOf("x")); problem.Code(err) != "challenge-unassigned" {
		t.Errorf("a host that is passed through: %v", err)
	}
	if err := c.Answer(ctx, id, host, "x"); problem.Code(err) != "challenge-invalid" {
		t.Errorf("no digest: %v", err)
	}
	unbound, _, _ := g.challenges(key, 0)
	if err := unbound.Answer(ctx, id, host, digestOf("x")); problem.Code(err) != "node-unbound" {
		t.Errorf("before it has joined: %v", err)
	}
	none := newChallenges(g.id, g.slot.ID(), key, func() (submitter, uint64) { return nil, 1 }, func() {})
	if err := none.Answer(ctx, id, host, digestOf("x")); problem.Code(err) != light.CodeUnreachable {
		t.Errorf("without a ledger: %v", err)
	}
	// Whoever waits for his turn gives up with his context.
	none.turn <- struct{}{}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := none.Answer(ended, id, host, digestOf("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
}
