package bus

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Credential is a Session with its private key: it reads in the name of an
// account until it ends. Its encoded form is a secret.
type Credential struct {
	session contract.Signed
	expiry  uint64
	account sign.PublicKey
	seed    [32]byte
	signer  sign.Signer
}

type credentialFile struct {
	V       uint64          `cbor:"v"`
	Session contract.Signed `cbor:"session"`
	Seed    []byte          `cbor:"seed"`
}

const maxCredential = 16 << 10

// NewSession makes a key and has the account sign it for reading, for at most
// eight hours from now. A hardware key is touched here, once.
func NewSession(ctx context.Context, grid canon.Hash, account sign.Signer, now time.Time, life time.Duration) (*Credential, error) {
	if life < time.Second || life > MaxSession*time.Second {
		return nil, problem.New("session-invalid", "make session: %s is not between 1 s and %d s", life, MaxSession)
	}
	var seed [32]byte
	rand.Read(seed[:])
	signer := sign.FromSeed(seed)
	issued := uint64(now.Unix())
	expiry := issued + uint64(life/time.Second)
	s, err := contract.Sign(ctx, Session{
		Header:  header(KindSession, grid),
		Account: account.Public(),
		Key:     signer.Public(),
		Scope:   ScopeRead,
		Issued:  issued,
		Expiry:  expiry,
	}, KindSession, account)
	if err != nil {
		return nil, fmt.Errorf("make session: %w", err)
	}
	return &Credential{session: s, expiry: expiry, account: account.Public(), seed: seed, signer: signer}, nil
}

// Account is the key in whose name the session reads.
func (c *Credential) Account() sign.PublicKey { return c.account }

// Expiry is when the session ends.
func (c *Credential) Expiry() time.Time { return time.Unix(int64(c.expiry), 0) }

// Encode returns the secret bytes to keep between commands; mode 0600.
func (c *Credential) Encode() ([]byte, error) {
	return canon.Marshal(credentialFile{Version, c.session, c.seed[:]})
}

// DecodeSession reads what Encode gave, for the same grid. Errors have the code
// "session-invalid".
func DecodeSession(grid canon.Hash, b []byte) (*Credential, error) {
	var f credentialFile
	if err := canon.UnmarshalLimit(b, maxCredential, &f); err != nil {
		return nil, problem.New("session-invalid", "read session: %w", err)
	}
	if f.V != Version || len(f.Seed) != 32 {
		return nil, problem.New("session-invalid", "read session: unknown format")
	}
	s, _, by, err := openOne[Session](f.Session, KindSession, grid)
	if err != nil {
		return nil, problem.New("session-invalid", "read session: %w", err)
	}
	c := &Credential{session: f.Session, expiry: s.Expiry, account: by, seed: [32]byte(f.Seed)}
	c.signer = sign.FromSeed(c.seed)
	if !by.Equal(s.Account) || !c.signer.Public().Equal(s.Key) || s.Expiry > 1<<40 {
		return nil, problem.New("session-invalid", "read session: its keys do not belong together")
	}
	return c, nil
}
