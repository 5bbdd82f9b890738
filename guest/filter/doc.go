// Package filter is the seccomp filter that programs in micro-VMs run under: the one
// that programs in namespaces get from runc and libseccomp, call by call.
//
// A guest has neither of them, so the filter is made beforehand from the same profile
// (package compile) and is a part of the agent: starting a guest costs nothing for it, and
// nothing that a node is sent can change it. A test compares what is embedded with
// what the profile says today; `go test ./guest/filter -update` writes it anew.
//
// Two differences, both stricter: calls of the x32 kind are answered with ENOSYS by
// the filter and not by the kernel after it, and another architecture than x86-64 and
// i386 ends the program.
package filter
