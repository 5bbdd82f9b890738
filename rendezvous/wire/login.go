package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// KindLogin is the kind of a Login, and the namespace of its signature.
const KindLogin = "zos-rendezvous-v1"

// Login is how a client proves its slot to a server: signed by the slot's key,
// for one challenge on one TLS channel.
type Login struct {
	contract.Header
	Slot      canon.Hash `cbor:"slot"`
	Epoch     uint64     `cbor:"epoch"`
	Challenge []byte     `cbor:"challenge"` // 32 bytes, the server's
	Channel   []byte     `cbor:"channel"`   // 32 bytes, tls-exporter of RFC 9266
}

// Labels of what is taken from a TLS channel.
const (
	labelChannel = "EXPORTER-Channel-Binding" // RFC 9266
	labelUDP     = "EXPORTER-zos-relay-udp"
)

// Channel names the TLS channel: both ends compute the same, and nobody between
// two channels can make them equal.
func Channel(c *tls.Conn) ([]byte, error) {
	cs := c.ConnectionState()
	b, err := cs.ExportKeyingMaterial(labelChannel, nil, 32)
	if err != nil {
		return nil, fmt.Errorf("bind to the TLS channel: %w", err)
	}
	return b, nil
}

// SignLogin makes the body of a login frame.
func SignLogin(ctx context.Context, l Login, s sign.Signer) ([]byte, error) {
	l.Header = contract.Header{V: contract.Version, Kind: KindLogin, Grid: l.Grid}
	signed, err := contract.Sign(ctx, l, KindLogin, s)
	if err != nil {
		return nil, fmt.Errorf("log in to the rendezvous: %w", err)
	}
	return signed.Encode()
}

// OpenLogin reads the body of a login frame, checks its signature, and returns
// who signed. What the login says is for JudgeLogin.
func OpenLogin(body []byte, grid canon.Hash) (Login, sign.PublicKey, error) {
	signed, err := contract.DecodeSigned(body)
	if err != nil {
		return Login{}, nil, invalid(err)
	}
	if len(signed.Signatures) != 1 {
		return Login{}, nil, problem.New("login-invalid", "login: %d signatures, want one", len(signed.Signatures))
	}
	l, _, keys, err := contract.Open[Login](signed, KindLogin, grid)
	if err != nil {
		return Login{}, nil, invalid(err)
	}
	return l, keys[0], nil
}

func invalid(err error) error { return problem.New("login-invalid", "login: %w", err) }

// Expected is what a server knows when it judges a login.
type Expected struct {
	Grid      canon.Hash
	Challenge []byte // given on this connection
	Channel   []byte // of this connection
	Bound     bool   // the ledger binds a key to the login's slot:
	Epoch     uint64
	Key       sign.PublicKey
}

// JudgeLogin decides whether a login with a good signature by a key lets this
// connection speak for the slot. Codes: "login-invalid" for what was not made
// for this connection, "login-refused" for a key that is not the slot's.
func JudgeLogin(l Login, by sign.PublicKey, want Expected) error {
	switch {
	case l.Kind != KindLogin || l.Grid != want.Grid:
		return problem.New("login-invalid", "login: it is for another grid or purpose")
	case len(want.Challenge) != ChallengeSize || !bytes.Equal(l.Challenge, want.Challenge):
		return problem.New("login-invalid", "login: it answers another challenge")
	case len(want.Channel) == 0 || !bytes.Equal(l.Channel, want.Channel):
		return problem.New("login-invalid", "login: it was made for another connection")
	case !want.Bound:
		return problem.New("login-refused", "login: the ledger binds no key to slot %s", l.Slot.Short())
	case l.Epoch != want.Epoch || !by.Equal(want.Key):
		return problem.New("login-refused", "login: slot %s has another key or epoch on the ledger", l.Slot.Short()).
			WithFix("wait until the node has joined, or ask its farm")
	}
	return nil
}
