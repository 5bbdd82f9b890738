package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Evidence shows, to anyone and without a ledger, that a group decided a
// contract: everything in it is signed by those whom it speaks of.
type Evidence struct {
	V       uint64            `cbor:"v"`
	Grid    canon.Hash        `cbor:"grid"`
	Group   contract.Signed   `cbor:"group"`
	Members []contract.Signed `cbor:"members"` // accounts, in the order of the group's members
	History []contract.Signed `cbor:"history"` // accepted approvals, oldest first
}

// Files of an exported contract. Beside them, NAME.sig holds the armored
// signature of each member who approved the newest version.
const (
	StatementFile = "statement"       // the newest approval's bytes: what was signed
	SignersFile   = "allowed_signers" // the members' keys, for ssh-keygen
	EvidenceFile  = "evidence.cbor"   // canonical Evidence
)

// maxEvidence bounds an evidence file: a full history, a full group.
const maxEvidence = 4 << 20

// Evidence collects the evidence of a contract.
func (c *Client) Evidence(ctx context.Context, k Contract) (Evidence, error) {
	e := Evidence{V: 1, Grid: c.Grid(), History: k.History}
	g, ok, err := Get[contract.GroupRecord](ctx, c, contract.KeyGroup(k.Group))
	if err != nil {
		return e, err
	}
	if !ok {
		return e, problem.New("group-unknown", "no group %s", k.Group.Short())
	}
	e.Group = g.Signed
	group, _, _, err := contract.Open[contract.Group](g.Signed, contract.KindGroup, e.Grid)
	if err != nil {
		return e, err
	}
	for _, m := range group.Members {
		a, ok, err := Get[contract.AccountRecord](ctx, c, contract.KeyAccount(m.Account))
		if err != nil {
			return e, err
		}
		if !ok {
			return e, problem.New("account-unknown", "no account %s", m.Account.Short())
		}
		e.Members = append(e.Members, a.Signed)
	}
	return e, nil
}

// Version is one approved version of a contract.
type Version struct {
	ID       canon.Hash // hash of the statement; the proposal's id
	Approval contract.Approval
	Signers  []string // names of the accounts that approved, sorted
}

// Judged is what evidence comes to.
type Judged struct {
	Grid     canon.Hash
	GroupID  canon.Hash
	Group    contract.Group
	Contract canon.Hash
	Members  map[string]sign.PublicKey // by name
	Versions []Version
}

// Judge checks evidence by the rules that nodes apply, and nothing else: no
// ledger is asked. Whether the grid and the group are the right ones is for the
// reader, who compares their ids.
func (e Evidence) Judge() (Judged, error) {
	approvals, err := contract.JudgeHistory(e.Grid, e.Group, e.Members, e.History)
	if err != nil {
		return Judged{}, err
	}
	group, id, _, err := contract.Open[contract.Group](e.Group, contract.KindGroup, e.Grid)
	if err != nil {
		return Judged{}, err
	}
	j := Judged{Grid: e.Grid, GroupID: id, Group: group, Contract: e.History[0].ID(), Members: map[string]sign.PublicKey{}}
	names := map[string]string{} // by key
	for _, m := range e.Members {
		a, _, _, err := contract.Open[contract.Account](m, contract.KindAccount, e.Grid)
		if err != nil {
			return Judged{}, err
		}
		// A name becomes a file's.
		if _, twice := j.Members[a.Name]; twice || !contract.ValidName(a.Name) {
			return Judged{}, problem.New("group-untrusted", "two members are named %.63q, or none may be", a.Name)
		}
		j.Members[a.Name], names[string(a.Key)] = sign.PublicKey(a.Key), a.Name
	}
	for i, s := range e.History {
		v := Version{ID: s.ID(), Approval: approvals[i]}
		for _, g := range s.Signatures {
			v.Signers = append(v.Signers, names[string(g.Key)])
		}
		sort.Strings(v.Signers)
		j.Versions = append(j.Versions, v)
	}
	return j, nil
}

// Export writes evidence, and the newest approval in the form that ssh-keygen
// checks by itself, into a directory, which is made when absent. It returns the
// files' names.
func (e Evidence) Export(dir string) ([]string, error) {
	files, err := e.files()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory to export to: %w", err)
	}
	names := make([]string, 0, len(files))
	for name, b := range files {
		if err := replaceFile(filepath.Join(dir, name), b); err != nil {
			return nil, fmt.Errorf("export %s: %w", name, err)
		}
		names = append(names, name)
	}
	sort.Strings(names)
	return names, nil
}

// files are the contents of an exported directory.
func (e Evidence) files() (map[string][]byte, error) {
	j, err := e.Judge()
	if err != nil {
		return nil, err
	}
	all, err := canon.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode the evidence: %w", err)
	}
	newest := e.History[len(e.History)-1]
	files := map[string][]byte{StatementFile: newest.Statement, EvidenceFile: all}
	signers := make([]string, 0, len(j.Members))
	for name, key := range j.Members {
		signers = append(signers, sign.AllowedSigner(name, key, contract.KindApproval))
		for _, s := range newest.Signatures {
			if bytes.Equal(s.Key, key) {
				files[name+".sig"] = sign.Armor(s.Sig)
			}
		}
	}
	sort.Strings(signers)
	files[SignersFile] = []byte(strings.Join(signers, ""))
	return files, nil
}

// ReadEvidence reads an exported directory. The files for ssh-keygen must say
// the same as the evidence, else the code is "evidence-altered".
func ReadEvidence(dir string) (Evidence, error) {
	var e Evidence
	b, err := readBounded(filepath.Join(dir, EvidenceFile))
	if err != nil {
		return e, fmt.Errorf("read the evidence: %w", err)
	}
	if err := canon.Unmarshal(b, &e); err != nil {
		return e, problem.New("statement-invalid", "read the evidence in %s: %w", dir, err)
	}
	if e.V != 1 {
		return e, problem.New("wrong-version", "the evidence in %s has format %d, this program knows 1", dir, e.V)
	}
	files, err := e.files()
	if err != nil {
		return e, err
	}
	for name, want := range files {
		got, err := readBounded(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, want) {
			return e, errors.Join(problem.New("evidence-altered", "%s is not what the evidence says", filepath.Join(dir, name)).
				WithFix("export it again: zos contract show CONTRACT --export DIR"), err)
		}
	}
	return e, nil
}

func readBounded(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxEvidence {
		return nil, problem.New("too-large", "%s has %d bytes, at most %d are read", path, st.Size(), maxEvidence)
	}
	return os.ReadFile(path)
}
