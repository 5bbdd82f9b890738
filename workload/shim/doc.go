// Package shim keeps one workload running with nobody's help: it starts it through
// an Engine, has what it prints copied into a log ring, checks its health, waits for
// its end, and starts it again as its life says (docs/reference/lifecycle.md). One
// small process per workload runs it (cmd/zos-shim), so workloads outlive the node
// daemon. OpenRunc is the engine of containers.
//
// Everything it needs to know lies in one directory, and everything it knows it
// writes there:
//
//	spec.json      what to run (Spec), written by the node daemon
//	status.json    how it goes (Status), replaced atomically at every change
//	lock           locked for as long as a shim runs
//	control        socket for requests (package control), of root's alone
//	stdout stderr  FIFOs between the container and the shim
//	runc.log       what runc said at its last start
//	shim.err       what the shim itself said before it died, normally empty
//	bundle/        config.json and rootfs, the OCI bundle
//
// The container's end of each FIFO is open for reading and writing, so while no
// shim runs the container can still print: the kernel keeps up to 64 KiB for
// each stream, then lets the container wait, until the next shim reads on.
// Nothing is lost but what a killed shim had read and not yet appended, at most
// 32 KiB a stream.
//
// Killed at any moment, a shim can be started again in the same directory: it
// asks the kernel and runc what there is and goes on from it. How a container
// ended while no shim was there, it learns from process 1's records.
package shim
