package contract

import (
	"bytes"
	"math"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// KindGenesis is the kind of a Genesis, which nobody signs.
const KindGenesis = "zos-genesis-v1"

// ValidName tells whether s can name an account, a group, a farm, a slot or a
// deployment: [a-z0-9-]{1,63}.
func ValidName(s string) bool { return plan.ValidName(s) }

// EncodeGenesis validates g and returns its canonical bytes. Their hash is the
// grid's id.
func EncodeGenesis(g Genesis) ([]byte, error) {
	if err := g.validate(); err != nil {
		return nil, err
	}
	return canon.Marshal(g)
}

// DecodeGenesis reads and validates canonical genesis bytes. Errors have the
// code "genesis-invalid".
func DecodeGenesis(b []byte) (Genesis, error) {
	var g Genesis
	if err := canon.UnmarshalLimit(b, MaxPlain, &g); err != nil {
		return Genesis{}, problem.New("genesis-invalid", "read genesis: %w", err)
	}
	return g, g.validate()
}

func (g Genesis) validate() error {
	bad := func(format string, args ...any) error {
		return problem.New("genesis-invalid", "genesis: "+format, args...)
	}
	switch {
	case g.V != Version || g.Kind != KindGenesis:
		return bad("kind %.64q, format %d are not known", g.Kind, g.V)
	case !ValidName(g.Name):
		return bad("name %.80q: want [a-z0-9-], 1 to 63 characters", g.Name)
	case len(g.Nonce) != NonceSize:
		return bad("the nonce has %d bytes, want %d", len(g.Nonce), NonceSize)
	case len(g.Validators) == 0 || len(g.Validators) > MaxValidators:
		return bad("%d validators, want 1 to %d", len(g.Validators), MaxValidators)
	case len(g.ReleaseKeys) == 0 || len(g.ReleaseKeys) > MaxReleaseKeys:
		return bad("%d release keys, want 1 to %d", len(g.ReleaseKeys), MaxReleaseKeys)
	case g.ReleaseThreshold < 1 || g.ReleaseThreshold > uint64(len(g.ReleaseKeys)):
		return bad("%d of %d release keys can never sign", g.ReleaseThreshold, len(g.ReleaseKeys))
	}
	for i, v := range g.Validators {
		if !ValidName(v.Name) || len(v.Key) != 32 || v.Power < 1 || v.Power > math.MaxInt32 {
			return bad("validator %d: name, key or power is out of range", i)
		}
		for _, w := range g.Validators[:i] {
			if w.Name == v.Name || bytes.Equal(w.Key, v.Key) {
				return bad("validator %s stands twice", v.Name)
			}
		}
	}
	for i, k := range g.ReleaseKeys {
		if _, err := sign.ParsePublicKey(k); err != nil {
			return bad("release key %d: %w", i, err)
		}
		for _, l := range g.ReleaseKeys[:i] {
			if bytes.Equal(k, l) {
				return bad("release key %s stands twice", sign.PublicKey(k).Fingerprint())
			}
		}
	}
	return nil
}
