// Package segment is the layer-2 segment on which a virtual machine's network
// card sits: a small learning switch with three kinds of port.
//
// The node's port leads to the machine, the gateway's to QEMU's user network,
// and peers come and go on a unix socket: a scanner, a capture, another host
// that only exists in a test. The promise is that peers see and reach the node
// as a neighbour would, and that they disturb neither the node nor the
// gateway: while nobody is attached, one that is slow, or sends nonsense.
//
// QEMU's own hub will not do: it hands every frame to the user network, which
// ignores destination addresses, so a scan of the node would open one socket on
// this host for each port and answer in the node's name.
//
// Frames travel on sockets as QEMU's "-netdev socket" writes them: a 32-bit
// big-endian length, then the Ethernet frame without its checksum.
package segment
