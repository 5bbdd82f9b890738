package exchange

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
)

// Keys is what a pair of nodes has after an exchange.
type Keys struct {
	PSK wireguard.Key // the WireGuard link's preshared key
	// Of path messages: their name, and one key for each direction.
	PathID      [8]byte
	ToResponder [32]byte
	ToInitiator [32]byte

	confirm [32]byte
}

// party is one side, as the derivation binds it.
type party struct {
	Slot      canon.Hash `cbor:"slot"`
	SlotEpoch uint64     `cbor:"slot_epoch"`
	WireGuard []byte     `cbor:"wireguard"`
	Sequence  uint64     `cbor:"sequence"`
	Binding   canon.Hash `cbor:"binding"` // hash of the whole statement
}

// bound is everything that the keys belong to. Two exchanges that differ in any
// of it have nothing in common, even with one shared secret.
type bound struct {
	Grid       canon.Hash `cbor:"grid"`
	Network    canon.Hash `cbor:"network"`
	KeyEpoch   uint64     `cbor:"key_epoch"`
	Initiator  party      `cbor:"initiator"`
	Responder  party      `cbor:"responder"`
	Sequence   uint64     `cbor:"sequence"`   // of the request
	Request    canon.Hash `cbor:"request"`    // hash of all its bytes
	Ciphertext canon.Hash `cbor:"ciphertext"` // hash
}

func partyOf(b Binding, id canon.Hash) party {
	return party{Slot: b.Slot, SlotEpoch: b.SlotEpoch, WireGuard: b.WireGuard, Sequence: b.Sequence, Binding: id}
}

// derive makes the keys from the KEM's shared secret.
func derive(secret []byte, b bound) (Keys, error) {
	info, err := canon.Marshal(b)
	if err != nil {
		return Keys{}, err
	}
	prk, err := hkdf.Extract(sha256.New, secret, []byte("zos-network-exchange-v1"))
	if err != nil {
		return Keys{}, fmt.Errorf("derive keys: %w", err)
	}
	var k Keys
	for _, out := range []struct {
		label string
		into  []byte
	}{
		{"psk", k.PSK[:]}, {"path-id", k.PathID[:]}, {"to-responder", k.ToResponder[:]},
		{"to-initiator", k.ToInitiator[:]}, {"confirm", k.confirm[:]},
	} {
		// The label is of no variable length inside what follows it: a zero byte
		// ends it, and no label has one.
		key, err := hkdf.Expand(sha256.New, prk, out.label+"\x00"+string(info), len(out.into))
		if err != nil {
			return Keys{}, fmt.Errorf("derive keys: %w", err)
		}
		copy(out.into, key)
	}
	return k, nil
}

// confirmation is the responder's proof over its answer.
func (k Keys) confirmation(a Answer) ([]byte, error) {
	a.Confirm = nil
	b, err := a.Encode()
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, k.confirm[:])
	mac.Write(b)
	return mac.Sum(nil), nil
}

// Ask makes the initiator's request with its binding own. The caller keeps own
// and the bytes until the answer came.
func Ask(own *Own, sequence uint64, paths []byte) ([]byte, error) {
	return Request{
		Ask: AskKeys, Network: own.Network, KeyEpoch: own.KeyEpoch, Sequence: sequence, Binding: own.Signed, Paths: paths,
	}.Encode()
}

// Respond makes the responder's answer to the request that raw holds, whose
// binding theirs was verified and judged, and the keys. The caller installs them
// before it sends the answer.
func Respond(own *Own, theirs Theirs, raw []byte, sequence uint64, paths []byte) ([]byte, Keys, error) {
	secret, ciphertext := theirs.kem.Encapsulate()
	keys, err := derive(secret, bound{
		Grid: own.Grid, Network: own.Network, KeyEpoch: own.KeyEpoch, Sequence: sequence,
		Initiator: partyOf(theirs.Binding, theirs.ID), Responder: partyOf(own.Binding, own.ID),
		Request: canon.Sum(raw), Ciphertext: canon.Sum(ciphertext),
	})
	if err != nil {
		return nil, Keys{}, err
	}
	a := Answer{V: version, Binding: own.Signed, Ciphertext: ciphertext, Paths: paths}
	if a.Confirm, err = keys.confirmation(a); err != nil {
		return nil, Keys{}, err
	}
	b, err := a.Encode()
	return b, keys, err
}

// Complete derives the initiator's keys from the answer a to the request raw
// that it made with own; theirs is the answer's binding, verified and judged.
// Code "exchange-refused" if the responder did not derive the same.
func Complete(own *Own, theirs Theirs, raw []byte, sequence uint64, a Answer) (Keys, error) {
	secret, err := own.kem.Decapsulate(a.Ciphertext)
	if err != nil {
		return Keys{}, problem.New("exchange-refused", "answer with keys: %w", err)
	}
	keys, err := derive(secret, bound{
		Grid: own.Grid, Network: own.Network, KeyEpoch: own.KeyEpoch, Sequence: sequence,
		Initiator: partyOf(own.Binding, own.ID), Responder: partyOf(theirs.Binding, theirs.ID),
		Request: canon.Sum(raw), Ciphertext: canon.Sum(a.Ciphertext),
	})
	if err != nil {
		return Keys{}, err
	}
	want, err := keys.confirmation(a)
	if err != nil {
		return Keys{}, err
	}
	if !hmac.Equal(want, a.Confirm) {
		return Keys{}, problem.New("exchange-refused", "answer with keys: it was altered, or answers another request")
	}
	return keys, nil
}
