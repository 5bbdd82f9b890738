package contract

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

const day = 86400

// named is the approval of an action on a name as the ledger has it now; until is
// for what chooses an end.
func (w *world) named(action, label string, until uint64, to canon.Hash) Approval {
	w.t.Helper()
	rec, _, err := Load[HostNameRecord](w.st, KeyHostName(label))
	if err != nil {
		w.t.Fatal(err)
	}
	switch action {
	case ActionReserve:
		rec = HostNameRecord{}
	case ActionTransfer, ActionRelease:
		until = rec.Until
	}
	if until == 0 {
		until = w.now
	}
	a, err := NewNameApproval(w.grid, w.group, action, plan.Name{V: plan.Version, Label: label, To: to, Until: until}, rec, 1, nonce(fmt.Sprint(action, label, until, to, w.group, w.now)), w.now+day)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

var none canon.Hash

func TestANameIsReservedRenewedTransferredAndReleasedByAQuorum(t *testing.T) {
	w := publicWorld(t)
	eve := w.as("rivals")
	a := w.named(ActionReserve, "shop", w.now+30*day, none)
	res := w.ok(w.approve(a, "red"))
	if res.Accepted {
		t.Fatal("one of two sufficed")
	}
	w.absent(KeyHostName("shop"))
	w.refused(w.approve(a, "eve"), "not-a-member")
	w.refused(w.approve(a, "red"), "already-approved")
	res = w.ok(w.approve(a, "green"))
	rec := record[HostNameRecord](w, KeyHostName("shop"))
	if !res.Accepted || res.Contract != res.ID || rec.ID != res.ID || rec.Group != w.group || rec.Until != w.now+30*day || rec.Version != 1 || rec.Skeleton != "shop" {
		t.Errorf("%+v: %+v", res, rec)
	}
	w.refused(w.approve(a, "blue"), "proposal-closed")
	w.says(w.approve(w.named(ActionReserve, "shop", w.now+day, none), "red"), "name-taken", "of group demo")

	w.refused(w.approve(w.named(ActionRenew, "shop", w.now+30*day, none), "red"), "approval-invalid") // no later end
	w.ok(w.approve(w.named(ActionRenew, "shop", w.now+60*day, none), "red", "green"))
	if rec = record[HostNameRecord](w, KeyHostName("shop")); rec.Until != w.now+60*day || rec.Version != 2 {
		t.Errorf("%+v", rec)
	}
	rivals := eve.group
	w.refused(w.approve(w.named(ActionTransfer, "shop", 0, canon.Sum([]byte("nobody"))), "red"), "group-unknown")
	transfer := w.named(ActionTransfer, "shop", 0, rivals)
	release := w.named(ActionRelease, "shop", 0, none)
	w.ok(w.approve(release, "red"))
	w.ok(w.approve(transfer, "red", "green"))
	if rec = record[HostNameRecord](w, KeyHostName("shop")); rec.Group != rivals || rec.Version != 3 || rec.Until != w.now+60*day || rec.ID != res.ID {
		t.Errorf("%+v", rec)
	}
	if p := record[ProposalRecord](w, KeyProposal(w.approve(release).ID())); p.State != ProposalStale {
		t.Errorf("the release that can't be any more is %s", p.State)
	}
	w.refused(w.approve(w.named(ActionRenew, "shop", w.now+90*day, none), "red"), "name-taken")
	eve.ok(eve.approve(eve.named(ActionRelease, "shop", 0, none), "eve"))
	for _, key := range []string{KeyHostName("shop"), KeyLookalike("shop"), KeyHostNames(w.group), KeyHostNames(rivals)} {
		w.absent(key)
	}
	w.ok(w.approve(w.named(ActionReserve, "shop", w.now+day, none), "red", "green"))
	w.refused(w.approve(transfer, "blue"), "proposal-closed")
}

func TestATenantThatClaimsAnothersNameBeforeAndAfterExpiry(t *testing.T) {
	w := publicWorld(t)
	eve := w.as("rivals")
	until := w.now + 10*day
	w.ok(w.approve(w.named(ActionReserve, "shop", until, none), "red", "green"))
	host := hostRoute("shop." + domain)
	publish := func(code, part string) {
		t.Helper()
		w.says(eve.approve(eve.publish("theirs", onShared(0, host)), "eve"), code, part)
		w.says(eve.approve(eve.publish("theirs", onShared(0, hostRoute("a.b.shop."+domain))), "eve"), code, part)
	}
	claim := func(label, code, part string) {
		t.Helper()
		w.says(eve.approve(eve.named(ActionReserve, label, w.now+30*day, none), "eve"), code, part)
	}
	steal := func(action, code string, to canon.Hash) {
		t.Helper()
		a := eve.named(action, "shop", w.now+30*day, to)
		w.refused(eve.approve(a, "eve"), code)
		a.Group = w.group // in the owner's name, signed by herself
		if action == ActionTransfer || action == ActionRenew || action == ActionRelease {
			w.refused(w.approve(a, "eve"), "not-a-member")
		}
	}
	for _, now := range []uint64{start, until, until + 1, until + NameGrace} { // held, its last second, grace, its last second
		w.now, eve.now = now, now
		publish("name-taken", "of group demo")
		claim("shop", "name-taken", "of group demo")
		claim("sh0p", "name-lookalike", "shop, which is of group demo")
		steal(ActionRenew, "name-taken", none)
		steal(ActionRelease, "name-taken", none)
		steal(ActionTransfer, "name-taken", w.accounts["eve"])
	}
	// In grace its group can't publish, and can renew.
	w.says(w.approve(w.publish("shop", onShared(0, host)), "red"), "name-expired", "the name shop ended at 2027-01-25T")
	w.refused(w.approve(w.named(ActionTransfer, "shop", 0, eve.group), "red"), "name-expired")
	if _, err := Apply(w.copy(), w.now, w.tx(w.approve(w.named(ActionRenew, "shop", w.now+day, none), "red"))); err != nil {
		t.Errorf("in grace: %v", err)
	}
	// After grace it is free, and what looks like it.
	w.now++
	eve.now = w.now
	publish("name-unreserved", "nobody has reserved")
	free := w.copy()
	eve.ok(eve.approve(eve.named(ActionReserve, "sh0p", w.now+30*day, none), "eve"))
	w.absent(KeyHostName("shop"))
	w.says(w.approve(w.named(ActionReserve, "shop", w.now+30*day, none), "red"), "name-lookalike", "sh0p, which is of group rivals")
	w.st = free
	eve.st = free
	eve.ok(eve.approve(eve.named(ActionReserve, "shop", w.now+30*day, none), "eve"))
	eve.ok(eve.approve(eve.publish("theirs", onShared(0, host)), "eve"))
	w.says(w.approve(w.named(ActionRenew, "shop", w.now+90*day, none), "red"), "name-taken", "of group rivals")
	w.absent(KeyHostNames(w.group))
}

func TestAContractThatOutlivesItsNameIsNotServedAndNotRenewed(t *testing.T) {
	w := publicWorld(t)
	eve := w.as("rivals")
	host := "shop." + domain
	w.says(w.approve(w.publish("shop", onShared(0, hostRoute(host))), "red"), "name-unreserved", "nobody has reserved")
	w.says(w.approve(w.publish("shop", onShared(0, hostRoute(domain))), "red"), "name-unreserved", "own domain")
	w.ok(w.approve(w.named(ActionReserve, "shop", w.now+10*day, none), "red", "green"))
	id := w.ok(w.approve(w.publish("shop", onShared(0, hostRoute(host), hostRoute("api."+host))), "red", "green")).Contract
	w.ok(w.approve(w.named(ActionTransfer, "shop", 0, eve.group), "red", "green"))
	w.says(w.approve(w.republish(id, 1, "shop", onShared(0, hostRoute(host))), "red"), "name-taken", "of group rivals")
	// The new owner publishes at once: the old contract's claim does not stand in the way.
	eve.ok(eve.approve(eve.publish("theirs", onShared(0, hostRoute(host))), "eve"))
	w.ok(w.approve(w.republish(id, 1, "shop", onShared(0, hostRoute("www.shop.test"))), "red", "green"))
}

func TestWhoHoldsAHost(t *testing.T) {
	me, other := canon.Sum([]byte("me")), canon.Sum([]byte("other"))
	zone := Zone{Domain: domain}
	mine := HostNameRecord{Group: me, Until: 100}
	for name, c := range map[string]struct {
		zone Zone
		host string
		rec  HostNameRecord
		now  uint64
		own  bool
		code string
	}{
		"mine":                           {zone, "shop." + domain, mine, 50, false, ""},
		"mine, in its last second":       {zone, "shop." + domain, mine, 100, false, ""},
		"mine, over":                     {zone, "shop." + domain, mine, 101, false, "name-expired"},
		"below mine":                     {zone, "a.b.shop." + domain, mine, 50, false, ""},
		"another's":                      {zone, "shop." + domain, HostNameRecord{Group: other, Until: 100}, 50, false, "name-taken"},
		"another's, over":                {zone, "shop." + domain, HostNameRecord{Group: other, Until: 100}, 200, false, "name-taken"},
		"nobody's":                       {zone, "shop." + domain, HostNameRecord{}, 50, false, "name-unreserved"},
		"the domain itself":              {zone, domain, mine, 50, false, "name-unreserved"},
		"outside":                        {zone, "shop.test", mine, 500, true, ""},
		"above":                          {zone, "example", mine, 50, true, ""},
		"only ends like it":              {zone, "my" + domain, mine, 50, true, ""},
		"without a domain all is DNS's":  {Zone{}, "shop." + domain, mine, 50, true, ""},
		"without a domain, of one label": {Zone{}, "shop", mine, 50, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			own, err := JudgeHost(c.zone, c.host, c.rec, me, c.now)
			if own != c.own || problem.Code(err) != c.code || c.code == "" && err != nil {
				t.Errorf("%v, %v; want %v, code %q", own, err, c.own, c.code)
			}
		})
	}
	for host, want := range map[string]string{"shop.grid.example": "shop", "a.b.shop.grid.example": "shop", domain: "", "shop.test": "", ".grid.example": ""} {
		if got, _ := zone.Label(host); got != want {
			t.Errorf("label of %s: %q, want %q", host, got, want)
		}
	}
}

