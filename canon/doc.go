// Package canon is the one canonical encoding of Zero-OS: deterministic CBOR
// (RFC 8949 §4.2.1), and the SHA-256 hashes that name what it encodes.
//
// It promises that a value has exactly one encoding and that only this
// encoding is accepted back: what is signed or hashed can't be said in two ways.
//
// The subset: unsigned and negative integers, byte strings, UTF-8 text, arrays,
// maps with text keys, true, false and null (a nil pointer). There are no floats,
// no tags, no indefinite lengths. A nil slice or map encodes as an empty one,
// so an absent list and an empty list are the same bytes. Structs that are
// signed carry no omitempty: every field is always there.
package canon
