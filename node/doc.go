// Package node is a whole node: composition only. It joins a slot, proves what
// the slot must run, makes it so, and says on the ledger what came of it.
//
// A node's only inputs are its boot files and network addresses; nothing here
// knows whether it runs in a test.
package node