func TestLabelsThatLookAlikeHaveOneSkeleton(t *testing.T) {
	for _, alike := range [][]string{
		{"shop", "sh0p", "5hop", "sh-op", "s-h-o-p", "shopp", "sshoop", "sh00p", "5h0pp"},
		{"paypal", "paypa1", "paypai", "pay-pal", "paypall"},
		{"modern", "rnodern", "modem", "modem-", "moclem", "rnodem"},
		{"web", "vveb", "we8", "wweb", "vwe8"},
		{"cloud", "doud", "c1oud", "ciouci"},
		{"google", "g00gle", "goog1e", "gooqle", "9oogle", "gogle"},
		{"zoo", "200", "20", "z0"},
		{"team1", "teaml", "team-1", "teami", "team11", "tearn1"},
	} {
		for _, label := range alike[1:] {
			if Skeleton(label) != Skeleton(alike[0]) {
				t.Errorf("%s is %s, %s is %s", label, Skeleton(label), alike[0], Skeleton(alike[0]))
			}
		}
	}
	different := []string{"shop", "shap", "stop", "web", "wob", "team1", "team2", "team3", "team4", "paypal", "payroll", "a", "b", "c", "mail", "maple", "u", "v", "w", "x", "ide", "idle"}
	seen := map[string]string{}
	for _, label := range different {
		if other, ok := seen[Skeleton(label)]; ok {
			t.Errorf("%s and %s are both %s", label, other, Skeleton(label))
		}
		seen[Skeleton(label)] = label
	}
}

