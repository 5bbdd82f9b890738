package contract

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// seeds are valid transactions of every kind, from a world in which they fit.
func seeds(w *world) [][]byte {
	id := w.running("hello", w.job("web", w.slots[0]))
	w.bind(w.slots[0], 1, "node")
	w.ok(w.sign(somePool(w, 0, 1), KindPool, "farm"))
	w.ok(w.sign(NewZone(w.grid, domain, 1), KindZone, "release-1", "release-2"))
	w.ok(w.approve(w.named(ActionReserve, "shop", w.now+day, none), "red", "green"))
	ending := w.ok(w.approve(w.publish("ending", onShared(0, endingRoute("www.shop."+domain))), "red", "green")).Contract
	answer := w.answer(ending, 1)
	answer.Host = "www.shop." + domain
	w.ok(w.sign(answer, KindChallenge, "node"))
	answer.Sequence++
	back := answer
	back.Value = ""
	rivals := w.addGroup("rivals", "eve", 1, w.members("eve")...)
	d := NewDelegation(w.grid, w.farm, w.key("agent").Public(), []string{MayAdmit}, w.slots, 2, big, 1, later)
	var out [][]byte
	for _, s := range []Signed{
		w.sign(NewAccount(w.grid, "zoe", w.key("zoe").Public()), KindAccount, "zoe"),
		w.sign(NewGroup(w.grid, "team", w.accounts["red"], 2, nonce("x"), w.members("red", "blue")...), KindGroup, "red"),
		w.sign(NewFarm(w.grid, "field", w.key("field").Public()), KindFarm, "field"),
		w.sign(NewSlot(w.grid, w.farm, "n9", "mac:52:54:00:12:34:56", IdentityNone, []string{"a"}, big), KindSlot, "farm"),
		w.sign(d, KindDelegation, "farm"),
		w.consent(big, 2),
		w.sign(w.node(w.slots[1], 1, "two"), KindNode, "two", "farm"),
		w.sign(w.node(w.slots[0], 2, "three"), KindNode, "three", "farm"),
		w.approve(w.deploy("second", w.job("web", w.slots[1])), "red", "green"),
		w.approve(w.update(id, 1, "hello", w.job("web", w.slots[1])), "red", "green"),
		w.approve(w.cancel(id, 1, "hello"), "red"),
		w.sign(NewReceipt(w.grid, Receipt{Contract: id, Version: 1, Workload: "web", Slot: w.slots[0], Epoch: 1, Sequence: 1, State: StateRunning}), KindReceipt, "node"),
		w.sign(w.features(1, 1, "microvm", "namespace"), KindFeatures, "node"),
		w.sign(NewRelease(w.grid, 1, "1", canon.Sum(nil), later, Checkpoint{}), KindRelease, "release-1", "release-2"),
		w.sign(somePool(w, 1, 1), KindPool, "farm"),
		w.sign(somePool(w, 0, 2), KindPool, "farm"),
		w.sign(NewZone(w.grid, domain, 2), KindZone, "release-1", "release-2"),
		w.approve(w.named(ActionReserve, "second", w.now+day, none), "red", "green"),
		w.approve(w.named(ActionRenew, "shop", w.now+2*day, none), "red", "green"),
		w.approve(w.named(ActionTransfer, "shop", 0, rivals), "red", "green"),
		w.approve(w.named(ActionRelease, "shop", 0, none), "red"),
		w.approve(w.publish("public", onShared(0, hostRoute("shop."+domain), portRoute("udp", 20000)), onLeased(0, 12, portRoute("tcp", 25))), "red", "green"),
		w.sign(answer, KindChallenge, "node"),
		w.sign(back, KindChallenge, "node"),
		w.sign(NewTag(w.grid, w.accounts["red"], "hello", "1", canon.Sum(nil), 1, later), KindTag, "red"),
	} {
		out = append(out, w.tx(s))
	}
	return out
}

// FuzzApply: no transaction makes the rules panic, every refusal has a code,
// and what is accepted leaves records that can be read.
func FuzzApply(f *testing.F) {
	w := newWorld(f)
	txs := seeds(w)
	for _, tx := range txs {
		if _, err := Apply(maps.Clone(w.st), w.now, tx); err != nil && problem.Code(err) != "kind-unknown" {
			f.Fatalf("a seed is refused: %v", err)
		}
		f.Add(tx)
	}
	f.Add([]byte{})
	f.Add([]byte{0xa2})
	f.Fuzz(func(t *testing.T, tx []byte) {
		st := maps.Clone(w.st)
		res, err := Apply(st, w.now, tx)
		if err != nil {
			if problem.Code(err) == "" {
				t.Errorf("refused without a code: %v", err)
			}
			return
		}
		s, err := DecodeSigned(tx)
		if err != nil || s.ID() != res.ID {
			t.Errorf("result is for %s: %v", res.ID, err)
		}
	})
}

