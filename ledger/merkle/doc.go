// Package merkle is a Merkle radix trie: an ordered map from byte strings to
// byte strings with one 32-byte root, whose every answer can be proven to
// somebody who knows only that root: this key has this value, this key is
// absent, these are all the keys that begin with this prefix.
//
// Trees are persistent: Apply makes a new tree that shares what did not change,
// so an old version is served while the next one is made. The package does no
// I/O and knows nothing of the ledger that uses it.
package merkle
