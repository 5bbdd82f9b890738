// Package qemu starts machines in QEMU and drives them over QMP.
//
// It promises that a machine is wholly described by its Config, that everything
// QEMU says when it dies is in the error, and that no process, socket or
// temporary file outlives Wait — nor this process, however it ends: children
// are tied to it by PR_SET_PDEATHSIG (see spawn.go). It needs no root.
//
// It does not decide what boots: that is in the disks, the kernel or the boot
// source that a Config names.
package qemu
