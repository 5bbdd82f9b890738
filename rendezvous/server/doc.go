// Package server is the rendezvous: the one listening service that nodes dial out
// to. One TLS port carries the bus (package bus), the blind relay (package
// rendezvous) and the connections between servers of a cluster, told apart by
// ALPN; the same port number on UDP carries relay frames where UDP passes and
// tells nodes their outside addresses.
//
// A server is trusted with nothing but metadata, which package rendezvous
// lists. It keeps nothing, gives each client bounded memory and a bounded rate,
// and answers no datagram whose sender has not logged in over TLS. What is
// passed on as datagrams takes memory only until the batch that it came with has
// been read: 66 KiB for each of at most eight receivers of what came by UDP or
// from another server, and 66 KiB for what came by one client's TLS.
package server
