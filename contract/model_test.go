package contract

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// logged is a State that writes down every access, in order. A replica whose
// order depends on a Go map shows here even if the final state agrees.
type logged struct {
	memory
	log []string
}

func (l *logged) Set(key string, value []byte) {
	l.log = append(l.log, "set "+key+" "+canon.Sum(value).Short())
	l.memory.Set(key, value)
}
func (l *logged) Delete(key string) {
	l.log = append(l.log, "delete "+key)
	l.memory.Delete(key)
}

// model is a second, simpler account of what must hold: it keeps whole plans
// and adds everything up anew after each step.
type model struct {
	approved map[canon.Hash]map[string]bool // who approved which proposal
	active   map[canon.Hash]plan.Plan       // contracts that run
	version  map[canon.Hash]uint64
	epoch    map[canon.Hash]uint64     // of slots
	seen     map[canon.Hash]NodeRecord // the last one of each slot
}

// TestReplicasAgreeAndRulesHold drives three replicas with the same random
// transactions, most of them sensible, and checks after each that all have the
// same state, that it is the model's, and that the nodes would run just that.
func TestReplicasAgreeAndRulesHold(t *testing.T) {
	base := newWorld(t)
	rapid.Check(t, func(rt *rapid.T) {
		w := *base
		w.t, w.now = t, start
		replicas := []*logged{{memory: maps.Clone(base.st)}, {memory: maps.Clone(base.st)}, {memory: maps.Clone(base.st)}}
		w.st = replicas[0].memory
		m := &model{
			approved: map[canon.Hash]map[string]bool{}, active: map[canon.Hash]plan.Plan{}, version: map[canon.Hash]uint64{},
			epoch: map[canon.Hash]uint64{}, seen: map[canon.Hash]NodeRecord{},
		}
		var approvals []Approval // all that was ever proposed
		var consents uint64 = 1
		serial := 0
		unique := func() []byte { serial++; return nonce(fmt.Sprint("n", serial)) }
		jobs := func() []plan.Workload {
			var out []plan.Workload
			for i := range rapid.IntRange(1, 3).Draw(rt, "jobs") {
				j := w.job(fmt.Sprintf("job-%d", i), rapid.SampledFrom(w.slots).Draw(rt, "slot"))
				j.Resources.CPU = uint64(rapid.IntRange(1, 2500).Draw(rt, "cpu"))
				out = append(out, j)
			}
			return out
		}
		contracts := func() []canon.Hash {
			return slices.SortedFunc(maps.Keys(m.version), func(a, b canon.Hash) int { return slices.Compare(a[:], b[:]) })
		}
		propose := func() Approval {
			name := rapid.SampledFrom([]string{"alpha", "beta", "gamma"}).Draw(rt, "name")
			ids := contracts()
			if len(ids) == 0 || rapid.Bool().Draw(rt, "deploy") {
				p, b := w.plan(name, jobs()...)
				return NewDeploy(w.grid, p, b, 1, unique(), w.now+uint64(rapid.IntRange(0, 2000).Draw(rt, "life")))
			}
			id := rapid.SampledFrom(ids).Draw(rt, "contract")
			if known, ok := m.active[id]; ok && rapid.IntRange(0, 9).Draw(rt, "rename") > 0 {
				name = known.Name
			}
			version := m.version[id] - uint64(rapid.IntRange(0, 4).Draw(rt, "old")/4)
			if rapid.IntRange(0, 2).Draw(rt, "cancel") == 0 {
				a := w.cancel(id, version, name)
				a.Nonce = unique()
				return a
			}
			p, b := w.plan(name, jobs()...)
			return NewUpdate(w.grid, id, version, p, b, 1, unique(), later)
		}
		step := func() Signed {
			who := rapid.SampledFrom([]string{"red", "green", "blue", "red", "green", "eve"}).Draw(rt, "who")
			switch k := rapid.IntRange(0, 11).Draw(rt, "step"); {
			case k < 4 || len(approvals) == 0:
				approvals = append(approvals, propose())
				return w.approve(approvals[len(approvals)-1], who)
			case k < 9:
				return w.approve(rapid.SampledFrom(approvals).Draw(rt, "proposal"), who)
			case k < 10:
				slot := rapid.SampledFrom(w.slots).Draw(rt, "slot")
				epoch := m.epoch[slot] + uint64(rapid.IntRange(0, 2).Draw(rt, "epoch"))
				name := fmt.Sprintf("node-%d", serial)
				serial++
				n := NewNode(w.grid, slot, epoch, w.key(name).Public(), sealing(t, name), canon.Hash{}, unique(), w.now+10)
				return w.sign(n, KindNode, name, "farm")
			case k < 11:
				consents += uint64(rapid.IntRange(0, 1).Draw(rt, "sequence"))
				n := rapid.SampledFrom([]uint64{0, 1, 2, 2}).Draw(rt, "share")
				return w.sign(NewConsent(w.grid, w.farm, w.group, big.times(n), consents, w.now+uint64(rapid.IntRange(100, 90000).Draw(rt, "life"))), KindConsent, "farm")
			default:
				w.now += uint64(rapid.IntRange(1, 1500).Draw(rt, "pass"))
				return w.approve(rapid.SampledFrom(approvals).Draw(rt, "proposal"), who)
			}
		}
		for range rapid.IntRange(10, 60).Draw(rt, "steps") {
			s := step()
			first, firstErr := agree(rt, &w, replicas, s)
			if firstErr == nil {
				m.follow(rt, &w, s, first)
			}
			m.check(rt, &w)
		}
	})
}

