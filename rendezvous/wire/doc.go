// Package wire is the bytes between a rendezvous client and its server, and
// between servers: frames over TLS, datagrams over UDP, and the login. Both ends
// use it; it opens no connection itself.
//
// A frame over TLS is its length (2 bytes, big-endian: of type and body), a type
// (1 byte) and a body:
//
//	server → client              client → server
//	 1 hello      challenge      16 login     contract.Signed of a Login
//	 2 welcome    session        17 send      to, packet
//	 3 refused    code, text     18 watch     token
//	 4 recv       from, packet   19 unwatch   token
//	 5 gone       slot           20 udp-off   nothing
//	 6 observed   token, address
//	 7 udp-used   nothing        21 ping      (only in datagrams)
//	 8 pong       (only in datagrams)
//
// Between servers, after the first frame, the relay's connection has
//
//	32 hello     purpose: 1 the relay, 2 the bus; both ways, before all else
//	33 join      slot that is connected here
//	34 left      slot that is no more
//	35 relay     from, to, packet
//	36 alive     nothing
//
// and the bus's has messages: length (4), length of subject (2), length of reply
// (2), subject, reply, data; a length of 0 says that the connection is alive.
//
// A datagram is a type (1 byte) and
//
//	1 sealed     session (8), counter (8), AEAD of a frame's type and body:
//	             send, recv, ping (token 8, size 2, padding), pong (token,
//	             padding)
//	2 observe    token (16), in the clear, from any port
//
// The keys of sealed datagrams come from the TLS channel of the session; each
// direction has its own, and the counter is the nonce. The AEAD is the one that
// TLS agreed on: AES-128-GCM, AES-256-GCM or ChaCha20-Poly1305.
package wire