// FuzzSkeleton: what is drawn alike can be exchanged anywhere and changes nothing,
// a skeleton is its own, and it is never empty for a label.
func FuzzSkeleton(f *testing.F) {
	for _, s := range []string{"shop", "vvv", "rnrn", "clcl", "ccl", "a-b", "rr-nn", "0123456789"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, label string) {
		if !plan.ValidLabel(label) {
			return
		}
		s := Skeleton(label)
		if s == "" || Skeleton(s) != s || len(s) > 2*len(label) {
			t.Errorf("%q: %q, then %q", label, s, Skeleton(s))
		}
		swap := strings.NewReplacer("0", "o", "o", "0", "1", "l", "l", "i", "i", "1", "5", "s", "s", "5", "m", "rn", "w", "vv", "d", "cl")
		if other := swap.Replace(label); Skeleton(other) != s {
			t.Errorf("%q is %q, %q is %q", label, s, other, Skeleton(other))
		}
	})
}

func TestLookAlikesAreOneGroupsOnly(t *testing.T) {
	w := publicWorld(t)
	eve := w.as("rivals")
	w.ok(w.approve(w.named(ActionReserve, "shop", w.now+10*day, none), "red", "green"))
	w.ok(w.approve(w.named(ActionReserve, "sh0p", w.now+10*day, none), "red", "green"))
	if got := record[LookalikeRecord](w, KeyLookalike("shop")).Labels; fmt.Sprint(got) != "[sh0p shop]" {
		t.Errorf("labels: %v", got)
	}
	// One of them alone can't be given away.
	w.says(w.approve(w.named(ActionTransfer, "shop", 0, eve.group), "red"), "name-lookalike", "sh0p, which is of group demo")
	w.ok(w.approve(w.named(ActionRelease, "sh0p", 0, none), "red", "green"))
	w.ok(w.approve(w.named(ActionTransfer, "shop", 0, eve.group), "red", "green"))
	w.refused(w.approve(w.named(ActionReserve, "sh0p", w.now+11*day, none), "red"), "name-lookalike")
	eve.ok(eve.approve(eve.named(ActionReserve, "5hop", w.now+10*day, none), "eve"))
}

