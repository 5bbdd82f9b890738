// Package agent is the brain of a node's encrypted networks: it makes the
// node's WireGuard devices, agrees keys with the other nodes of each network,
// and chooses the path to each of them.
//
// # Keys
//
// A network's key epoch is the time since 1970 divided by the rotation period,
// shifted by an amount that the network's id gives: all nodes compute the same
// number without asking anyone. Each epoch has a WireGuard device of its own, so
// during a rotation two stand side by side; the routes to a peer move to the
// newer one when that peer has shaken hands there, and the older one is deleted
// when all have moved, at the latest when the overlap ends. Nothing is lost on
// the way, and a kernel needs nothing new for it.
//
// No peer is ever installed without a preshared key agreed by ML-KEM-768
// (package exchange). It is renewed every ten minutes; one that could not be
// renewed for thirty is overwritten with random bytes.
//
// Of two nodes the one with the lower slot begins the exchanges, and when both
// have the first keys, the first handshake: packets may wait on both sides, and
// handshakes that both begin at once fail.
//
// # Paths
//
// Packets to a peer begin on the relay, at once, and move to a direct address
// when that one has proven itself (package path). When the node's own addresses
// change everything returns to the relay in the same moment and begins anew.
//
// # Ownership
//
// The agent owns the interfaces DeviceNames, the routes with protocol
// RouteProtocol and the table ExitTable in the router namespaces it is given,
// and nothing else there. It keeps no state on disk: of a kernel device that
// outlived its daemon it reads back keys, peers and epoch.
package agent
