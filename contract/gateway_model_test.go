package contract

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

// publicModel keeps the plans that run and adds everything up anew.
type publicModel struct {
	active  map[canon.Hash]plan.Plan // contracts that run
	version map[canon.Hash]uint64
	groups  map[canon.Hash][]string // who makes a quorum of a group
	names   map[string]HostNameRecord
	pools   map[canon.Hash]Pool
	// challenges are the last sequences of slots, answers the challenges that stand,
	// or have expired and were not cleared away yet, by key.
	challenges map[canon.Hash]uint64
	answers    map[string]Challenge
	reached    map[string]int // what was accepted, by action: the test says something only if all are
}

// TestReplicasAgreeOnNamesAndNoAddressIsEverInTwoLiveContracts drives three
// replicas with the same random transactions about names, pools and gateways of
// two groups, over months of block time.
func TestReplicasAgreeOnNamesAndNoAddressIsEverInTwoLiveContracts(t *testing.T) {
	base := publicWorld(t)
	rivals := base.as("rivals").group
	base.ok(base.sign(NewConsent(base.grid, base.farm, base.group, big.times(2), 9, start+9999*day), KindConsent, "farm"))
	base.ok(base.sign(NewConsent(base.grid, base.farm, rivals, big, 9, start+9999*day), KindConsent, "farm"))
	for i, slot := range base.slots {
		base.bind(slot, 1, fmt.Sprint("public-node-", i))
	}
	// Something stands at the beginning, so that challenges have their chance.
	base.ok(base.approve(base.named(ActionReserve, "api", start+40*day, none), "red", "green"))
	standing := base.ok(base.approve(base.publish("alpha", onShared(0, endingRoute("api."+domain)), onShared(1, endingRoute("api."+domain), endingRoute("www.api."+domain))), "red", "green")).Contract
	reached := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		w := *base
		w.t, w.now = t, start
		replicas := []*logged{{memory: maps.Clone(base.st)}, {memory: maps.Clone(base.st)}, {memory: maps.Clone(base.st)}}
		w.st = replicas[0].memory
		m := &publicModel{active: map[canon.Hash]plan.Plan{}, version: map[canon.Hash]uint64{}, names: map[string]HostNameRecord{}, pools: map[canon.Hash]Pool{},
			challenges: map[canon.Hash]uint64{}, answers: map[string]Challenge{},
			groups: map[canon.Hash][]string{w.group: {"red", "green"}, rivals: {"eve"}}, reached: reached}
		for i := range w.slots {
			m.pools[w.slots[i]] = somePool(&w, i, 1)
		}
		m.names["api"] = record[HostNameRecord](&w, KeyHostName("api"))
		m.version[standing] = 1
		m.active[standing], _ = base.gatewayPlan("alpha", onShared(0, endingRoute("api."+domain)), onShared(1, endingRoute("api."+domain), endingRoute("www.api."+domain)))
		var open []Approval
		for range rapid.IntRange(10, 50).Draw(rt, "steps") {
			s := m.step(rt, &w, &open)
			before := w.copy()
			reached["steps"]++
			if res, err := agree(rt, &w, replicas, s); err == nil {
				m.follow(rt, &w, before, s, res)
			}
			m.check(rt, &w)
		}
	})
	t.Log(reached)
	if reached["steps"] < 2000 {
		return // few sequences were asked for
	}
	for _, want := range []string{ActionReserve, ActionRenew, ActionTransfer, ActionRelease, ActionDeploy, ActionUpdate, ActionCancel, KindPool, KindChallenge, "taken back", "leased", "shared", "port", "host", "lookalike"} {
		if reached[want] == 0 {
			t.Errorf("no sequence had %s", want)
		}
	}
}

