package contract

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

func endingRoute(host string) plan.Route {
	r := hostRoute(host)
	r.Mode = plan.ModeTerminate
	return r
}

func digestOf(text string) string {
	h := canon.Sum([]byte(text))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

const (
	ended  = "shop." + domain
	passed = "app." + domain
)

// challengedWorld is a publicWorld with a contract on slot 0 that ends the TLS of
// ended and of a host of its own, and passes that of another one through; "node" is
// bound to slot 0, "two" to slot 1.
func challengedWorld(t testing.TB) (*world, canon.Hash) {
	t.Helper()
	w := publicWorld(t)
	w.bind(w.slots[0], 1, "node")
	w.bind(w.slots[1], 1, "two")
	for _, label := range []string{"shop", "app"} {
		w.ok(w.approve(w.named(ActionReserve, label, w.now+day, none), "red", "green"))
	}
	id := w.ok(w.approve(w.publish("public", onShared(0, endingRoute(ended), endingRoute("www."+ended), endingRoute("www.own.test"), hostRoute(passed))), "red", "green")).Contract
	return w, id
}

// answer is a challenge of ended that the rules take.
func (w *world) answer(id canon.Hash, sequence uint64) Challenge {
	return NewChallenge(w.grid, Challenge{Slot: w.slots[0], Epoch: 1, Contract: id, Host: ended, Value: digestOf("answer"), Sequence: sequence, Expiry: w.now + 600})
}

func TestOnlyTheNodeWhereAHostsTLSEndsAnswersItsChallenge(t *testing.T) {
	base, id := challengedWorld(t)
	eve := base.as("rivals")
	theirs := eve.ok(eve.approve(eve.publish("theirs", onShared(0, endingRoute("www.their.test"))), "eve")).Contract
	for name, c := range map[string]struct {
		change func(w *world, c *Challenge)
		by     string
		code   string
	}{
		"as it should be":       {nil, "node", ""},
		"at its last second":    {func(w *world, c *Challenge) { c.Expiry = w.now }, "node", ""},
		"the longest":           {func(w *world, c *Challenge) { c.Expiry = w.now + MaxChallengeLife }, "node", ""},
		"below the name":        {func(_ *world, c *Challenge) { c.Host = "www." + ended }, "node", ""},
		"too long":              {func(w *world, c *Challenge) { c.Expiry = w.now + MaxChallengeLife + 1 }, "node", "expiry-too-far"},
		"without an end":        {func(_ *world, c *Challenge) { c.Expiry = 1<<64 - 1 }, "node", "expiry-too-far"},
		"expired":               {func(w *world, c *Challenge) { c.Expiry = w.now - 1 }, "node", "challenge-expired"},
		"another node's key":    {nil, "two", "signature-missing"},
		"a member's key":        {nil, "red", "signature-missing"},
		"the farm's key":        {nil, "farm", "signature-missing"},
		"two keys":              {nil, "node two", "signature-unexpected"},
		"nobody's key":          {nil, "", "signature-missing"},
		"another slot":          {func(w *world, c *Challenge) { c.Slot = w.slots[1] }, "two", "challenge-unassigned"},
		"a slot of none":        {func(w *world, c *Challenge) { c.Slot = w.group }, "node", "slot-unbound"},
		"an older epoch":        {func(_ *world, c *Challenge) { c.Epoch = 0 }, "node", "stale-epoch"},
		"a later epoch":         {func(_ *world, c *Challenge) { c.Epoch = 2 }, "node", "stale-epoch"},
		"a host that is passed": {func(_ *world, c *Challenge) { c.Host = passed }, "node", "challenge-unassigned"},
		"a host of no route":    {func(_ *world, c *Challenge) { c.Host = "no." + ended }, "node", "challenge-unassigned"},
		"an own domain":         {func(_ *world, c *Challenge) { c.Host = "www.own.test" }, "node", "challenge-unassigned"},
		"the grid's own domain": {func(_ *world, c *Challenge) { c.Host = domain }, "node", "challenge-unassigned"},
		"another's contract":    {func(_ *world, c *Challenge) { c.Contract = theirs }, "node", "challenge-unassigned"},
		"no contract":           {func(_ *world, c *Challenge) { c.Contract = canon.Hash{} }, "node", "contract-unknown"},
		"a cancelled contract": {func(w *world, c *Challenge) {
			w.ok(w.approve(w.cancel(id, 1, "public"), "red", "green"))
		}, "node", "contract-cancelled"},
		"an old plan's host": {func(w *world, c *Challenge) {
			w.ok(w.approve(w.republish(id, 1, "public", onShared(0, hostRoute(ended))), "red", "green"))
		}, "node", "challenge-unassigned"},
		"an old plan's slot": {func(w *world, c *Challenge) {
			w.ok(w.approve(w.republish(id, 1, "public", onShared(1, endingRoute(ended))), "red", "green"))
		}, "node", "challenge-unassigned"},
		"an old node": {func(w *world, c *Challenge) { w.bind(w.slots[0], 2, "three") }, "node", "stale-epoch"},
		"an old key":  {func(w *world, c *Challenge) { w.bind(w.slots[0], 2, "three"); c.Epoch = 2 }, "node", "signature-missing"},
		"a new node":  {func(w *world, c *Challenge) { w.bind(w.slots[0], 2, "three"); c.Epoch = 2 }, "three", ""},
		"an ended name": {func(w *world, c *Challenge) {
			w.now += day + 1
			c.Expiry = w.now + 600
		}, "node", "name-expired"},
		"a name given away": {func(w *world, c *Challenge) {
			w.ok(w.approve(w.named(ActionTransfer, "shop", 0, eve.group), "red", "green"))
		}, "node", "name-taken"},
		"a released name": {func(w *world, c *Challenge) {
			w.ok(w.approve(w.named(ActionRelease, "shop", 0, none), "red", "green"))
		}, "node", "name-unreserved"},
		"a grid of another domain": {func(w *world, c *Challenge) {
			w.ok(w.sign(NewZone(w.grid, "other.example", 2), KindZone, "release-1", "release-2"))
		}, "node", "challenge-unassigned"},
		"no sequence":        {func(_ *world, c *Challenge) { c.Sequence = 0 }, "node", "challenge-invalid"},
		"a short value":      {func(_ *world, c *Challenge) { c.Value = c.Value[1:] }, "node", "challenge-invalid"},
		"a long value":       {func(_ *world, c *Challenge) { c.Value += "A" }, "node", "challenge-invalid"},
		"other characters":   {func(_ *world, c *Challenge) { c.Value = "\"" + c.Value[1:] }, "node", "challenge-invalid"},
		"a line's end":       {func(_ *world, c *Challenge) { c.Value = c.Value[:42] + "\n" }, "node", "challenge-invalid"},
		"bits that are none": {func(_ *world, c *Challenge) { c.Value = strings.Repeat("_", 43) }, "node", "challenge-invalid"},
		"no host":            {func(_ *world, c *Challenge) { c.Host = "" }, "node", "challenge-invalid"},
		"upper case":         {func(_ *world, c *Challenge) { c.Host = "Shop." + domain }, "node", "challenge-invalid"},
		"a slash":            {func(_ *world, c *Challenge) { c.Host = "a/b." + domain }, "node", "challenge-invalid"},
		"no room":            {func(_ *world, c *Challenge) { c.Host = strings.Repeat("abcdefghi.", 23) + domain }, "node", "challenge-invalid"},
		"another grid":       {func(w *world, c *Challenge) { c.Grid = w.group }, "node", "wrong-grid"},
	} {
		t.Run(name, func(t *testing.T) {
			w := *base
			w.t, w.st = t, base.copy()
			one := w.answer(id, 1)
			if c.change != nil {
				c.change(&w, &one)
			}
			s := w.sign(one, KindChallenge, strings.Fields(c.by)...)
			if c.code != "" {
				w.refused(s, c.code)
				w.absent(KeyChallenge(ended, w.slots[0]))
			} else {
				w.ok(s)
				if rec := record[ChallengeRecord](&w, KeyChallenge(one.Host, w.slots[0])); rec.Signed.ID() != s.ID() || rec.Time != w.now {
					t.Errorf("record %+v", rec)
				}
			}
			// The node says the same by the ledger's records.
			facts := ChallengeFacts{Now: w.now, Zone: record[ZoneRecord](&w, KeyZone).zone(t)}
			facts.Bound, _, _ = Load[BoundRecord](w.st, KeyBound(one.Slot))
			facts.Contract, _, _ = Load[ContractRecord](w.st, KeyContract(one.Contract))
			if label, _ := facts.Zone.Label(one.Host); label != "" {
				facts.Name, _, _ = Load[HostNameRecord](w.st, KeyHostName(label))
			}
			if _, err := JudgeChallenge(w.grid, s, facts); problem.Code(err) != c.code || c.code == "" && err != nil {
				t.Errorf("the node: %v, want code %q", err, c.code)
			}
		})
	}
}

func (r ZoneRecord) zone(t *testing.T) Zone {
	t.Helper()
	z, err := statement[Zone](r.Signed)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestAnOldChallengeIsNotPlayedAgain(t *testing.T) {
	w, id := challengedWorld(t)
	at := KeyChallenge(ended, w.slots[0])
	first := w.sign(w.answer(id, 5), KindChallenge, "node")
	w.ok(first)
	w.refused(first, "stale-sequence")
	lower := w.answer(id, 4)
	lower.Host = "www." + ended
	w.refused(w.sign(lower, KindChallenge, "node"), "stale-sequence")

	// Taken back, it does not come again although it has not expired.
	back := w.answer(id, 6)
	back.Value = ""
	w.ok(w.sign(back, KindChallenge, "node"))
	w.absent(at)
	w.refused(first, "stale-sequence")
	w.refused(w.sign(back, KindChallenge, "node"), "stale-sequence")
	back.Sequence = 7
	w.refused(w.sign(back, KindChallenge, "node"), "challenge-absent")

	// Receipts count on their own: neither holds up the other.
	w.ok(w.sign(NewReceipt(w.grid, Receipt{Contract: id, Version: 1, Workload: "gw-0", Slot: w.slots[0], Epoch: 1, Sequence: 1, State: StateRunning}), KindReceipt, "node"))
	w.ok(w.sign(w.answer(id, 8), KindChallenge, "node"))

	// The next epoch begins anew, and what the last one said is not taken any more.
	last := w.sign(w.answer(id, 9), KindChallenge, "node")
	w.bind(w.slots[0], 2, "three")
	w.refused(last, "stale-epoch")
	next := w.answer(id, 1)
	next.Epoch = 2
	s := w.sign(next, KindChallenge, "three")
	w.ok(s)
	if rec := record[ChallengeRecord](w, at); rec.Signed.ID() != s.ID() {
		t.Error("the old node's answer stands")
	}
}

func TestAChallengeIsTakenBackWhateverBecameOfThePlan(t *testing.T) {
	w, id := challengedWorld(t)
	w.ok(w.sign(w.answer(id, 1), KindChallenge, "node"))
	w.ok(w.approve(w.cancel(id, 1, "public"), "red", "green"))
	back := w.answer(id, 2)
	back.Value = ""
	other := back
	other.Contract = w.group
	w.refused(w.sign(other, KindChallenge, "node"), "challenge-absent")
	w.refused(w.sign(back, KindChallenge, "two"), "signature-missing")
	w.ok(w.sign(back, KindChallenge, "node"))
	w.absent(KeyChallenge(ended, w.slots[0]))
}

func TestChallengesOfASlotAreFewAndExpiredOnesGo(t *testing.T) {
	w, first := challengedWorld(t)
	_ = first
	w.ok(w.approve(w.named(ActionReserve, "many", w.now+2*day, none), "red", "green"))
	var ids []canon.Hash
	host := func(of, i int) string { return fmt.Sprintf("h%d-%d.many.%s", of, i, domain) }
	for of := range MaxChallenges/MaxChallengesOf + 1 {
		var routes []plan.Route
		for i := range MaxChallengesOf + 1 {
			routes = append(routes, endingRoute(host(of, i)))
		}
		ids = append(ids, w.ok(w.approve(w.publish(fmt.Sprint("many-", of), onShared(0, routes...)), "red", "green")).Contract)
	}
	sequence := uint64(0)
	say := func(of, i int, value string) Signed {
		sequence++
		c := w.answer(ids[of], sequence)
		c.Host, c.Value = host(of, i), value
		return w.sign(c, KindChallenge, "node")
	}
	for i := range MaxChallengesOf {
		w.ok(say(0, i, digestOf("a")))
	}
	w.refused(say(0, MaxChallengesOf, digestOf("a")), "too-many-challenges")
	w.ok(say(0, 3, digestOf("another value of the same host")))
	for of := 1; of < len(ids)-1; of++ {
		for i := range MaxChallengesOf {
			w.ok(say(of, i, digestOf("a")))
		}
	}
	last := len(ids) - 1
	w.refused(say(last, 0, digestOf("a")), "too-many-challenges")
	w.ok(say(1, 2, ""))
	w.ok(say(last, 0, digestOf("a")))
	rec := record[ChallengesRecord](w, KeyChallenges(w.slots[0]))
	if n := len(rec.Open); n != MaxChallenges || !slices.IsSortedFunc(rec.Open, func(a, b OpenChallenge) int { return strings.Compare(a.Host, b.Host) }) {
		t.Errorf("%d are listed: %+v", n, rec.Open)
	}
	// The next one, when all have expired, is alone.
	w.now += 601
	w.ok(say(last, 1, digestOf("a")))
	listed := record[ChallengesRecord](w, KeyChallenges(w.slots[0])).Open
	if len(listed) != 1 || listed[0].Host != host(last, 1) {
		t.Errorf("listed %+v", listed)
	}
	for key := range w.st {
		if strings.HasPrefix(key, KeyChallengePrefix) && key != KeyChallenge(host(last, 1), w.slots[0]) {
			t.Errorf("record %s is left", key)
		}
	}
}

// challenge is a random one, mostly sensible, of a contract that runs.
func (m *publicModel) challenge(w *world, pick func(string, int) int) (Signed, bool) {
	var all []Challenge // that some plan would allow
	for id, p := range m.active {
		slots, gateways, err := gatewaysOf(p)
		if err != nil {
			w.t.Fatal(err)
		}
		for i, g := range gateways {
			for _, r := range g.Routes {
				if r.Mode == plan.ModeTerminate || r.Mode == plan.ModePassthrough && (p.Name == "gamma" || r.Host == "www.own.test") {
					all = append(all, Challenge{Slot: slots[i], Contract: id, Host: r.Host})
				}
			}
		}
	}
	for _, o := range m.answers {
		one := Challenge{Slot: o.Slot, Contract: o.Contract, Host: o.Host}
		all = append(all, one, one)
	}
	if len(all) == 0 {
		return Signed{}, false
	}
	slices.SortFunc(all, func(a, b Challenge) int {
		return cmp.Or(bytes.Compare(a.Contract[:], b.Contract[:]), bytes.Compare(a.Slot[:], b.Slot[:]), strings.Compare(a.Host, b.Host))
	})
	c := NewChallenge(w.grid, all[pick("challenge", len(all))])
	rec, _, err := Load[ChallengesRecord](w.st, KeyChallenges(c.Slot))
	if err != nil {
		w.t.Fatal(err)
	}
	c.Epoch, c.Sequence, c.Expiry = 1, max(1, rec.Sequence+1-uint64(pick("old", 8)/7)), w.now+uint64(pick("life", 3700))
	if pick("take back", 2) > 0 {
		c.Value = digestOf("v")
	}
	return w.sign(c, KindChallenge, fmt.Sprint("public-node-", slices.Index(w.slots, c.Slot))), true
}

// followChallenge checks that what was taken may have been, by the plans that run.
func (m *publicModel) followChallenge(s Signed, now uint64) error {
	c, err := statement[Challenge](s)
	if err != nil {
		return err
	}
	if c.Sequence <= m.challenges[c.Slot] {
		return fmt.Errorf("sequence %d follows %d", c.Sequence, m.challenges[c.Slot])
	}
	m.challenges[c.Slot] = c.Sequence
	maps.DeleteFunc(m.answers, func(_ string, o Challenge) bool { return o.Slot == c.Slot && now > o.Expiry })
	key := KeyChallenge(c.Host, c.Slot)
	if c.Value == "" {
		if m.answers[key].Contract != c.Contract {
			return fmt.Errorf("%s was taken back and was not there", key)
		}
		delete(m.answers, key)
		m.reached["taken back"]++
		return nil
	}
	p, runs := m.active[c.Contract]
	if !runs || c.Expiry < now || c.Expiry > now+3600 {
		return fmt.Errorf("a challenge to %d at %d, of a contract that runs: %v", c.Expiry, now, runs)
	}
	slots, gateways, err := gatewaysOf(p)
	if err != nil {
		return err
	}
	here := false
	for i, g := range gateways {
		for _, r := range g.Routes {
			here = here || slots[i] == c.Slot && r.Host == c.Host && r.Mode == plan.ModeTerminate
		}
	}
	label, under := (Zone{Domain: domain}).Label(c.Host)
	if held := m.names[label]; !here || !under || held.Group != p.Group || now > held.Until {
		return fmt.Errorf("%s ends here: %v; it is %+v's", c.Host, here, held)
	}
	m.answers[key] = c
	m.reached[KindChallenge]++
	return nil
}
