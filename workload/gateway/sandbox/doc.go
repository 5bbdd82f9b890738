// Package sandbox takes every right from a process that reads what strangers
// send, before it reads any of it.
//
// The process is started in network, process, mount, IPC and host-name namespaces
// of its own (Attr), as root. Confine, its first half, gives it a file system of
// its own, read-only, in which there is nothing but the program, lets go of all
// capabilities for good, becomes an unprivileged user and executes the program
// again. Filter, the first thing that the second half does, leaves it the system
// calls of a network server and no others. Check tells whether all that is so, by
// the kernel's word.
package sandbox