// step makes the next transaction; most are sensible.
func (m *publicModel) step(rt *rapid.T, w *world, open *[]Approval) Signed {
	group := rapid.SampledFrom(slices.SortedFunc(maps.Keys(m.groups), func(a, b canon.Hash) int { return bytes.Compare(a[:], b[:]) })).Draw(rt, "group")
	me := *w
	me.group = group
	quorum := m.groups[group]
	label := func() string {
		return rapid.SampledFrom([]string{"shop", "sh0p", "5hop", "web", "vveb", "api"}).Draw(rt, "label")
	}
	var a Approval
	k := rapid.IntRange(0, 26).Draw(rt, "step")
	if k >= 20 {
		pick := func(what string, n int) int { return rapid.IntRange(0, n-1).Draw(rt, what) }
		if s, some := m.challenge(w, pick); some {
			w.now += uint64(pick("moments", 900))
			return s
		}
		k = 0
	}
	switch {
	case k < 7:
		l := label()
		action := rapid.SampledFrom([]string{ActionReserve, ActionReserve, ActionRenew, ActionTransfer, ActionRelease}).Draw(rt, "action")
		var to canon.Hash
		if action == ActionTransfer {
			for other := range m.groups {
				if other != group {
					to = other
				}
			}
		}
		if action != ActionReserve && m.names[l].Group.IsZero() {
			action, to = ActionReserve, none
		}
		a = me.named(action, l, w.now+uint64(rapid.IntRange(1, 40).Draw(rt, "days"))*day, to)
	case k < 14:
		a = m.publish(rt, &me, label)
	case k < 15:
		slot := rapid.IntRange(0, 1).Draw(rt, "slot")
		p := somePool(w, 0, m.pools[w.slots[slot]].Sequence+uint64(rapid.IntRange(0, 3).Draw(rt, "newer")))
		p.Slot = w.slots[slot]
		if rapid.IntRange(0, 2).Draw(rt, "other segment") > 0 {
			q := somePool(w, slot, 1)
			p.Ranges, p.Shared = q.Ranges, q.Shared
		}
		switch rapid.IntRange(0, 5).Draw(rt, "shape") {
		case 0:
			p = NewPool(w.grid, Pool{Farm: w.farm, Slot: p.Slot, Sequence: p.Sequence})
		case 1:
			p.Shared = p.Shared[:1] // the second can be leased now
		case 2:
			p.Ranges[0].Last = strings.TrimSuffix(p.Ranges[0].Last, "19") + "13"
		}
		return w.sign(p, KindPool, "farm")
	case k < 17:
		w.now += uint64(rapid.SampledFrom([]int{1, 20, 30, 80}).Draw(rt, "pass")) * day
		fallthrough
	case k < 19 && len(*open) > 0:
		if len(*open) > 0 {
			a = rapid.SampledFrom(*open).Draw(rt, "open")
			return w.approve(a, rapid.SampledFrom([]string{"red", "green", "blue", "eve"}).Draw(rt, "who"))
		}
		fallthrough
	default:
		a = me.named(ActionReserve, label(), w.now+day, none)
	}
	*open = append(*open, a)
	if rapid.IntRange(0, 3).Draw(rt, "partly") == 0 {
		quorum = quorum[:1]
	}
	return w.approve(a, quorum...)
}

// publish deploys, updates or cancels a contract with random gateways.
func (m *publicModel) publish(rt *rapid.T, me *world, label func() string) Approval {
	var ids []canon.Hash
	for id, p := range m.active {
		if p.Group == me.group {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b canon.Hash) int { return bytes.Compare(a[:], b[:]) })
	var id canon.Hash
	name := rapid.SampledFrom([]string{"alpha", "beta", "gamma"}).Draw(rt, "name")
	if len(ids) > 0 && rapid.Bool().Draw(rt, "standing") {
		id = rapid.SampledFrom(ids).Draw(rt, "contract")
		name = m.active[id].Name
		if rapid.IntRange(0, 3).Draw(rt, "cancel") == 0 {
			a, err := NewCancel(me.grid, id, me.group, name, m.version[id], 1, NewNonce(), me.now+day)
			if err != nil {
				rt.Fatal(err)
			}
			a.Nonce = nonce(fmt.Sprint(id, m.version[id], me.now))
			return a
		}
	}
	var gates []gate
	used := map[string]bool{}
	for range rapid.IntRange(1, 2).Draw(rt, "gateways") {
		slot := rapid.IntRange(0, 1).Draw(rt, "at")
		g := gate{slot: slot}
		last := rapid.IntRange(10, 14).Draw(rt, "address")
		g.leased = last > 11 || rapid.IntRange(0, 3).Draw(rt, "lease a shared one") == 0
		address := fmt.Sprintf("198.51.%d.%d", 100+rapid.SampledFrom([]int{slot, slot, slot, 1 - slot}).Draw(rt, "segment"), last)
		if used[address] {
			continue
		}
		used[address] = true
		g.addresses = []string{address}
		if rapid.Bool().Draw(rt, "by host") {
			host := rapid.SampledFrom([]string{label() + "." + domain, "www.own.test"}).Draw(rt, "host")
			r := hostRoute(host)
			if rapid.IntRange(0, 2).Draw(rt, "ends") > 0 {
				r.Mode = plan.ModeTerminate
			}
			g.routes = append(g.routes, r)
		}
		if len(g.routes) == 0 || rapid.Bool().Draw(rt, "by port") {
			g.routes = append(g.routes, portRoute(rapid.SampledFrom([]string{"tcp", "udp"}).Draw(rt, "proto"), uint16(rapid.IntRange(20000, 20002).Draw(rt, "port"))))
		}
		gates = append(gates, g)
	}
	p, b := me.gatewayPlan(name, gates...)
	n := nonce(fmt.Sprint(canon.Sum(b), m.version[id], me.now))
	if id.IsZero() {
		return NewDeploy(me.grid, p, b, 1, n, me.now+20*day)
	}
	return NewUpdate(me.grid, id, m.version[id], p, b, 1, n, me.now+20*day)
}

