// Package soak is what is asked of a node that runs for a long time: workloads come
// and go a thousand times while what keeps them is killed, fills up or loses the
// time, and nothing may be left of them; and hostile tenants do what they can while a
// neighbour of theirs is measured.
//
// "make soak" runs both, with the real runc, zos-shim, QEMU, virtiofsd, agent and
// networks, under the node's kernel in an emulated machine. What happens in a cycle is
// drawn from a seed (Draw), so that a run can be had again. docs/reference/benchmarks.md
// has the last results.
//
// The node daemon of these runs is a process, or an object of this one, that has the
// kinds of a node (container, network) and calls Ensure and Remove as the reconciler
// does; a fresh one takes over from one that was killed. What it does not have: flists
// of the store (root file systems are overlays of a directory), the ledger, WireGuard.
package soak
