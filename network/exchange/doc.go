// Package exchange agrees keys between two nodes of a network: who has which
// WireGuard key (a binding, signed by the slot's key), and the preshared key of
// a pair, which keeps what they say closed to a quantum computer.
//
// It takes one round trip. The initiator sends its binding, which carries a KEM
// key (ML-KEM-768) made for this round of renewals and forgotten after it. The
// responder encapsulates to that key and answers with its own binding, the
// ciphertext and a proof that it derived the same keys. Both derive from the
// shared secret, and from everything that both said, the preshared key and the
// keys of their path messages.
//
// The package holds no state besides a cache of verified bindings, sends nothing
// and knows no clock: who calls brings the time and what is known already. That
// the messages come from whom they claim is proven twice, by the messenger that
// carries them and by the signature on the binding; the latter can be shown to
// others later.
package exchange