func TestNameApprovalsThatContradictThemselvesAreRefused(t *testing.T) {
	w := publicWorld(t)
	w.ok(w.approve(w.named(ActionReserve, "mine", w.now+10*day, none), "red", "green"))
	standing := record[HostNameRecord](w, KeyHostName("mine"))
	reserve := func() Approval { return w.named(ActionReserve, "shop", w.now+day, none) }
	renew := func() Approval { return w.named(ActionRenew, "mine", w.now+20*day, none) }
	for name, c := range map[string]struct {
		a     Approval
		spoil func(*Approval)
		code  string
	}{
		"a reservation of another":    {reserve(), func(a *Approval) { a.Contract = standing.ID }, "approval-invalid"},
		"a reservation of version 2":  {reserve(), func(a *Approval) { a.Version = 2 }, "stale-version"},
		"a renewal of none":           {renew(), func(a *Approval) { a.Contract = none }, "approval-invalid"},
		"a renewal of version 1":      {renew(), func(a *Approval) { a.Version = 1 }, "stale-version"},
		"a renewal of version 3":      {renew(), func(a *Approval) { a.Version = 3 }, "stale-version"},
		"a renewal of another":        {renew(), func(a *Approval) { a.Contract = w.group }, "wrong-contract"},
		"another name than the plan":  {reserve(), func(a *Approval) { a.Name = "else" }, "approval-invalid"},
		"an unknown action":           {reserve(), func(a *Approval) { a.Action = "steal" }, "approval-invalid"},
		"an action of contracts":      {reserve(), func(a *Approval) { a.Action = ActionDeploy }, "approval-invalid"},
		"an unknown class":            {reserve(), func(a *Approval) { a.Class = "names" }, "class-unknown"},
		"the class of contracts":      {reserve(), func(a *Approval) { a.Class = ClassWorkload }, "plan-invalid"},
		"a contract's plan":           {reserve(), func(a *Approval) { a.Plan = w.deploy("shop", w.job("web", w.slots[0])).Plan }, "plan-invalid"},
		"a short nonce":               {reserve(), func(a *Approval) { a.Nonce = a.Nonce[1:] }, "approval-invalid"},
		"another epoch":               {reserve(), func(a *Approval) { a.GroupEpoch = 2 }, "stale-epoch"},
		"expired":                     {reserve(), func(a *Approval) { a.Expiry = w.now - 1 }, "proposal-expired"},
		"a year and two days":         {w.named(ActionReserve, "shop", w.now+368*day, none), nil, "expiry-too-far"},
		"renewed too far":             {w.named(ActionRenew, "mine", w.now+368*day, none), nil, "expiry-too-far"},
		"an end that has passed":      {w.named(ActionReserve, "shop", w.now, none), nil, "name-expired"},
		"a transfer to oneself":       {w.named(ActionTransfer, "mine", 0, w.group), nil, "approval-invalid"},
		"a transfer to nobody":        {w.named(ActionTransfer, "mine", 0, none), nil, "approval-invalid"},
		"a renewal for another":       {w.named(ActionRenew, "mine", w.now+20*day, w.farm), nil, "approval-invalid"},
		"the domain's name server":    {w.named(ActionReserve, "ns1", w.now+day, none), nil, "name-reserved"},
		"what programs ask for":       {w.named(ActionReserve, "wpad", w.now+day, none), nil, "name-reserved"},
		"a name that nobody reserved": {w.named(ActionRelease, "shop", 0, none), func(a *Approval) { a.Version, a.Contract = 2, w.group }, "name-unreserved"},
		"the full year":               {w.named(ActionReserve, "shop", w.now+366*day, none), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if c.spoil != nil {
				c.spoil(&c.a)
			}
			_, err := Apply(w.copy(), w.now, w.tx(w.approve(c.a, "red", "green")))
			if problem.Code(err) != c.code || c.code == "" && err != nil {
				t.Errorf("%v, want code %q", err, c.code)
			}
		})
	}
	bad := plan.Name{V: plan.Version, Label: "xn--shp-tna", Until: w.now + day}
	if _, err := NewNameApproval(w.grid, w.group, ActionReserve, bad, HostNameRecord{}, 1, NewNonce(), later); problem.Code(err) != "plan-invalid" {
		t.Errorf("an internationalised label: %v", err)
	}
}

