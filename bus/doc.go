// Package bus carries requests to nodes that accept no connection.
//
// A node dials out to one or more rendezvous servers (package rendezvous/server,
// which holds package bus/server) over TLS, and answers what arrives on the subject
// of its slot. A request is a statement signed by
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
// # Acting on a workload
//
// What changes or enters a running workload takes the account's own key, never a
// session's, and a plan that grants it; Allowed judges that when it is opened and at
// every renewal. Programs, consoles and files are duplex streams: the request brings a
// secret, the first reply another, and of both come two keys that encrypt the frames
// of this one stream and direction. So a key that must be touched is touched once.
// Messages are numbered and acknowledged, sent again until they arrive, and at most
// DuplexWindow of a direction are on the way: a bus that drops, repeats or reorders
// costs time, not content. A renewal names the present beat of the lease, which the
// node tells when it begins, so that nobody can keep renewals for later.
//
// # Nodes among themselves
//
// Peers carries calls from node to node, on the subject peer.<slot>. A PeerRequest
// is signed by the calling slot's key, names both slots, their epochs and runs, an
// id, and an expiry of at most a minute, and is sealed to the callee; both sides
// find the other's keys in the ledger. The reply is signed by the callee, names the
// hash of the request, and is encrypted with a key that the request brought under
// its seal: so a call costs one seal.
// The callee takes each id once; the same bytes brought again, by another server or
// because an answer was lost, get the same answer over the link that brought them.
// Times in requests are of the callee's own clock, which begins with its run, and
// which the caller learns from a signed PeerHello or from any earlier message: no
// node needs to know what time it is. Calls that supersede each other are handled
// in the order in which they were issued (HandleInOrder), also when a bus holds one
// back beyond a restart of its caller.
//
// # What the bus sees
//
// Everybody who runs a server, or connects to one, sees: which slots are
// connected; their heartbeats in the clear (epoch, boot nonce, time, release, the
// small status); who joins which farm, with the public keys and hardware hints in
// it; and, by claiming a node's role, that its slot is asked and when. Who runs a
// server also sees: the address of everyone who connects, which node calls which
// other one, and the number and size of all messages. Nobody sees who asks
// (accounts are named only inside the seal), what is asked, or what is answered.
// Who only sees the wire sees TLS. The user name on a connection is a role, not an
// identity: it limits subjects so that one client cannot listen to another's
// inbox, and proves nothing.
//
// What a bus can do is drop: then calls end with "node-silent", streams with
// "reply-gap" or "stream-lost", and a slot whose identity is "none" looks silent to
// its farm's agent. Against that a list may name several servers: nodes and people
// keep a link to each. The request of a person goes out over all of them, the call
// of a node over one after the other and then, still not answered, over all. It is
// answered over the one that brought it first, between nodes over each that
// brought it.
//
// Messages larger than MaxChunk are split by the sender; every queue, cache and
// table in this package is bounded.
package bus
