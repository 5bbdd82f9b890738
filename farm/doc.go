// Package farm is the farm agent: it holds a key to which the owner of hardware
// delegated the admission of nodes, and decides which booting machine gets into
// which slot.
//
// A booting node asks on the bus with a Join: the contract.Node statement that
// it wants on the ledger, signed by its new key, and what its hardware says of
// itself. The agent judges the facts (Decide), adds its own signature and
// submits the statement; nothing else ever becomes a transaction. Its answers
// are signed under the farm's delegation, so that the bus cannot answer for it.
//
// A Join is signed and not sealed: it holds public keys and hardware ids, no
// secret, and the bus sees both anyway when the node is bound and when its
// frames pass. It cannot be used by another: the statement in it names one key,
// slot, epoch and delegation, and expires.
//
// A hint (MAC or SMBIOS id) is not proof of identity. Whoever boots a machine of
// his own with a declared hint, into a slot without keys or one whose node has
// been silent, is admitted: this is the weakest mode, and the reason why only
// slots declared with identity "none" are re-keyed without the farm's own word.
// What was sealed to the former key stays unreadable to him.
package farm
