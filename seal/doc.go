// Package seal encrypts to a node's key: secrets in plans, requests on the bus.
//
// It is HPKE (RFC 9180) with the hybrid KEM of X25519 and ML-KEM-768, from the
// standard library, so a recording made today stays closed to a quantum
// computer. The caller's info is bound: what was sealed for one purpose or
// place doesn't open for another. It doesn't say who sealed; sign for that.
package seal
