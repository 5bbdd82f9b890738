// Package escape says what a workload of each isolation class is denied, and proves
// it: a program (./program) tries from inside what leads out of a container, and
// prints what surrounds it. It is test support.
//
// What it tries: mounts, pivot_root, setns,
// unshare, /proc and /sys, cgroups, descriptors that a runtime leaves, links and
// races, devices, keys, bpf, io_uring, userfaultfd, perf, modules, clocks, rights,
// and sockets that reach past the workload's own network.
//
//	program := escape.Build(t)               // static; put it into an image
//	escape.Check(t, escape.MicroVM, func(t testing.TB, arg string) string {
//		return outputOf(t, "/bin/program", arg) // run it in a workload, to its end
//	})
//
// Check asserts each attempt's outcome, by the table in expected.go, and what the
// probe prints, against testdata/CLASS.golden; a run with UpdateEnv set writes the latter.
//
// In class Privileged the program may do to its guest what it likes; what is asserted
// is that the node is the same afterwards: take Node before and after.
//
// The probe's verdicts about system calls are those of seccomp filters alone: it adds
// a filter that is asked last, and none of the calls is made. It needs no privilege.
//
// What it does not do: it finds no unknown hole, and it is no proof about QEMU. The
// devices of a virtual machine are attacked by tests of their own.
package escape
