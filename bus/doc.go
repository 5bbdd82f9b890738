// Package bus carries requests to nodes that accept no connection.
//
// A node dials out to one or more bus servers (package bus/server) and answers
// what arrives on the subject of its slot. A request is a statement signed by
// the asking account and sealed to the node's key; a reply is a numbered series
// of statements signed by the node's key and sealed to a key made for that one
// request. A bus in the middle can therefore drop and delay, and nothing else:
// it reads nothing, and what it alters, forges, replays, re-seals or reorders
// is refused.
//
// # What a request is bound to
//
// The signed bytes of a Request name the grid, the slot, its epoch, the nonces of
// the node's present boot and of the present run of its daemon (which forgets the
// request ids when it ends), a request id and an expiry of at most two minutes.
// The node refuses every other slot, epoch, boot and run, every id that it has
// seen and every request past its expiry. The replies name the hash of the
// request, so none of them answers another one.
//
// # How a client learns the nonces
//
// It sends 16 random bytes on the subject hello.<slot>; the node answers with a
// Heartbeat that carries them, signed by the key that the ledger binds to the
// slot. So the answer is fresh without trust in any clock, and it also tells the
// node's time, by which the client chooses the expiry of its requests.
//
// # What the bus sees
//
// Everybody who runs a bus server, or connects to one, sees: which slots are
// connected and from which address; their heartbeats in the clear (epoch, boot
// nonce, time, release, the small status); who joins which farm, with the public
// keys and hardware hints in it; and, by claiming a node's role, that its slot is
// asked and when. Who runs a server also sees: the address of everyone who asks,
// and the number and size of the replies. Nobody sees who asks (accounts are named only inside the
// seal), what is asked, or what is answered. The user name on a connection is a
// role, not an identity: it limits subjects so that one client cannot listen to
// another's inbox, and proves nothing.
//
// What a bus can do is drop: then calls end with "node-silent", streams with
// "reply-gap" or "stream-lost", and a slot whose identity is "none" looks silent to
// its farm's agent. Against that a list may name several buses: nodes and people
// keep a link to each, and a request goes out over all of them; it is answered over
// the one that brought it first.
//
// Messages larger than MaxChunk are split by the sender; every queue, cache and
// table in this package is bounded.
package bus
