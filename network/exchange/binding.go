package exchange

import (
	"context"
	"crypto/mlkem"
	"fmt"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// KindBinding is the kind of a Binding, and the namespace of its signature.
const KindBinding = "zos-binding-v1"

// Limits of bindings.
const (
	// MaxLife of a binding: a key epoch of a day, its overlap, and an hour in hand.
	MaxLife = 26 * time.Hour
	// MaxSkew between the clocks of two nodes. More and they don't talk.
	MaxSkew = 5 * time.Minute

	maxSigned = 4 << 10 // bytes of an encoded signed binding; 1.6 KiB are usual
)

// Binding says which WireGuard key and which KEM key a slot has in a network for
// a key epoch. It is signed by the slot's key.
type Binding struct {
	contract.Header
	Network   canon.Hash `cbor:"network"`
	Slot      canon.Hash `cbor:"slot"`
	SlotEpoch uint64     `cbor:"slot_epoch"`
	KeyEpoch  uint64     `cbor:"key_epoch"`
	WireGuard []byte     `cbor:"wireguard"` // 32 bytes
	KEM       []byte     `cbor:"kem"`       // ML-KEM-768 encapsulation key, 1184 bytes
	// Sequence rises with every binding of the slot: the microsecond in which it
	// was made, or one more than the last. The highest is the one that counts.
	Sequence uint64 `cbor:"sequence"`
	Issued   uint64 `cbor:"issued"` // Unix seconds
	Expiry   uint64 `cbor:"expiry"` // Unix seconds, at most MaxLife after Issued
}

// Key returns the WireGuard key of a binding that was judged.
func (b Binding) Key() wireguard.Key {
	var k wireguard.Key
	copy(k[:], b.WireGuard)
	return k
}

// Own is a binding of this node, with the secret half of its KEM key.
type Own struct {
	Binding
	ID     canon.Hash // of the statement
	Signed []byte     // what others get
	kem    *mlkem.DecapsulationKey768
}

// Bind makes and signs a binding. b comes without header and KEM key, which is
// made here.
func Bind(ctx context.Context, signer sign.Signer, grid canon.Hash, b Binding) (*Own, error) {
	kem, err := mlkem.GenerateKey768()
	if err != nil {
		return nil, fmt.Errorf("make a KEM key: %w", err)
	}
	b.Header = contract.Header{V: contract.Version, Kind: KindBinding, Grid: grid}
	b.KEM = kem.EncapsulationKey().Bytes()
	s, err := contract.Sign(ctx, b, KindBinding, signer)
	if err != nil {
		return nil, err
	}
	signed, err := s.Encode()
	if err != nil {
		return nil, err
	}
	return &Own{Binding: b, ID: s.ID(), Signed: signed, kem: kem}, nil
}

// Theirs is a binding whose signature is good. Whether it counts is for Judge.
type Theirs struct {
	Binding
	ID     canon.Hash
	Signer sign.PublicKey
	kem    *mlkem.EncapsulationKey768
}

// open reads a signed binding and verifies its one signature.
func open(grid canon.Hash, signed []byte) (Theirs, error) {
	refuse := func(err error) (Theirs, error) {
		return Theirs{}, problem.New("binding-refused", "read binding: %w", err)
	}
	if len(signed) > maxSigned {
		return refuse(fmt.Errorf("%d bytes, at most %d are allowed", len(signed), maxSigned))
	}
	s, err := contract.DecodeSigned(signed)
	if err != nil {
		return refuse(err)
	}
	if len(s.Signatures) != 1 {
		return refuse(fmt.Errorf("it has %d signatures, not one", len(s.Signatures)))
	}
	b, id, keys, err := contract.Open[Binding](s, KindBinding, grid)
	if err != nil {
		return refuse(err)
	}
	if len(b.WireGuard) != len(wireguard.Key{}) || b.Key().IsZero() {
		return refuse(fmt.Errorf("its WireGuard key is none"))
	}
	kem, err := mlkem.NewEncapsulationKey768(b.KEM)
	if err != nil {
		return refuse(fmt.Errorf("its KEM key: %w", err))
	}
	return Theirs{Binding: b, ID: id, Signer: keys[0], kem: kem}, nil
}