// agree applies s on every replica, which must all do the same in the same order,
// and makes the outcome the world's state.
func agree(rt *rapid.T, w *world, replicas []*logged, s Signed) (first Result, firstErr error) {
	tx := w.tx(s)
	for i, r := range replicas {
		r.log = nil
		try := &logged{memory: maps.Clone(r.memory)}
		res, err := Apply(try, w.now, tx)
		if err == nil {
			r.memory, r.log = try.memory, try.log
		}
		if i == 0 {
			first, firstErr = res, err
			continue
		}
		if res != first || fmt.Sprint(err) != fmt.Sprint(firstErr) {
			rt.Fatalf("replica %d: %+v, %v; the first: %+v, %v", i, res, err, first, firstErr)
		}
		if !slices.Equal(r.log, replicas[0].log) {
			rt.Fatalf("replica %d wrote %v; the first %v", i, r.log, replicas[0].log)
		}
		if r.memory.hash() != replicas[0].memory.hash() {
			rt.Fatalf("replica %d has another state", i)
		}
	}
	w.st = replicas[0].memory
	if code := problem.Code(firstErr); firstErr != nil && (code == "" || code == "state-damaged") {
		rt.Fatalf("an error without a code, or of a damaged state: %v", firstErr)
	}
	return first, firstErr
}

// follow takes over an accepted transaction.
func (m *model) follow(rt *rapid.T, w *world, s Signed, res Result) {
	switch res.Kind {
	case KindNode:
		n, err := statement[Node](s)
		if err != nil || n.Epoch != m.epoch[n.Slot]+1 {
			rt.Fatalf("epoch %d follows %d: %v", n.Epoch, m.epoch[n.Slot], err)
		}
		m.epoch[n.Slot] = n.Epoch
	case KindApproval:
		a, err := statement[Approval](s)
		if err != nil {
			rt.Fatal(err)
		}
		key := string(s.Signatures[0].Key)
		if m.approved[res.ID] == nil {
			m.approved[res.ID] = map[string]bool{}
		}
		if key == string(w.key("eve").Public()) || m.approved[res.ID][key] {
			rt.Fatal("an outsider or a second approval of one account counted")
		}
		m.approved[res.ID][key] = true
		if enough := len(m.approved[res.ID]) == 2; enough != res.Accepted || w.now > a.Expiry {
			rt.Fatalf("%d approvals, accepted %v, at %d of %d", len(m.approved[res.ID]), res.Accepted, w.now, a.Expiry)
		}
		if !res.Accepted {
			return
		}
		if a.Version != m.version[res.Contract]+1 {
			rt.Fatalf("version %d follows %d", a.Version, m.version[res.Contract])
		}
		p, err := plan.Decode(a.Plan)
		if err != nil {
			rt.Fatal(err)
		}
		m.version[res.Contract] = a.Version
		if old, ok := m.active[res.Contract]; a.Version > 1 && (!ok || old.Name != p.Name) {
			rt.Fatal("a contract that does not run, or runs under another name, was changed")
		}
		m.active[res.Contract] = p
		if a.Action == ActionCancel {
			delete(m.active, res.Contract)
		}
	}
}

