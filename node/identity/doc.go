// Package identity keeps the keys of a node's slot: an ed25519 key that signs
// and a sealing key that opens what is meant for the node.
//
// Where the seeds live is the slot's declared identity: sealed by the machine's
// TPM, so that every disk may be blank; on the labelled data disk; or nowhere,
// made anew at each boot and then only in memory, where the node's daemon finds
// them again when it alone is restarted. Stored seeds are bound to one grid and
// one slot: what belongs to another is refused and never overwritten.
package identity
