// Package client is the people's side of a grid: a context (which grid, where,
// whose keys), verified reads of the ledger, and the verbs that the CLI, the
// demo and tests all use.
//
// It trusts no endpoint: what it shows was verified against the ledger's
// headers, and what it signs is decoded from the very bytes it signs.
package client