// check adds everything up anew.
func (m *model) check(rt *rapid.T, w *world) {
	names := map[string]bool{}
	var total Capacity
	for _, p := range m.active {
		if names[p.Name] {
			rt.Fatalf("two contracts are named %s", p.Name)
		}
		names[p.Name] = true
	}
	for _, slot := range w.slots {
		var sum Capacity
		var entries []RunEntry
		for id, p := range m.active {
			need := demand(p, slot)
			sum, _ = sum.plus(need)
			if need.IsZero() {
				continue
			}
			entries = append(entries, RunEntry{Contract: id, Version: m.version[id], Plan: planHash(rt, p)})
			run, ok, err := Load[RunRecord](w.st, KeyRun(slot, id))
			if err != nil || !ok || run.Version != m.version[id] {
				rt.Fatalf("run record of %s: %+v, %v, %v", id.Short(), run, ok, err)
			}
		}
		total, _ = total.plus(sum)
		if got := w.used(KeyUsed(slot)); got != sum {
			rt.Fatalf("slot uses %s, contracts ask for %s", got, sum)
		}
		if !sum.Within(big) {
			rt.Fatalf("slot is overcommitted: %s", sum)
		}
		slices.SortFunc(entries, func(a, b RunEntry) int { return slices.Compare(a.Contract[:], b.Contract[:]) })
		root, err := Root(entries)
		if err != nil {
			rt.Fatal(err)
		}
		node, ok, err := Load[NodeRecord](w.st, KeyNode(slot))
		if err != nil {
			rt.Fatal(err)
		}
		if ok && (node.Root != root || node.Count != uint64(len(entries))) || !ok && len(entries) > 0 {
			rt.Fatalf("node record %+v, want %d contracts, root %s", node, len(entries), root)
		}
		if last := m.seen[slot]; node.Version < last.Version || node.Version == last.Version && node.Root != last.Root {
			rt.Fatalf("node record %+v follows %+v", node, last)
		}
		m.seen[slot] = node
		runs := 0
		for key := range w.st {
			if len(key) > len(KeyRunPrefix(slot)) && key[:len(KeyRunPrefix(slot))] == KeyRunPrefix(slot) {
				runs++
			}
		}
		if runs != len(entries) {
			rt.Fatalf("%d run records, want %d", runs, len(entries))
		}
	}
	if got := w.used(KeyUsedBy(w.farm, w.group)); got != total {
		rt.Fatalf("group uses %s of the farm, contracts ask for %s", got, total)
	}
	m.judge(rt, w)
}

// judge lets the first slot's node judge every contract that it runs.
func (m *model) judge(rt *rapid.T, w *world) {
	consent, err := statement[Consent](record[ConsentRecord](w, KeyConsent(w.farm, w.group)).Signed)
	if err != nil {
		rt.Fatal(err)
	}
	for id, p := range m.active {
		need := demand(p, w.slots[0])
		if need.IsZero() || !need.Within(consent.Capacity) {
			continue
		}
		v, err := Judge(w.evidence(id))
		if err != nil || v.Version != m.version[id] || v.Name != p.Name {
			rt.Fatalf("the node's verdict: %+v, %v", v, err)
		}
	}
}

func planHash(rt *rapid.T, p plan.Plan) canon.Hash {
	b, err := plan.Encode(p)
	if err != nil {
		rt.Fatal(err)
	}
	return plan.Hash(b)
}
