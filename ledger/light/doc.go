// Package light reads a grid's ledger without trusting whoever answers.
//
// A Client believes a header only if it follows, by CometBFT's light-client
// rules, from a checkpoint (or from the grid's genesis) and if another endpoint,
// the witness, shows the same one; and it believes a value, an absence or a list
// only with a Merkle proof against such a header. What it cannot do is notice
// that all validators together sign a false state: a node therefore judges the
// approvals themselves again (contract.Judge).
//
// It does not contain the consensus engine.
package light
