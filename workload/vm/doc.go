// Package vm runs workloads of kind "vm": whole machines with a kernel or a disk of
// their own, from a flist. A shim keeps each running (package shim, with the engine of
// package machine), and all that a machine shares with containers is package
// container's: records, layers, networks, ends.
//
// What exists on a node, for contract C and workload N (id "C-N"), beside what package
// container lists, below directories of their own:
//
//	<data>/C/N/disk.img       the bounded layer, mounted at <run>/C-N/disk: upper and
//	                          work of a root that the node serves; or root.qcow2, the
//	                          changes to the flist's disk, and vars.fd, UEFI's
//	<data>/C/N/disk-SERIAL    a further disk, its blocks reserved
//	<run>/C-N/seed.img        the NoCloud seed, in memory: secrets are in it
//
// A machine that boots its kernel has the flist as its root, over virtiofs, writable
// through the layer; the kernel is read from the flist at every start, from nowhere
// else. One that boots its disk has the flist's disk.raw, read-only, below its changes.
//
// Nothing in a machine answers the node: it is stopped by its power button, and what
// is done inside containers by exec and cp is done by SSH or on its console. Health is
// checked by TCP or HTTP at its address in its first network, from that network's
// router on this node, which its own firewall must let in.
//
// A machine that writes more than its disk limit waits, paused, and its receipt says
// disk-full; see package machine.
package vm
