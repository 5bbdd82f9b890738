// Package netnode runs the networks of a node, and rendezvous servers, as
// processes in a laboratory: the real parts of zosd and zos, composed without a
// ledger, in the network namespace of a netlab.Host.
//
// A program that uses it calls Main first of all, because the processes are the
// program itself, started again. Who is who needs no ledger: the keys of slot
// number i are derived from i, in every process alike. A node with an Identity is one
// of a grid that exists, with the real keys of one of its slots.
//
// It is for tests and measures. Nothing here is secret but such an identity.
package netnode
