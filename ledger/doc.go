// Package ledger runs a node of a grid's ledger: the rules of package contract,
// replicated by CometBFT in this process, over a state of which every key, every
// absence and every list can be proven (package merkle).
//
// Reading it without trusting whoever answers is package light's work, which
// does not contain the consensus engine.
package ledger
