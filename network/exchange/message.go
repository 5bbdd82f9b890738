package exchange

import (
	"crypto/mlkem"
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// version of Request and Answer.
const version = 1

// Limits, bytes.
const (
	MaxPaths   = 1 << 10
	maxMessage = maxSigned + MaxPaths + mlkem.CiphertextSize768 + 1024

	confirmSize = 32
)

// What a Request asks.
const (
	// AskKeys is an exchange.
	AskKeys = "keys"
	// AskBegin asks the other node, which initiates, to begin an exchange now:
	// the asking one lost its keys, or has new ones. Binding and Paths are empty.
	AskBegin = "begin"
)

// Request is what one node asks another of the same network.
type Request struct {
	V        uint64     `cbor:"v"`
	Ask      string     `cbor:"ask"`
	Network  canon.Hash `cbor:"network"`
	KeyEpoch uint64     `cbor:"key_epoch"`
	Sequence uint64     `cbor:"sequence"` // JudgeSequence
	Binding  []byte     `cbor:"binding"`  // signed, of the initiator
	Paths    []byte     `cbor:"paths"`    // addresses, as package path encodes them
}

// Answer is what the responder returns to AskKeys.
type Answer struct {
	V          uint64 `cbor:"v"`
	Binding    []byte `cbor:"binding"`    // signed, of the responder
	Ciphertext []byte `cbor:"ciphertext"` // to the KEM key in the request's binding
	Paths      []byte `cbor:"paths"`
	Confirm    []byte `cbor:"confirm"` // proves that the responder has the same keys
}

// Encode returns the canonical bytes of r.
func (r Request) Encode() ([]byte, error) {
	r.V = version
	return canon.Marshal(r)
}

// DecodeRequest reads what anyone sent. Code "exchange-refused".
func DecodeRequest(b []byte) (Request, error) {
	var r Request
	err := canon.UnmarshalLimit(b, maxMessage, &r)
	switch {
	case err != nil:
	case r.V != version:
		err = fmt.Errorf("it has format %d, this software knows %d", r.V, version)
	case r.Ask != AskKeys && r.Ask != AskBegin:
		err = fmt.Errorf("it asks %.20q, which is not known", r.Ask)
	case len(r.Paths) > MaxPaths || len(r.Binding) > maxSigned:
		err = fmt.Errorf("a field is too long")
	case r.Ask == AskBegin && len(r.Binding)+len(r.Paths) > 0:
		err = fmt.Errorf("asking to begin, it carries more")
	}
	if err != nil {
		return Request{}, problem.New("exchange-refused", "read request for keys: %w", err)
	}
	return r, nil
}

// Encode returns the canonical bytes of a.
func (a Answer) Encode() ([]byte, error) {
	a.V = version
	return canon.Marshal(a)
}

// DecodeAnswer reads what anyone sent. Code "exchange-refused".
func DecodeAnswer(b []byte) (Answer, error) {
	var a Answer
	err := canon.UnmarshalLimit(b, maxMessage, &a)
	switch {
	case err != nil:
	case a.V != version:
		err = fmt.Errorf("it has format %d, this software knows %d", a.V, version)
	case len(a.Ciphertext) != mlkem.CiphertextSize768 || len(a.Confirm) != confirmSize:
		err = fmt.Errorf("a field has the wrong length")
	case len(a.Paths) > MaxPaths || len(a.Binding) > maxSigned:
		err = fmt.Errorf("a field is too long")
	}
	if err != nil {
		return Answer{}, problem.New("exchange-refused", "read answer with keys: %w", err)
	}
	return a, nil
}
