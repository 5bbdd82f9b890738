package domain

import "github.com/zero-os/zos/canon"

// Namespace is the SSHSIG namespace of a domain's proof.
const Namespace = "zos-domain-v1"

// Statement is what members sign: that Group of Grid publishes under Domain.
type Statement struct {
	Grid   canon.Hash `cbor:"grid"`
	Group  canon.Hash `cbor:"group"`
	Domain string     `cbor:"domain"` // lower case, without a dot at its end
}

// Bytes returns what is signed, in namespace Namespace.
func (s Statement) Bytes() ([]byte, error) { return canon.Marshal(s) }
