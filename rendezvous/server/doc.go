// Package server is the rendezvous: the one listening service that nodes dial out
// to. One TLS port carries the bus (package bus), the blind relay (package
// rendezvous) and the connections between servers of a cluster, told apart by
// ALPN; the same port number on UDP carries relay frames where UDP passes and
// tells nodes their outside addresses.
//
// A server is trusted with nothing but metadata, which package rendezvous
// lists. It keeps nothing, gives each client bounded memory and a bounded rate,
// and answers no datagram whose sender has not logged in over TLS.
package server
