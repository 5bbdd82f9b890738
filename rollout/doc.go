// Package rollout decides whose turn it is: what a node may start, replace or take
// back while nodes go from one version of a plan to the next, each on its own, with
// what it has proven of the others.
//
// It is pure: plans, what is known of each workload, what the node remembers and the
// time go in; steps and what to remember come out. What is known may be late; it only
// ever makes a node wait longer. It keeps these promises:
//
//   - While an update goes well, at most MaxUnavailable workloads of a replica set are
//     away from running and healthy, whoever sees what when.
//   - No workload starts before those that it comes after were seen ready.
//   - Once a node has seen that the update failed and goes back, it never goes on with
//     that version; and every node that hears of it goes back.
//   - Where a node has no room left, nothing of the version before holds more than the
//     newest plan asks for: that alone the ledger counts.
//   - Nobody waits for ever on something but a workload that is not ready, and on the
//     way back not longer than the update's deadline.
//
// Workloads of a replica set are replaced in an order that each node finds alone: by
// how long the chain of workloads is that they come after, then by name. For replicas
// that come after the same ones this is the order of names.
package rollout
