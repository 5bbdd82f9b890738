package secret

import (
	"bytes"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/spec/plan"
)

func key(t testing.TB, n byte) *seal.PrivateKey {
	t.Helper()
	k, err := seal.KeyFromSeed([32]byte{n})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func info() Info {
	return Info{Grid: canon.Hash{1}, Group: canon.Hash{2}, Deployment: "shop", Workload: "db-1", Name: "password", Epoch: 3}
}

func sealed(t testing.TB, k *seal.PrivateKey, in Info, value []byte) []byte {
	t.Helper()
	b, err := Seal(k.Public(), in, value)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > plan.MaxSecret {
		t.Fatalf("%d bytes sealed to %d, a plan takes %d", len(value), len(b), plan.MaxSecret)
	}
	return b
}

func TestSecretOpensForItsNodeAndPlace(t *testing.T) {
	k := key(t, 1)
	for _, value := range [][]byte{{}, []byte("x"), {0}, {0x80}, {0x80, 0, 0}, bytes.Repeat([]byte{0x80}, block-1), make([]byte, block), make([]byte, MaxValue)} {
		got, err := Open(k, info(), sealed(t, k, info(), value))
		if err != nil || !bytes.Equal(got, value) {
			t.Errorf("%x: got %x, %v", value, got, err)
		}
	}
}

// A sealed secret spliced into another plan must stay closed.
func TestSecretSplicedIntoAnotherPlanDoesNotOpen(t *testing.T) {
	k := key(t, 1)
	b := sealed(t, k, info(), []byte("hunter2"))
	for what, change := range map[string]func(*Info){
		"another grid":       func(in *Info) { in.Grid = canon.Hash{9} },
		"another group":      func(in *Info) { in.Group = canon.Hash{9} },
		"grid for group":     func(in *Info) { in.Grid, in.Group = in.Group, in.Grid },
		"another deployment": func(in *Info) { in.Deployment = "leak" },
		"another workload":   func(in *Info) { in.Workload = "db-2" },
		"another name":       func(in *Info) { in.Name = "motd" },
		"shifted border":     func(in *Info) { in.Deployment, in.Workload = "shopd", "b-1" },
		"another epoch":      func(in *Info) { in.Epoch = 4 },
		"no epoch":           func(in *Info) { in.Epoch = 0 },
	} {
		in := info()
		change(&in)
		if got, err := Open(k, in, b); problem.Code(err) != "secret-unreadable" || got != nil {
			t.Errorf("%s: got %q, %v", what, got, err)
		}
	}
	if got, err := Open(key(t, 2), info(), b); problem.Code(err) != "secret-unreadable" || got != nil {
		t.Errorf("another node: got %q, %v", got, err)
	}
	for _, torn := range [][]byte{nil, b[:len(b)-1], append(bytes.Clone(b), 0), make([]byte, plan.MaxSecret+1)} {
		if got, err := Open(k, info(), torn); problem.Code(err) != "secret-unreadable" || got != nil {
			t.Errorf("altered: got %q, %v", got, err)
		}
	}
}

// What was sealed to the node's key for the bus is no secret of a plan.
func TestOtherSealedBytesAreNoSecret(t *testing.T) {
	k := key(t, 1)
	in, err := info().bytes()
	if err != nil {
		t.Fatal(err)
	}
	for what, padded := range map[string][]byte{
		"nothing": {}, "no end": make([]byte, block), "not whole": append([]byte("x"), 0x80), "too much": append(pad([]byte("x")), make([]byte, block)...),
	} {
		b, err := seal.Seal(k.Public(), in, padded)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Open(k, info(), b); problem.Code(err) != "secret-unreadable" {
			t.Errorf("%s: got %q, %v", what, got, err)
		}
	}
	b, err := seal.Seal(k.Public(), []byte("request"), pad([]byte("x")))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Open(k, info(), b); problem.Code(err) != "secret-unreadable" {
		t.Errorf("another purpose: got %q, %v", got, err)
	}
}

func TestLengthOfASecretIsHidden(t *testing.T) {
	k := key(t, 1)
	short, long := sealed(t, k, info(), []byte("a")), sealed(t, k, info(), bytes.Repeat([]byte("a"), block-1))
	if len(short) != len(long) {
		t.Errorf("1 byte is sealed to %d, %d bytes to %d", len(short), block-1, len(long))
	}
}

func TestTooLargeOrUnsealableSecretIsRefused(t *testing.T) {
	if _, err := Seal(key(t, 1).Public(), info(), make([]byte, MaxValue+1)); problem.Code(err) != "secret-invalid" {
		t.Errorf("too large: %v", err)
	}
	if _, err := Seal([]byte("no key"), info(), nil); problem.Code(err) != "key-invalid" {
		t.Errorf("no key: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	k := key(f, 1)
	good := sealed(f, k, info(), []byte("value"))
	f.Add("shop", "db-1", "password", uint64(3), good)
	f.Add("", "", "", uint64(0), []byte{1})
	f.Fuzz(func(t *testing.T, deployment, workload, name string, epoch uint64, b []byte) {
		in := Info{Grid: canon.Hash{1}, Group: canon.Hash{2}, Deployment: deployment, Workload: workload, Name: name, Epoch: epoch}
		got, err := Open(k, in, b)
		if err == nil && (in != info() || !bytes.Equal(b, good) || string(got) != "value") {
			t.Errorf("opened what was never sealed: %q", got)
		}
	})
}