func TestADeploymentAndANameOfOneNameDontCloseEachOther(t *testing.T) {
	w := publicWorld(t)
	deploy := w.deploy("shop", w.job("web", w.slots[0]))
	reserve := w.named(ActionReserve, "shop", w.now+day, none)
	second := w.named(ActionReserve, "shop", w.now+2*day, none)
	for _, a := range []Approval{deploy, reserve, second} {
		w.ok(w.approve(a, "red"))
	}
	w.ok(w.approve(reserve, "green"))
	if p := record[ProposalRecord](w, KeyProposal(w.approve(second).ID())); p.State != ProposalStale {
		t.Errorf("the second reservation is %s", p.State)
	}
	if !w.ok(w.approve(deploy, "green")).Accepted {
		t.Error("the deployment did not go on")
	}
}

func TestAGroupHasABoundedNumberOfNames(t *testing.T) {
	w := publicWorld(t)
	eve := w.as("rivals")
	// Distinct labels in digits that no skeleton maps or folds: base 4 of 3467.
	label := func(n int) string {
		s := "n"
		for range 5 {
			s += string("3467"[n%4]) + "x"
			n /= 4
		}
		return s
	}
	for n := range MaxHostNames {
		eve.ok(eve.approve(eve.named(ActionReserve, label(n), eve.now+10*day, none), "eve"))
	}
	one := eve.named(ActionReserve, label(MaxHostNames), eve.now+10*day, none)
	w.refused(eve.approve(one, "eve"), "too-many-names")
	// Given away it still counts for the giver, so nobody can be filled up by gifts …
	eve.ok(eve.approve(eve.named(ActionTransfer, label(0), 0, w.group), "eve"))
	w.refused(eve.approve(one, "eve"), "too-many-names")
	w.absent(KeyHostNames(w.group))
	// … until who received it renews or releases it.
	w.ok(w.approve(w.named(ActionRenew, label(0), w.now+20*day, none), "red", "green"))
	eve.ok(eve.approve(one, "eve"))
	if n := record[HostNamesRecord](w, KeyHostNames(w.group)).Count; n != 1 {
		t.Errorf("%d names count for who renewed one", n)
	}
	eve.ok(eve.approve(eve.named(ActionRelease, label(1), 0, none), "eve"))
	if n := record[HostNamesRecord](w, KeyHostNames(eve.group)).Count; n != MaxHostNames-1 {
		t.Errorf("%d names count", n)
	}
}

