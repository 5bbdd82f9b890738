// Package vmm runs workloads in virtual machines: what a machine is made of
// (Config), how a virtual machine monitor is started and confined, and how a
// running machine is controlled (VMM, Machine).
//
// The monitor is QEMU. It runs in a container of its own, from the VMM flist
// (boot.BuildVMM), and inherits all that it needs as open descriptors: it is given
// no path of the node. Nothing here starts a process but Probe: the command line and the
// container's configuration are pure functions, and the workload's shim starts
// what they describe with runc, like any container.
//
// A machine does not depend on who controls it: its QMP socket is a listening
// one that it inherits, so that a controller can die, and the next one attach.
//
// It promises that no string of a Config changes the meaning of another part of
// QEMU's command line. It does not decide what a guest may do: that follows from
// what it is given.
package vmm
