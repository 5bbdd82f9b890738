// Package yield lets workloads that use the processor time which they were promised
// give way to those that leave theirs.
//
// Every workload has a hard limit of processor time. Where a farm promises no more than
// its machine has, each workload gets what it was promised, whoever comes first when
// two want a processor; what the order decides is latency. So a workload that has been computing
// without a pause goes behind one that answers a request now and then: its cgroup is
// idle (cpu.idle), which the kernel puts behind all others at once, and ahead of
// nobody. Between two that both compute nothing changes. Where a farm promises more than
// there is, those who compute share what the others leave.
//
// Tried and left: weights in proportion to limits, which say nothing of two workloads
// with equal limits. And shims that yield, with whatever is being started: beside one that
// runs out of memory again and again a neighbour's p99 rose to 1.1x instead of 3.3x, but
// on a node of one processor that starts ten containers at once, shims did not end within
// their minutes.
package yield
