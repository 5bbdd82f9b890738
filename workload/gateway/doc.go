// Package gateway runs workloads of kind "gateway": what of tenants' networks the
// world reaches.
//
// What exists on a node, for contract C and workload W:
//
//	<netns>/public      the public network namespace: the farm's card, and nothing else
//	<run>/control       the socket at which the gateway process awaits the daemon
//	<run>/process.json  which process that is
//	<run>/process.err   what it said when it died
//	<run>/root          where its own root is mounted, in its own mount namespace
//	<run>/w/C-W.json    the gateway, and the plan that it is part of
//	<data>/C/W/log/     its access log (package workload/logs)
//	<data>/C/.store/    certificates that C's gateways share, encrypted
//	netns w-C-W         W's own namespace, attached to its networks like a container's
//
// # Who may what
//
// One process serves all gateways of a node. It is in the public namespace and
// reads what strangers send, so it has no right at all (package sandbox), and no
// way into a network: it asks for sockets, and the broker here makes them in the
// namespace of the very gateway that they are for, from which nodes let packets go
// to published ports alone. What it says is bounded (package gateway/control). Under
// the grid's domain it can have a record set for hosts alone whose TLS it ends: the
// answer to a certificate authority, which goes over the ledger, where the rules look
// at the plan once more.
//
// The public namespace takes nothing in but the ports that are published, lets
// out answers and what certificates need, and forwards nothing. No packet goes
// between it and the node's own namespace: there is no interface that is in both.
//
// # While the daemon is away
//
// The process goes on with what it has: connections live, and new ones are made
// with the sockets that it keeps ready. The next daemon finds it by its socket,
// asks the kernel who it is, and goes on with it if it is confined as it should be.
package gateway