// FuzzApplySigned lets the fuzzer write the statement and signs it with every
// key that could matter, so that the rules behind the signatures are reached.
func FuzzApplySigned(f *testing.F) {
	w := newWorld(f)
	names := []string{"red", "green", "farm", "node", "zoe", "two", "three", "agent", "release-1", "release-2", "field"}
	// who returns the set of names that signed s.
	who := func(names []string, s Signed) (set uint16) {
		for _, sig := range s.Signatures {
			set |= 1 << slices.IndexFunc(names, func(n string) bool { return w.key(n).Public().Equal(sig.Key) })
		}
		return set
	}
	for _, tx := range seeds(w) {
		s, err := DecodeSigned(tx)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s.Statement, who(names, s))
	}
	f.Fuzz(func(t *testing.T, statement []byte, who uint16) {
		head, err := Peek(statement)
		if err != nil || len(head.Kind) > 64 {
			return
		}
		s := Signed{Statement: statement}
		for i, name := range names {
			if who&(1<<i) != 0 {
				if s, err = Countersign(t.Context(), s, head.Kind, w.key(name)); err != nil {
					t.Fatal(err)
				}
			}
		}
		tx, err := s.Encode()
		if err != nil {
			return
		}
		st := maps.Clone(w.st)
		if _, err := Apply(st, w.now, tx); err != nil && problem.Code(err) == "" {
			t.Errorf("refused without a code: %v", err)
		}
	})
}

// FuzzJudge: whatever a ledger hands over, a node's judgement doesn't panic,
// and only the truth is accepted.
func FuzzJudge(f *testing.F) {
	w := newWorld(f)
	id := w.running("hello", w.job("web", w.slots[0]))
	truth := w.evidence(id)
	parts := func(e *Evidence) []*Signed {
		e.Members, e.History = slices.Clone(e.Members), slices.Clone(e.History)
		return []*Signed{&e.Farm, &e.Slot, &e.Consent, &e.Group, &e.Members[0], &e.Members[1], &e.Members[2], &e.History[0]}
	}
	first := truth
	for i, p := range parts(&first) {
		f.Add(uint8(i), p.Statement, p.Signatures[0].Key, p.Signatures[0].Sig)
	}
	f.Fuzz(func(t *testing.T, which uint8, statement, key, sig []byte) {
		e := truth
		all := parts(&e)
		part := all[int(which)%len(all)]
		part.Statement = statement
		part.Signatures = slices.Clone(part.Signatures)
		part.Signatures[0] = Signature{Key: key, Sig: sig}
		v, err := Judge(e)
		if err == nil && (v.Contract != id || part.ID() != parts(&first)[int(which)%len(all)].ID()) {
			t.Errorf("a forgery is accepted: %+v", v)
		}
	})
}

// FuzzJudgeGateway: whatever pool and gateway a node is shown, it neither panics
// nor serves an address that its farm did not sign.
func FuzzJudgeGateway(f *testing.F) {
	w := newWorld(f)
	good := w.sign(somePool(w, 0, 1), KindPool, "farm")
	_, b := w.gatewayPlan("public", onShared(0, hostRoute("shop.test"), portRoute("udp", 20000)))
	p, err := plan.Decode(b)
	if err != nil {
		f.Fatal(err)
	}
	for _, job := range p.Workloads {
		if job.Kind == plan.KindGateway {
			f.Add(good.Statement, job.Config, true)
			f.Add(good.Statement, job.Config, false)
		}
	}
	f.Fuzz(func(t *testing.T, statement, config []byte, sign bool) {
		g, err := plan.DecodeGateway(config)
		if err != nil {
			return
		}
		s := Signed{Statement: statement, Signatures: good.Signatures}
		if sign {
			if s, err = Countersign(t.Context(), Signed{Statement: statement}, KindPool, w.key("farm")); err != nil {
				t.Fatal(err)
			}
		}
		pool, err := JudgeGateway(w.grid, w.farm, w.key("farm").Public(), w.slots[0], s, 0, g)
		if err != nil {
			if problem.Code(err) == "" {
				t.Errorf("refused without a code: %v", err)
			}
			return
		}
		if !sign && s.ID() != good.ID() {
			t.Error("a forged pool is believed")
		}
		for _, a := range g.Addresses {
			if in, shared := pool.Contains(netip.MustParseAddr(a)); !in || shared == g.Leased {
				t.Errorf("%s is served: in %v, shared %v, leased %v", a, in, shared, g.Leased)
			}
		}
	})
}
