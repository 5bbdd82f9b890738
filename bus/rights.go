package bus

import (
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// What nodes answer and only reads.
const (
	MethodStatus    = "workload.status" // of the workloads of one contract
	MethodLogs      = "workload.logs"   // of one workload, followed or not
	MethodNode      = "node.status"     // the node's own state
	MethodResources = "node.resources"  // mounts, cgroups, namespaces, interfaces, bytes
	MethodNetwork   = "network.status"  // of the networks of one contract, as this node has them
	MethodGateway   = "gateway.status"  // of the gateways of one contract on this node
	MethodDevice    = "network.device"  // configuration of a person's device; only its own account's, says the node

	MethodEvents      = "workload.events"  // what happened to one contract's workloads, followed or not
	MethodMetrics     = "workload.metrics" // what one contract's workloads use now
	MethodNodeMetrics = "node.metrics"     // what the node has and uses

	// MethodRenew keeps a stream alive. The bus answers it itself, under the
	// rights of the stream's own method.
	MethodRenew = "stream.renew"
)

// What members do to a running workload, if its plan says that they may. The first
// four are duplex streams, the others calls.
const (
	MethodExec    = "workload.exec"    // runs a program inside it
	MethodConsole = "workload.console" // attaches to a machine's serial console
	MethodGet     = "workload.get"     // reads a file or a tree out of it
	MethodPut     = "workload.put"     // writes a file or a tree into it
	MethodRestart = "workload.restart" // ends it and starts it again
	MethodSignal  = "workload.signal"  // sends a signal to its first process
)

// acts are the methods that act on a workload: how each is carried, and which of
// the plan's grants it needs.
var acts = map[string]struct {
	duplex bool
	class  string // the field of the spec
	grant  func(plan.Access) string
}{
	MethodExec:    {true, "exec", func(a plan.Access) string { return a.Exec }},
	MethodConsole: {true, "console", func(a plan.Access) string { return a.Console }},
	MethodGet:     {true, "files", func(a plan.Access) string { return a.Files }},
	MethodPut:     {true, "files", func(a plan.Access) string { return a.Files }},
	MethodRestart: {false, "restart", func(a plan.Access) string { return a.Restart }},
	MethodSignal:  {false, "restart", func(a plan.Access) string { return a.Restart }},
}

// Facts are what a node has proven from the ledger when it decides whether to
// answer. They concern the contract that the request names.
type Facts struct {
	// FarmKey is the key of the farm that owns the node's slot.
	FarmKey sign.PublicKey
	// Contract tells whether the named contract stands and has a workload here.
	Contract bool
	// Members are the keys of the accounts in the contract's group, at its
	// present epoch.
	Members []sign.PublicKey
	// Access is what the contract's present plan lets members do to each of its
	// workloads on this node, by name. A workload that is not in it has no grants.
	Access map[string]plan.Access
	// Stale tells that the newest proven block is older than the grid allows: a
	// cancellation may be hidden, so nothing but reading is allowed.
	Stale bool
}

// Allowed decides whether the holder of a key may use a method. Its errors have
// the codes "unknown-method", "request-invalid" and "not-permitted"; who is not
// permitted does not learn whether the contract exists. A member to whom the plan
// grants nothing is told "access-not-granted", or "workload-unknown".
//
//	method            contract  farm key  group member  anyone else
//	workload.status   named     no        yes           no
//	workload.logs     named     no        yes           no
//	network.status    named     no        yes           no
//	gateway.status    named     no        yes           no
//	network.device    named     no        yes           no
//	workload.events   named     no        yes           no
//	workload.metrics  named     no        yes           no
//	node.status       none      yes       no            no
//	node.resources    none      yes       no            no
//	node.metrics      none      yes       no            no
//	workload.exec     named     no        if granted    no
//	workload.console  named     no        if granted    no
//	workload.get      named     no        if granted    no
//	workload.put      named     no        if granted    no
//	workload.restart  named     no        if granted    no
//	workload.signal   named     no        if granted    no
//
// What is granted, the plan says per workload; and a node whose view of the ledger
// is stale grants none of it. Session keys, which only read, are refused before.
//
// The owner of the hardware reads no tenant's logs here, and a tenant does not
// read the node.
func Allowed(caller sign.PublicKey, method string, contract canon.Hash, workload string, f Facts) error {
	refused := problem.New("not-permitted", "%s: the key %s has no right to it", method, caller.Fingerprint())
	right, act := acts[method]
	switch method {
	case MethodExec, MethodConsole, MethodGet, MethodPut, MethodRestart, MethodSignal,
		MethodStatus, MethodLogs, MethodNetwork, MethodGateway, MethodDevice, MethodEvents, MethodMetrics:
		if contract.IsZero() {
			return problem.New("request-invalid", "%s: no contract is named", method)
		}
		if !f.Contract || !slices.ContainsFunc(f.Members, func(m sign.PublicKey) bool { return len(m) > 0 && m.Equal(caller) }) {
			return refused.WithFix("ask as a member of the contract's group, and the node that runs it")
		}
		if !act {
			return nil
		}
		granted, known := f.Access[workload]
		switch {
		case !known:
			return problem.New("workload-unknown", "%s: the contract has no workload %.80q on this node", method, workload)
		case right.grant(granted) != plan.AccessMembers:
			return problem.New("access-not-granted", "%s: the plan of workload %s grants nobody %s", method, workload, right.class).
				WithFix("let the spec say access: {%s: members} and have it approved", right.class)
		case f.Stale:
			return problem.New("head-stale", "%s: the node's newest proven block is too old to act on", method).
				WithFix("wait until the node reaches the ledger again")
		}
		return nil
	case MethodNode, MethodResources, MethodNodeMetrics:
		if !contract.IsZero() {
			return problem.New("request-invalid", "%s: it is about the node, but a contract is named", method)
		}
		if len(f.FarmKey) > 0 && f.FarmKey.Equal(caller) {
			return nil
		}
		return refused.WithFix("ask with the key of the farm that owns the node")
	}
	return problem.New("unknown-method", "%.64q is no method that nodes answer", method)
}
