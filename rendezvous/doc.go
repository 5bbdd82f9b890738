// Package rendezvous is how nodes that accept no connection find each other: the
// client of a rendezvous server, and the bytes that the two exchange.
//
// A node keeps one outbound TLS connection to each of several servers (package
// rendezvous/server), and hands packets for other slots to Send. The server
// passes them on to the connection of that slot and looks into none of them. So
// a packet is untrusted at both ends: it may be lost, doubled, delayed,
// reordered, altered or forged by the server, and what travels here must be able
// to bear that. WireGuard's messages are.
//
// # Links
//
// Each link is dialed for ever. It proves the client's slot with the key that
// the ledger binds to it, over the server's challenge and over the TLS channel
// itself, so that no server can pose as a client elsewhere. Where UDP passes,
// packets go as datagrams to the same port number, encrypted and authenticated
// with keys of the TLS channel; where it does not, or stops to, they go over
// TLS. A ping through the server's relay and back proves each link every
// fifteen seconds, and at once when traffic gets no answer. For each peer that
// is being talked to, small probes tell on which links the peer is, how long the
// way takes and how much of what was sent has arrived: a server that drops
// packets but answers pings is left too, as long as there is another.
//
// Datagrams leave in batches of what there is: the first goes at once, and those
// that come while the kernel takes it are the next batch, so none waits for
// others. What waits for one server is bounded, and the oldest goes: 256 KiB for
// TLS, and the same for datagrams, in at most 528 KiB of memory. A link also holds
// 64 KiB to receive datagrams, and memory for others only while they are in it.
//
// # What a server sees
//
// Who runs a server sees: which slots are connected, from which outside address
// and since when; which slot sends to which, how many packets, of which sizes, at
// which times; the outside addresses of a node's tunnel sockets (they are told to
// it on purpose, see ObserveProbe), and with these which nodes probably share a
// site. From sizes and times it can guess what kind of traffic flows. The packets
// of package network/agent begin with eight bytes of their network's id: whoever
// also reads the ledger learns by them which deployment's network it is. It learns
// no inside address, and reads no byte of what the packets carry. It can drop and
// delay. Other operators of the same
// cluster see the slots that are connected at each server, and the metadata of
// what is passed between servers. Who only sees the wire sees addresses, sizes
// and times of TLS records and encrypted datagrams, the name of the protocol
// (ALPN) and no slot.
package rendezvous
