// Package machine is the shim's engine that runs a workload in a virtual machine: a
// QEMU container with, where the guest has a file system of the node's, a virtiofsd
// container beside it (package vmm says how both are confined), and, where the guest
// has one, a session with its agent (package guest).
//
// Beside the shim's own files its directory holds
//
//	bundle/         the monitor's bundle, fs/ the file server's
//	boot.json       what the agent is told at every start (control.Boot)
//	qmp.sock …      listening sockets that the monitor inherits; one of agent,
//	                console, fs
//	monitor.err     a FIFO of what monitor and file server complain about
//
// all of it in memory: boot.json holds secrets, and no disk of the node ever does.
//
// The workload's cgroup holds no process and limits all: the monitor is in vmm below
// it, the file server in fs.
//
// # How a machine ends
//
// The exit code is the program's, as the agent told it; the machine is then given a
// moment to power off. Told apart from that (verdict): a panic of the guest's kernel,
// the death of the monitor or of the file server, which QEMU would not notice, memory
// used up in the guest or on the node, and a guest whose agent says nothing for
// Config.Silence. A machine without an agent has ended well if it powered off.
//
// # When a shim dies
//
// The machine runs on. Its listening sockets belong to it, so the next shim dials
// them, and asks the agent for the rest of the output.
package machine