// follow takes over an accepted transaction, and checks that it may have been.
func (m *publicModel) follow(rt *rapid.T, w *world, before memory, s Signed, res Result) {
	switch res.Kind {
	case KindPool:
		p, err := statement[Pool](s)
		if err != nil || p.Sequence <= m.pools[p.Slot].Sequence {
			rt.Fatalf("pool %d follows %d: %v", p.Sequence, m.pools[p.Slot].Sequence, err)
		}
		m.pools[p.Slot] = p
		m.reached[KindPool]++
	case KindChallenge:
		if err := m.followChallenge(s, w.now); err != nil {
			rt.Fatal(err)
		}
	case KindApproval:
		if !res.Accepted {
			return
		}
		a, err := statement[Approval](s)
		if err != nil {
			rt.Fatal(err)
		}
		m.reached[a.Action]++
		if a.Class == ClassName {
			m.followName(rt, w, a, res)
			return
		}
		p, err := plan.Decode(a.Plan)
		if err != nil {
			rt.Fatal(err)
		}
		m.version[res.Contract] = a.Version
		delete(m.active, res.Contract)
		if a.Action == ActionCancel {
			return
		}
		m.active[res.Contract] = p
		slots, gateways, err := gatewaysOf(p)
		if err != nil {
			rt.Fatal(err)
		}
		for i, g := range gateways {
			pool, ok, err := Load[PoolRecord](before, KeyPool(slots[i]))
			if err != nil || !ok {
				rt.Fatalf("no pool: %v", err)
			}
			if _, err := JudgeGateway(w.grid, w.farm, w.key("farm").Public(), slots[i], pool.Signed, m.pools[slots[i]].Sequence, g); err != nil {
				rt.Fatalf("the ledger took what its node refuses: %v", err)
			}
			for _, r := range g.Routes {
				label, under := (Zone{Domain: domain}).Label(r.Host)
				if held := m.names[label]; under && (held.Group != p.Group || w.now > held.Until) {
					rt.Fatalf("%s is published by a group that does not hold it: %+v at %d", r.Host, held, w.now)
				}
			}
		}
	}
}

func (m *publicModel) followName(rt *rapid.T, w *world, a Approval, res Result) {
	n, err := plan.DecodeName(a.Plan)
	if err != nil {
		rt.Fatal(err)
	}
	old := m.names[n.Label]
	kept := !old.Group.IsZero() && w.now <= old.Until+NameGrace
	if a.Action == ActionReserve {
		if kept {
			rt.Fatalf("%s was taken from %s", n.Label, old.Group.Short())
		}
		for label := range m.names { // what looks like it gives way
			if other := m.names[label]; other.Skeleton == Skeleton(n.Label) && other.Group != a.Group {
				if w.now <= other.Until+NameGrace {
					rt.Fatalf("%s looks like %s of another group", n.Label, label)
				}
				delete(m.names, label)
				m.reached["lookalike"]++
			}
		}
		m.names[n.Label] = HostNameRecord{ID: res.ID, Group: a.Group, Until: n.Until, Version: 1, Skeleton: Skeleton(n.Label)}
		return
	}
	if old.Group != a.Group || old.Version+1 != a.Version || old.ID != a.Contract {
		rt.Fatalf("%s of %s, by a group or version that is not its own: %+v", a.Action, n.Label, old)
	}
	switch a.Action {
	case ActionRenew:
		if n.Until <= old.Until || n.Until > w.now+MaxNameLife {
			rt.Fatalf("renewed from %d to %d at %d", old.Until, n.Until, w.now)
		}
		old.Until = n.Until
	case ActionTransfer:
		for label, other := range m.names {
			if label != n.Label && other.Skeleton == old.Skeleton && other.Group != n.To {
				delete(m.names, label) // if it was kept, check finds that it is still there
			}
		}
		old.Group = n.To
	case ActionRelease:
		delete(m.names, n.Label)
		return
	}
	old.Version = a.Version
	m.names[n.Label] = old
}

