// Package canon is the one canonical encoding of Zero-OS: deterministic CBOR
// (RFC 8949 §4.2.1), and the SHA-256 hashes that name what it encodes.
//
// It promises that a value has exactly one encoding and that only this
// encoding is accepted back: what is signed or hashed can't be said in two ways.
package canon
