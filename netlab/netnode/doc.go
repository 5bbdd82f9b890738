// Package netnode runs the networks of a node, and rendezvous servers, as
// processes in a laboratory: the real parts of zosd and zos, composed without a
// ledger, in the network namespace of a netlab.Host.
//
// A program that uses it calls Main first of all, because the processes are the
// program itself, started again. Who is who needs no ledger: the keys of slot
// number i are derived from i, in every process alike.
//
// It is for tests and measures. Nothing here is secret.
package netnode
