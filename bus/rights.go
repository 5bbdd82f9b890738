package bus

import (
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// What nodes answer. All of these only read.
const (
	MethodStatus    = "workload.status" // of the workloads of one contract
	MethodLogs      = "workload.logs"   // of one workload, followed or not
	MethodNode      = "node.status"     // the node's own state
	MethodResources = "node.resources"  // mounts, cgroups, namespaces, interfaces, bytes
	MethodNetwork   = "network.status"  // of the networks of one contract, as this node has them
	MethodGateway   = "gateway.status"  // of the gateways of one contract on this node
	MethodDevice    = "network.device"  // configuration of a person's device; only its own account's, says the node

	// MethodRenew keeps a stream alive. The bus answers it itself, under the
	// rights of the stream's own method.
	MethodRenew = "stream.renew"
)

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
}

// Allowed decides whether the holder of a key may use a method. Its errors have
// the codes "unknown-method", "request-invalid" and "not-permitted"; who is not
// permitted does not learn whether the contract exists.
//
//	method            contract  farm key  group member  anyone else
//	workload.status   named     no        yes           no
//	workload.logs     named     no        yes           no
//	network.status    named     no        yes           no
//	gateway.status    named     no        yes           no
//	network.device    named     no        yes           no
//	node.status       none      yes       no            no
//	node.resources    none      yes       no            no
//
// The owner of the hardware reads no tenant's logs here, and a tenant does not
// read the node.
func Allowed(caller sign.PublicKey, method string, contract canon.Hash, f Facts) error {
	refused := problem.New("not-permitted", "%s: the key %s has no right to it", method, caller.Fingerprint())
	switch method {
	case MethodStatus, MethodLogs, MethodNetwork, MethodGateway, MethodDevice:
		if contract.IsZero() {
			return problem.New("request-invalid", "%s: no contract is named", method)
		}
		if !f.Contract {
			return refused.WithFix("ask as a member of the contract's group, and the node that runs it")
		}
		for _, m := range f.Members {
			if len(m) > 0 && m.Equal(caller) {
				return nil
			}
		}
		return refused.WithFix("ask as a member of the contract's group, and the node that runs it")
	case MethodNode, MethodResources:
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
