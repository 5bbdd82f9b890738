// Package path decides by which way packets travel to a peer: through the relay,
// or directly to one of the peer's addresses.
//
// A Machine is pure: it is told what happened (messages of the peer, pongs, the
// passing of time) and returns what is to be done (send a ping, take a path,
// tell the peer). It knows no socket, no clock and no key. Its rules:
//
//   - The relay is the path until an own ping was answered from a direct address,
//     and again as soon as that address is silent or either side has moved.
//   - Both sides ping each other's candidates at the same time, so that routers
//     that translate addresses, and packet filters that let in only answers, see
//     both as connections from inside.
//   - It never gives up: bursts of pings, with pauses that grow to minutes.
//
// A Channel protects the messages: each is encrypted with a key that the pair's
// exchange gave, and accepted once. What is not authentic is never answered, so
// from outside a node's port can't be told from a closed one.
package path
