// Package dns is the authoritative name server of a grid's domain.
//
// It answers from one Zone that is replaced as a whole: addresses of names, the
// name servers, text records of certificate challenges. It knows no other zone,
// asks nobody, delegates nothing, and is no amplifier: answers over UDP are
// bounded by the client's network, and small.
package dns
