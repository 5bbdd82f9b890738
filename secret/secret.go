package secret

import (
	"bytes"
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/spec/plan"
)

// MaxValue is how many bytes a value may have.
const MaxValue = (plan.MaxSecret-seal.Overhead)/block*block - 1

// block is the size to whose multiples values are padded, in bytes: a plan is
// public, and the exact length of a password is nobody's business.
const block = 64

// kind separates what is sealed here from every other use of a node's key.
const kind = "zos-secret-v1"

// Info is what a sealed value is bound to.
type Info struct {
	Grid       canon.Hash // id of the grid
	Group      canon.Hash // id of the group whose deployment it is
	Deployment string
	Workload   string // a replica's own name
	Name       string // of the secret
	Epoch      uint64 // of the slot's keys
}

// Opener is a node's sealing key; *seal.PrivateKey is one.
type Opener interface {
	Open(info, sealed []byte) ([]byte, error)
}

// Seal encrypts value to pub, the sealing key that is bound to the workload's slot
// in in.Epoch. The result goes into plan.Secret and differs at every call; its
// length tells that of the value to 64 bytes. Codes: "secret-invalid",
// "key-invalid".
func Seal(pub []byte, in Info, value []byte) ([]byte, error) {
	if len(value) > MaxValue {
		return nil, problem.New("secret-invalid", "secret %s has %d bytes, at most %d are allowed", in.Name, len(value), MaxValue).
			WithFix("put what is that large into the image or onto a disk, encrypted with a key that is the secret")
	}
	info, err := in.bytes()
	if err != nil {
		return nil, err
	}
	sealed, err := seal.Seal(pub, info, pad(value))
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", in.Name, err)
	}
	return sealed, nil
}

// Open decrypts what Seal made for the same Info. Code: "secret-unreadable", which
// never tells what was wrong.
func Open(key Opener, in Info, sealed []byte) ([]byte, error) {
	unreadable := func() ([]byte, error) {
		return nil, problem.New("secret-unreadable", "secret %s of %s/%s can't be opened with the node's key of epoch %d", in.Name, in.Deployment, in.Workload, in.Epoch).
			WithFix("approve a version of the deployment that was planned with the secret's value: zos deploy")
	}
	info, err := in.bytes()
	if err != nil || len(sealed) > plan.MaxSecret {
		return unreadable()
	}
	padded, err := key.Open(info, sealed)
	if err != nil {
		return unreadable()
	}
	value, ok := unpad(padded)
	if !ok {
		return unreadable()
	}
	return value, nil
}

// bytes is the info of the encryption: canonical, so that no two Infos have one.
func (in Info) bytes() ([]byte, error) {
	b, err := canon.Marshal(struct {
		Kind       string     `cbor:"kind"`
		Grid       canon.Hash `cbor:"grid"`
		Group      canon.Hash `cbor:"group"`
		Deployment string     `cbor:"deployment"`
		Workload   string     `cbor:"workload"`
		Name       string     `cbor:"name"`
		Epoch      uint64     `cbor:"epoch"`
	}{kind, in.Grid, in.Group, in.Deployment, in.Workload, in.Name, in.Epoch})
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", in.Name, err)
	}
	return b, nil
}

// pad appends 0x80 and zeros up to a multiple of block (ISO/IEC 7816-4).
func pad(value []byte) []byte {
	out := make([]byte, (len(value)/block+1)*block)
	copy(out, value)
	out[len(value)] = 0x80
	return out
}

func unpad(b []byte) ([]byte, bool) {
	end := bytes.TrimRight(b, "\x00")
	if len(b) == 0 || len(b)%block != 0 || len(b)-len(end) >= block || len(end) == 0 || end[len(end)-1] != 0x80 {
		return nil, false
	}
	return end[:len(end)-1], true
}