func TestANamesRecordIsWorthWhatItsQuorumSigned(t *testing.T) {
	w := publicWorld(t)
	w.ok(w.approve(w.named(ActionReserve, "shop", w.now+10*day, none), "red", "green"))
	rec := record[HostNameRecord](w, KeyHostName("shop"))
	group := w.signed["demo"]
	members := []Signed{w.signed["red"], w.signed["green"], w.signed["blue"]}
	forged := w.approve(w.named(ActionRenew, "shop", w.now+20*day, none), "red")
	for name, c := range map[string]struct {
		spoil func(*HostNameRecord)
		group Signed
		code  string
	}{
		"true":               {func(*HostNameRecord) {}, group, ""},
		"a longer end":       {func(r *HostNameRecord) { r.Until++ }, group, "record-mismatch"},
		"another owner":      {func(r *HostNameRecord) { r.Group = w.farm }, group, "record-mismatch"},
		"another version":    {func(r *HostNameRecord) { r.Version++ }, group, "record-mismatch"},
		"another id":         {func(r *HostNameRecord) { r.ID = w.farm }, group, "record-mismatch"},
		"one signature less": {func(r *HostNameRecord) { r.Signed.Signatures = r.Signed.Signatures[:1] }, group, "approvals-insufficient"},
		"approved by one": {func(r *HostNameRecord) {
			r.Signed, r.Until, r.Version = forged, w.now+20*day, 2
		}, group, "approvals-insufficient"},
		"another group": {func(*HostNameRecord) {}, w.signed["rivals"], "group-untrusted"},
		"a contract's approval": {func(r *HostNameRecord) {
			r.Signed = w.approve(w.deploy("shop", w.job("web", w.slots[0])), "red", "green")
		}, group, "class-unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			r := rec
			c.spoil(&r)
			if err := JudgeName(w.grid, "shop", r, c.group, members); problem.Code(err) != c.code || c.code == "" && err != nil {
				t.Errorf("%v, want code %q", err, c.code)
			}
		})
	}
	if err := JudgeName(w.grid, "else", rec, group, members); problem.Code(err) != "record-mismatch" {
		t.Errorf("under another label: %v", err)
	}
	w.ok(w.approve(w.named(ActionTransfer, "shop", 0, w.as("rivals").group), "red", "green"))
	if err := JudgeName(w.grid, "shop", record[HostNameRecord](w, KeyHostName("shop")), group, members); err != nil {
		t.Errorf("after a transfer: %v", err)
	}
}

func TestANameApprovalIsShownAsWhatItIs(t *testing.T) {
	w := publicWorld(t)
	s := w.approve(w.named(ActionReserve, "shop", 1_900_000_000, none))
	lines, err := Describe(s.Statement)
	if err != nil {
		t.Fatal(err)
	}
	shown := strings.Join(lines, "\n")
	for _, want := range []string{`action         "reserve"`, `class          "name"`, `  label          "shop"`, "  until          1900000000 (2030-03-17T17:46:40Z)", "  to             none"} {
		if !strings.Contains(shown, want) {
			t.Errorf("not shown: %s\n%s", want, shown)
		}
	}
}

func TestAPoolIsShownAsWhatItIs(t *testing.T) {
	w := newWorld(t)
	p := somePool(w, 0, 7)
	p.ACME, p.Roots = "https://acme.example/dir", [][]byte{bytes.Repeat([]byte{0x30}, 100)}
	lines, err := Describe(w.sign(p, KindPool, "farm").Statement)
	if err != nil {
		t.Fatal(err)
	}
	shown := strings.Join(lines, "\n")
	for _, want := range []string{`kind           "zos-pool-v1"`, `mac            "52:54:00:aa:00:01"`, "ranges-1", `  prefix         "198.51.100.0/24"`, `  first          "198.51.100.10"`,
		`shared-2       "198.51.100.11"`, "first          20000", "last           20100", `acme           "https://acme.example/dir"`, "roots-1        100 bytes, SHA-256 ", "sequence       7"} {
		if !strings.Contains(shown, want) {
			t.Errorf("not shown: %s\n%s", want, shown)
		}
	}
}
