// Package control is what a node's daemon and its gateway process say to each
// other, over a unix socket at which the process listens.
//
// The process reads what strangers send, so the daemon does not trust it: what it
// says is bounded (frames, texts, lists), decoded strictly, and asks for nothing
// but sockets in namespaces of gateways that the daemon itself configured, for
// what certificates of their contracts are kept as, and for answers to authorities
// about hosts that it was told to terminate. It can name neither a
// path, nor an address, nor another workload. The process trusts the daemon.
//
// A Daemon connects, says what to serve (Config) and answers. A Process listens,
// takes one daemon at a time, the newest, and goes on with what it has while there
// is none. Frames are described in docs/reference/gateway.cddl.
package control
