// Package guest is what a node and the agent in a micro-VM say to each other: the
// node's side (Connect, Session) and the agent's (Server). The agent itself is
// cmd/zos-guest, process 1 of a guest.
//
// There is one byte stream between them, a virtio-serial port; the protocol would do as
// well on a vsock, which guests don't get, so that no socket family leads from a guest to
// its node. On it runs yamux, and each of its streams is one connection of package
// workload/control: a Request, then frames. Only the node's side opens streams.
//
// # Beginning anew
//
// A virtio-serial port has no connections: when the shim dies, QEMU keeps the
// port, and the next shim finds the rest of what the last one was being told. So
// both sides stuff their bytes: 0xF5 in what they carry becomes F5 00, and F5 01
// begins a session wherever the stream stands, even within a yamux frame:
//
//	node → guest   F5 01  32 hex digits   a session begins; the number is random
//	guest → node   F5 02  32 hex digits   it has begun; the same number
//
// The guest ends the session that it had, and answers. The node throws away what
// comes before its number. Streams of the last session are gone then; the
// workload is not, and its output waits in the agent, which lets the workload
// wait when a bound is reached. What was on its way to a shim that died is lost, at most
// yamux's window of 256 KiB.
//
// # Trust
//
// The guest is trusted with its workload and nothing else. It is told what the
// workload needs to run (its arguments, environment, files, secrets and addresses) and
// it holds no key, no credential and no address of the node's, of the grid or of
// another workload. It opens nothing towards the node, and nothing that it says
// makes the node act on anything but this workload: exit codes, output, statistics and
// archives are claims of the workload about itself. Time, cgroup limits, network
// filters and the read-only root are held by the node from outside.
//
// So the node's side takes the guest for hostile. Every yamux header is checked
// before yamux sees it (guard): a stream that the guest opens, a ping, an oversized frame
// or a protocol error ends the session. Buffers are bounded by MaxStreams windows. A
// guest that never answers costs a caller its own deadline, no more. What
// the agent does below a program that has taken the guest's kernel over is
// that program's; the walls that count are QEMU's.
package guest
