package bus

import (
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
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
		{"workload.exec", c, standing, unknown, unknown, unknown, unknown, unknown},
	} {
		for _, who := range []struct {
			name string
			key  sign.PublicKey
			want string
		}{{"farm", farm, tc.farm}, {"member", member, tc.member}, {"second", second, tc.second}, {"outsider", outsider, tc.outsider}, {"nobody", nil, tc.nobody}} {
			err := Allowed(who.key, tc.method, tc.contract, tc.facts)
			if got := problem.Code(err); got != who.want || (err == nil) != (who.want == ok) {
				t.Errorf("%s asks %q, contract %v, %+v: %v, want %q", who.name, tc.method, !tc.contract.IsZero(), tc.facts, err, who.want)
			}
		}
	}
}