// check adds everything up anew.
func (m *publicModel) check(rt *rapid.T, w *world) {
	want := map[string]any{}
	shared := map[string]uint64{}
	hold := func(kind, key string, v any) {
		if other, taken := want[key]; taken {
			rt.Fatalf("%s is held twice: %v and %v", key, other, v)
		}
		want[key] = v
		m.reached[kind]++
	}
	for id, p := range m.active {
		_, gateways, err := gatewaysOf(p)
		if err != nil {
			rt.Fatal(err)
		}
		seen := map[string]bool{} // several gateways of a contract count once
		once := func(s string) bool { defer func() { seen[s] = true }(); return !seen[s] }
		for _, g := range gateways {
			for _, a := range g.Addresses {
				switch {
				case g.Leased && once("a"+a):
					hold("leased", KeyLease(a), LeaseRecord{Contract: id})
				case !g.Leased && once("a"+a):
					shared[a]++
				}
				for _, r := range g.Routes {
					if key := KeyPort(a, r.Mode, r.Port); r.Host == "" && !g.Leased && once(key) {
						hold("port", key, HolderRecord{Contract: id})
					} else if key := KeyHost(r.Host, p.Group); r.Host != "" && once(key) {
						hold("host", key, HolderRecord{Contract: id})
					}
				}
			}
		}
	}
	for a, n := range shared {
		hold("shared", KeyLease(a), LeaseRecord{Sharers: n})
	}
	counts, alike := map[canon.Hash]uint64{}, map[string][]string{}
	for _, label := range slices.Sorted(maps.Keys(m.names)) {
		name := m.names[label]
		rec := record[HostNameRecord](w, KeyHostName(label))
		if rec.Group != name.Group || rec.Until != name.Until || rec.Version != name.Version || rec.ID != name.ID {
			rt.Fatalf("%s is %+v, want %+v", label, rec, name)
		}
		want[KeyHostName(label)] = rec
		counts[rec.Counts]++
		alike[name.Skeleton] = append(alike[name.Skeleton], label)
		for other, o := range m.names {
			if o.Skeleton == name.Skeleton && o.Group != name.Group && rec.Kept(w.now) && o.Kept(w.now) {
				rt.Fatalf("%s and %s look alike and are two groups'", label, other)
			}
		}
	}
	for group, n := range counts {
		want[KeyHostNames(group)] = HostNamesRecord{Count: n}
	}
	for skeleton, labels := range alike {
		want[KeyLookalike(skeleton)] = LookalikeRecord{Labels: labels}
	}
	segments := map[string][]SegmentRange{}
	for slot, p := range m.pools {
		for _, r := range p.Ranges {
			first, last := netip.MustParseAddr(r.First), netip.MustParseAddr(r.Last)
			segments[KeySegment(first)] = append(segments[KeySegment(first)], SegmentRange{first.AsSlice(), last.AsSlice(), slot})
		}
	}
	for key, list := range segments {
		slices.SortFunc(list, func(a, b SegmentRange) int { return bytes.Compare(a.First, b.First) })
		for i := 1; i < len(list); i++ {
			if bytes.Compare(list[i-1].Last, list[i].First) >= 0 {
				rt.Fatalf("two pools overlap: %v", list)
			}
		}
		want[key] = SegmentRecord{Ranges: list}
	}
	for key := range m.answers {
		want[key] = record[ChallengeRecord](w, key)
	}
	for key, v := range want {
		b, err := canon.Marshal(v)
		if err != nil || !bytes.Equal(w.st.Get(key), b) {
			rt.Fatalf("record %s: %x, want %x (%+v), %v", key, w.st.Get(key), b, v, err)
		}
	}
	for key := range w.st {
		kind, _, _ := strings.Cut(key, "/")
		if _, ok := want[key]; !ok && slices.Contains([]string{"lease", "port", "host", "hostname", "hostnames", "lookalike", "segment", "challenge"}, kind) {
			rt.Fatalf("record %s is of nothing that runs", key)
		}
	}
}
