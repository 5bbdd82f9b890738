package domain

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// Limits of a proof.
const (
	MaxProof      = 8192 // bytes of the text
	MaxSignatures = 24
)

// version begins every proof. Text records that begin otherwise are others'.
const version = "zos1"

// Proof is what a text record says: "zos1 group=HEX sig=BASE64 sig=BASE64 …".
type Proof struct {
	Group      canon.Hash
	Signatures [][]byte // SSHSIG blobs over a Statement
}

// RecordName is where the proof of domain stands.
func RecordName(domain string) string { return "_zos." + domain }

// Covers tells whether a proof of domain is one of host too: the same, or below.
func Covers(domain, host string) bool {
	return host == domain || strings.HasSuffix(host, "."+domain)
}

// Sign returns one member's signature for a proof. Code: "domain-proof-invalid" if
// s names no domain.
func Sign(ctx context.Context, s Statement, member sign.Signer) ([]byte, error) {
	b, err := s.checked()
	if err != nil {
		return nil, err
	}
	return member.Sign(ctx, Namespace, b)
}

func (s Statement) checked() ([]byte, error) {
	if !plan.ValidHost(s.Domain) || s.Grid.IsZero() || s.Group.IsZero() {
		return nil, badProof("%.200q is no domain in lower case, or grid or group are missing", s.Domain)
	}
	return s.Bytes()
}

func badProof(format string, args ...any) *problem.Error {
	return problem.New("domain-proof-invalid", "proof of a domain: "+format, args...).
		WithFix("have members sign anew, and copy the whole text into the record")
}

// Make returns the text of a record.
func Make(p Proof) (string, error) {
	if p.Group.IsZero() || len(p.Signatures) == 0 || len(p.Signatures) > MaxSignatures {
		return "", badProof("no group, or %d signatures; 1 to %d are allowed", len(p.Signatures), MaxSignatures)
	}
	var b strings.Builder
	b.WriteString(version + " group=" + hex.EncodeToString(p.Group[:]))
	for _, s := range p.Signatures {
		b.WriteString(" sig=" + base64.StdEncoding.EncodeToString(s))
	}
	if b.Len() > MaxProof {
		return "", badProof("%d bytes, at most %d are allowed", b.Len(), MaxProof)
	}
	return b.String(), nil
}

// Parse reads the text of a record. Code: "domain-proof-invalid".
func Parse(text string) (Proof, error) {
	if len(text) > MaxProof {
		return Proof{}, badProof("%d bytes, at most %d are allowed", len(text), MaxProof)
	}
	words := strings.Fields(text)
	if len(words) < 3 || words[0] != version {
		return Proof{}, badProof("it does not begin with %q, or lacks a part", version)
	}
	group, ok := strings.CutPrefix(words[1], "group=")
	id, err := canon.ParseHash(group)
	if !ok || err != nil || id.IsZero() {
		return Proof{}, badProof("%.100q names no group", words[1])
	}
	if len(words)-2 > MaxSignatures {
		return Proof{}, badProof("%d signatures, at most %d are allowed", len(words)-2, MaxSignatures)
	}
	p := Proof{Group: id}
	for _, w := range words[2:] {
		s, ok := strings.CutPrefix(w, "sig=")
		b, err := base64.StdEncoding.Strict().DecodeString(s)
		if !ok || err != nil || len(b) == 0 || len(b) > sign.MaxSigSize {
			return Proof{}, badProof("%.40q is no signature", w)
		}
		p.Signatures = append(p.Signatures, b)
	}
	return p, nil
}

// Verify tells whether texts, the records at RecordName(s.Domain), prove s: some one
// of them names s.Group and carries signatures of members whose weights together
// reach the group's threshold. g is the group with the id s.Group, and keys are
// its members' by account; both are the caller's to have proven.
//
// An account counts once. Signatures of others, of other keys, over other
// statements count nothing. Codes: "domain-unproven", and "domain-proof-invalid" if
// a proof is there that can't be read.
func Verify(s Statement, g contract.Group, keys map[canon.Hash]sign.PublicKey, texts []string) error {
	message, err := s.checked()
	if err != nil {
		return err
	}
	if err := g.Validate(); err != nil {
		return err
	}
	var best uint64
	var unread error
	found := false
	for _, t := range texts {
		if !strings.HasPrefix(strings.TrimSpace(t), version+" ") {
			continue // another service's
		}
		p, err := Parse(t)
		if err != nil {
			unread = err
			continue
		}
		if p.Group != s.Group {
			continue // another group's
		}
		found = true
		w := weight(message, g, keys, p)
		if w >= g.Threshold {
			return nil
		}
		best = max(best, w)
	}
	switch {
	case found:
		return problem.New("domain-unproven", "%s: the record's valid signatures weigh %d, group %s needs %d", RecordName(s.Domain), best, g.Name, g.Threshold).
			WithFix("let more members sign")
	case unread != nil:
		return unread
	}
	return problem.New("domain-unproven", "%s: no record names group %s", RecordName(s.Domain), s.Group.Short()).
		WithFix("put the text that the members signed into a TXT record of this name")
}

// weight adds up the members that have signed message, each once.
func weight(message []byte, g contract.Group, keys map[canon.Hash]sign.PublicKey, p Proof) uint64 {
	counted := map[canon.Hash]bool{}
	keyed := map[string]bool{}
	var sum uint64 // at most MaxMembers times MaxWeight: it can't overflow
	for _, sig := range p.Signatures {
		pub, namespace, err := sign.Parse(sig)
		if err != nil || namespace != Namespace {
			continue
		}
		for account, key := range keys {
			if !key.Equal(pub) || counted[account] || keyed[string(key)] || g.Weight(account) == 0 || sign.Verify(key, Namespace, message, sig) != nil {
				continue
			}
			counted[account], keyed[string(key)] = true, true
			sum += g.Weight(account)
		}
	}
	return sum
}
