package bus

import (
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// TestRightsTruthTable asks for every method, with and without a contract, as
// everyone, over every state of the facts.
func TestRightsTruthTable(t *testing.T) {
	key := func(n byte) sign.PublicKey { return sign.FromSeed([32]byte{n}).Public() }
	farm, member, second, outsider := key(1), key(2), key(3), key(4)
	c := canon.Sum([]byte("contract"))
	standing := Facts{FarmKey: farm, Contract: true, Members: []sign.PublicKey{member, second}}
	gone := Facts{FarmKey: farm}
	// Facts that contradict themselves give nothing either.
	notHere := Facts{FarmKey: farm, Members: []sign.PublicKey{member}}
	empty := Facts{Contract: true, Members: []sign.PublicKey{nil, {}}}
	const ok, no, bad, unknown = "", "not-permitted", "request-invalid", "unknown-method"
	for _, tc := range []struct {
		method   string
		contract canon.Hash
		facts    Facts
		farm     string
		member   string
		second   string
		outsider string
		nobody   string // an empty key
	}{
		{MethodStatus, c, standing, no, ok, ok, no, no},
		{MethodStatus, c, gone, no, no, no, no, no},
		{MethodStatus, c, notHere, no, no, no, no, no},
		{MethodStatus, c, empty, no, no, no, no, no},
		{MethodStatus, canon.Hash{}, standing, bad, bad, bad, bad, bad},
		{MethodLogs, c, standing, no, ok, ok, no, no},
		{MethodLogs, c, gone, no, no, no, no, no},
		{MethodLogs, c, notHere, no, no, no, no, no},
		{MethodLogs, c, empty, no, no, no, no, no},
		{MethodLogs, canon.Hash{}, standing, bad, bad, bad, bad, bad},
		{MethodNetwork, c, standing, no, ok, ok, no, no},
		{MethodNetwork, c, gone, no, no, no, no, no},
		{MethodNetwork, c, notHere, no, no, no, no, no},
		{MethodNetwork, c, empty, no, no, no, no, no},
		{MethodNetwork, canon.Hash{}, standing, bad, bad, bad, bad, bad},
		{MethodGateway, c, standing, no, ok, ok, no, no},
		{MethodGateway, c, gone, no, no, no, no, no},
		{MethodGateway, c, notHere, no, no, no, no, no},
		{MethodGateway, c, empty, no, no, no, no, no},
		{MethodGateway, canon.Hash{}, standing, bad, bad, bad, bad, bad},
		{MethodDevice, c, standing, no, ok, ok, no, no},
		{MethodDevice, c, gone, no, no, no, no, no},
		{MethodDevice, c, notHere, no, no, no, no, no},
		{MethodDevice, c, empty, no, no, no, no, no},
		{MethodDevice, canon.Hash{}, standing, bad, bad, bad, bad, bad},
		{MethodNode, canon.Hash{}, standing, ok, no, no, no, no},
		{MethodNode, canon.Hash{}, gone, ok, no, no, no, no},
		{MethodNode, canon.Hash{}, empty, no, no, no, no, no},
		{MethodNode, c, standing, bad, bad, bad, bad, bad},
		{MethodResources, canon.Hash{}, standing, ok, no, no, no, no},
		{MethodResources, canon.Hash{}, empty, no, no, no, no, no},
		{MethodResources, c, standing, bad, bad, bad, bad, bad},
		{MethodRenew, c, standing, unknown, unknown, unknown, unknown, unknown},
		{"", c, standing, unknown, unknown, unknown, unknown, unknown},
		{"workload.attach", c, standing, unknown, unknown, unknown, unknown, unknown},
		{MethodEvents, c, standing, no, ok, ok, no, no},
		{MethodEvents, c, gone, no, no, no, no, no},
		{MethodEvents, c, notHere, no, no, no, no, no},
		{MethodEvents, canon.Hash{}, standing, bad, bad, bad, bad, bad},
		{MethodMetrics, c, standing, no, ok, ok, no, no},
		{MethodMetrics, c, gone, no, no, no, no, no},
		{MethodMetrics, c, notHere, no, no, no, no, no},
		{MethodMetrics, canon.Hash{}, standing, bad, bad, bad, bad, bad},
		{MethodNodeMetrics, canon.Hash{}, standing, ok, no, no, no, no},
		{MethodNodeMetrics, canon.Hash{}, empty, no, no, no, no, no},
		{MethodNodeMetrics, c, standing, bad, bad, bad, bad, bad},
	} {
		for _, who := range []struct {
			name string
			key  sign.PublicKey
			want string
		}{{"farm", farm, tc.farm}, {"member", member, tc.member}, {"second", second, tc.second}, {"outsider", outsider, tc.outsider}, {"nobody", nil, tc.nobody}} {
			err := Allowed(who.key, tc.method, tc.contract, "", tc.facts)
			if got := problem.Code(err); got != who.want || (err == nil) != (who.want == ok) {
				t.Errorf("%s asks %q, contract %v, %+v: %v, want %q", who.name, tc.method, !tc.contract.IsZero(), tc.facts, err, who.want)
			}
		}
	}
}

// TestActingTruthTable asks for every method that acts on a workload, with each of
// the plan's grants alone, all and none, as everyone, over every state of the
// facts. The farm that owns the machine may none of it.
func TestActingTruthTable(t *testing.T) {
	key := func(n byte) sign.PublicKey { return sign.FromSeed([32]byte{n}).Public() }
	farm, member, outsider := key(1), key(2), key(3)
	c := canon.Sum([]byte("contract"))
	none := plan.Access{Exec: plan.AccessNone, Console: plan.AccessNone, Files: plan.AccessNone, Restart: plan.AccessNone}
	grants := map[string]plan.Access{"none": none, "unsaid": {}, "odd": {Exec: "everybody", Console: "*", Files: "member", Restart: "yes"}}
	for class, set := range map[string]func(*plan.Access){
		"exec":    func(a *plan.Access) { a.Exec = plan.AccessMembers },
		"console": func(a *plan.Access) { a.Console = plan.AccessMembers },
		"files":   func(a *plan.Access) { a.Files = plan.AccessMembers },
		"restart": func(a *plan.Access) { a.Restart = plan.AccessMembers },
	} {
		a := none
		set(&a)
		grants[class] = a
	}
	needs := map[string]string{
		MethodExec: "exec", MethodConsole: "console", MethodGet: "files", MethodPut: "files", MethodRestart: "restart", MethodSignal: "restart",
	}
	if len(needs) != len(acts) {
		t.Fatalf("%d methods act, the table has %d", len(acts), len(needs))
	}
	tried := 0
	for method, class := range needs {
		for grant, access := range grants {
			for name, f := range map[string]Facts{
				"standing": {FarmKey: farm, Contract: true, Members: []sign.PublicKey{member}, Access: map[string]plan.Access{"web": access}},
				"stale":    {FarmKey: farm, Contract: true, Members: []sign.PublicKey{member}, Access: map[string]plan.Access{"web": access}, Stale: true},
				"gone":     {FarmKey: farm, Members: []sign.PublicKey{member}, Access: map[string]plan.Access{"web": access}},
				"other":    {FarmKey: farm, Contract: true, Members: []sign.PublicKey{member}, Access: map[string]plan.Access{"db": access}},
				"unsaid":   {FarmKey: farm, Contract: true, Members: []sign.PublicKey{member}},
			} {
				want := ""
				switch {
				case name == "gone":
					want = "not-permitted"
				case name == "other" || name == "unsaid":
					want = "workload-unknown"
				case grant != class:
					want = "access-not-granted"
				case name == "stale":
					want = "head-stale"
				}
				for who, tc := range map[string]struct {
					key  sign.PublicKey
					want string
				}{"member": {member, want}, "farm": {farm, "not-permitted"}, "outsider": {outsider, "not-permitted"}, "nobody": {nil, "not-permitted"}} {
					tried++
					if got := problem.Code(Allowed(tc.key, method, c, "web", f)); got != tc.want {
						t.Errorf("%s asks %s, granted %s, facts %s: %q, want %q", who, method, grant, name, got, tc.want)
					}
				}
				if got := problem.Code(Allowed(member, method, canon.Hash{}, "web", f)); got != "request-invalid" {
					t.Errorf("%s without a contract: %q", method, got)
				}
			}
		}
		if reads(method) {
			t.Errorf("a session may use %s", method)
		}
	}
	if want := 6 * 7 * 5 * 4; tried != want {
		t.Errorf("%d cases, want %d", tried, want)
	}
}
