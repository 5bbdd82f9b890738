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
//	 7 udp-used   nothing
//
// A datagram is a type (1 byte) and
//
//	1 sealed     session (8), counter (8), ChaCha20-Poly1305 of a frame's type
//	             and body: send, recv, gone, 21 ping, 8 pong
//	2 observe    token (16), in the clear, from any port
//
// The keys of sealed datagrams come from the TLS channel of the session; each
// direction has its own, and the counter is the nonce.
package wire
