package wire

import (
	"bytes"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

func key(t testing.TB) sign.Signer {
	t.Helper()
	_, s, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestLoginIsForOneKeyOneServerAndOneConnection is the truth table of the
// decision who may speak for a slot.
func TestLoginIsForOneKeyOneServerAndOneConnection(t *testing.T) {
	grid, slot := canon.Sum([]byte("grid")), canon.Sum([]byte("slot"))
	node, other := key(t).Public(), key(t).Public()
	challenge, channel := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	good := func() (Login, sign.PublicKey, Expected) {
		l := Login{Slot: slot, Epoch: 3, Challenge: challenge, Channel: channel}
		l.Header = contract.Header{V: contract.Version, Kind: KindLogin, Grid: grid}
		return l, node, Expected{Grid: grid, Challenge: challenge, Channel: channel, Bound: true, Epoch: 3, Key: node}
	}
	flipped := func(b []byte) []byte { c := bytes.Clone(b); c[31] ^= 1; return c }
	for _, tc := range []struct {
		name   string
		change func(l *Login, by *sign.PublicKey, want *Expected)
		code   string
	}{
		{"the slot's key, here and now", func(*Login, *sign.PublicKey, *Expected) {}, ""},
		{"another grid", func(l *Login, _ *sign.PublicKey, _ *Expected) { l.Grid = canon.Sum(nil) }, "login-invalid"},
		{"another kind", func(l *Login, _ *sign.PublicKey, _ *Expected) { l.Kind = contract.KindHeartbeat }, "login-invalid"},
		{"an earlier challenge", func(l *Login, _ *sign.PublicKey, _ *Expected) { l.Challenge = flipped(challenge) }, "login-invalid"},
		{"no challenge", func(l *Login, _ *sign.PublicKey, _ *Expected) { l.Challenge = nil }, "login-invalid"},
		{"no challenge on either side", func(l *Login, _ *sign.PublicKey, w *Expected) { l.Challenge, w.Challenge = nil, nil }, "login-invalid"},
		{"part of the challenge", func(l *Login, _ *sign.PublicKey, _ *Expected) { l.Challenge = challenge[:31] }, "login-invalid"},
		{"another channel", func(l *Login, _ *sign.PublicKey, _ *Expected) { l.Channel = flipped(channel) }, "login-invalid"},
		{"no channel", func(l *Login, _ *sign.PublicKey, _ *Expected) { l.Channel = nil }, "login-invalid"},
		{"no channel on either side", func(l *Login, _ *sign.PublicKey, w *Expected) { l.Channel, w.Channel = nil, nil }, "login-invalid"},
		{"an unbound slot", func(_ *Login, _ *sign.PublicKey, w *Expected) { w.Bound = false }, "login-refused"},
		{"an unbound slot, no keys at all", func(_ *Login, by *sign.PublicKey, w *Expected) { w.Bound, w.Key, *by = false, nil, nil }, "login-refused"},
		{"another key", func(_ *Login, by *sign.PublicKey, _ *Expected) { *by = other }, "login-refused"},
		{"the key that was replaced", func(_ *Login, _ *sign.PublicKey, w *Expected) { w.Key, w.Epoch = other, 4 }, "login-refused"},
		{"an earlier epoch", func(l *Login, _ *sign.PublicKey, _ *Expected) { l.Epoch = 2 }, "login-refused"},
		{"a later epoch", func(l *Login, _ *sign.PublicKey, _ *Expected) { l.Epoch = 4 }, "login-refused"},
	} {
		l, by, want := good()
		tc.change(&l, &by, &want)
		if got := problem.Code(JudgeLogin(l, by, want)); got != tc.code {
			t.Errorf("%s: code %q, want %q", tc.name, got, tc.code)
		}
	}
}

func TestLoginSignatureIsChecked(t *testing.T) {
	grid := canon.Sum([]byte("grid"))
	s := key(t)
	l := Login{Slot: canon.Sum([]byte("slot")), Epoch: 1, Challenge: make([]byte, 32), Channel: make([]byte, 32)}
	l.Grid = grid
	body, err := SignLogin(t.Context(), l, s)
	if err != nil {
		t.Fatal(err)
	}
	got, by, err := OpenLogin(body, grid)
	if err != nil || !by.Equal(s.Public()) || got.Slot != l.Slot || got.Epoch != 1 {
		t.Fatalf("%+v by %s: %v", got, by, err)
	}
	if len(body) > MaxFrame-1 {
		t.Errorf("a login of %d bytes does not fit a frame", len(body))
	}
	for i := range body {
		bad := bytes.Clone(body)
		bad[i] ^= 1
		if _, k, err := OpenLogin(bad, grid); err == nil && k.Equal(s.Public()) {
			t.Fatalf("byte %d altered: accepted", i)
		}
	}
	if _, _, err := OpenLogin(body, canon.Sum(nil)); problem.Code(err) != "login-invalid" {
		t.Errorf("another grid: %v", err)
	}
	signed, err := contract.DecodeSigned(body)
	if err != nil {
		t.Fatal(err)
	}
	for n, sigs := range [][]contract.Signature{{}, {signed.Signatures[0], signed.Signatures[0]}} {
		b, err := contract.Signed{Statement: signed.Statement, Signatures: sigs}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := OpenLogin(b, grid); problem.Code(err) != "login-invalid" {
			t.Errorf("%d signatures: %v", 2*n, err)
		}
	}
}

func FuzzLogin(f *testing.F) {
	grid := canon.Sum([]byte("grid"))
	l := Login{Slot: canon.Sum([]byte("slot")), Epoch: 1, Challenge: make([]byte, 32), Channel: make([]byte, 32)}
	l.Grid = grid
	body, err := SignLogin(f.Context(), l, sign.FromSeed([32]byte{1}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, by, err := OpenLogin(b, grid)
		if err == nil && by.Equal(sign.FromSeed([32]byte{1}).Public()) && !bytes.Equal(b, body) {
			t.Fatal("forged")
		}
	})
}
