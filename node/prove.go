package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// ledger is what a prover reads: *light.Client.
type ledger interface {
	Get(ctx context.Context, key string) ([]byte, bool, light.Head, error)
}

// provenFile holds the last proven set, so that a node whose disk survived can
// go on without a ledger. maxProven bounds it.
const (
	provenFile = "proven"
	maxProven  = 64 << 20
)

// fullEvery is how often everything is judged again although the node's record
// did not change: a farm may have withdrawn its consent.
const fullEvery = 30 * time.Second

// proven is what the ledger said that this slot must run, with the evidence.
type proven struct {
	V       uint64     `cbor:"v"`
	Slot    canon.Hash `cbor:"slot"`
	Version uint64     `cbor:"version"` // of the slot's NodeRecord; never goes back
	Cases   []evidence `cbor:"cases"`
}

// evidence is a contract.Evidence less what the boot archive says.
type evidence struct {
	Consent contract.Signed   `cbor:"consent"`
	Group   contract.Signed   `cbor:"group"`
	Members []contract.Signed `cbor:"members"`
	History []contract.Signed `cbor:"history"`
	Entry   contract.RunEntry `cbor:"entry"`
}

// refusal is a contract that the ledger holds and this node does not believe.
type refusal struct {
	contract canon.Hash
	version  uint64
	// workloads are those of this slot by the word of the refused plan.
	workloads []string
	err       error
}

// prover turns the ledger's word into a set of workloads that this node may
// run. It believes values for their proofs and contracts for their signatures.
type prover struct {
	grid       canon.Hash
	farm, slot contract.Signed // from the boot archive
	slotID     canon.Hash
	dir        string // of provenFile; empty: nothing is kept
	log        *slog.Logger

	last   proven
	judged time.Time // when everything was judged last; zero: never
	// deployed is the same set by contract, with its proven history.
	deployed []deployment
}

// restore judges the set that the disk kept. Without one it returns false.
func (p *prover) restore() (set []workload.Desired, ok bool) {
	if p.dir == "" {
		return nil, false
	}
	b, err := os.ReadFile(filepath.Join(p.dir, provenFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	var kept proven
	if err == nil {
		err = canon.UnmarshalLimit(b, maxProven, &kept)
	}
	if err == nil && (kept.V != 1 || kept.Slot != p.slotID) {
		err = fmt.Errorf("it is of slot %s, format %d", kept.Slot.Short(), kept.V)
	}
	if err != nil {
		p.log.Warn("the kept set of contracts is not usable, waiting for the ledger", "error", err)
		return nil, false
	}
	var believed []evidence
	for _, e := range kept.Cases {
		v, err := p.judge(e)
		if err != nil {
			p.log.Warn("refuse a kept contract", "contract", e.Entry.Contract.Short(), "error", err)
			continue
		}
		believed = append(believed, e)
		set = append(set, desired(v)...)
		p.deployed = append(p.deployed, deployed(e, v))
	}
	kept.Cases = believed // what was refused gives nobody rights either
	p.last = kept
	return set, true
}

// read asks the ledger what this slot must run. changed is false when nothing
// is new since the last read; set and refused are then not meaningful.
func (p *prover) read(ctx context.Context, l ledger) (set []workload.Desired, refused []refusal, changed bool, err error) {
	node, _, err := get[contract.NodeRecord](ctx, l, contract.KeyNode(p.slotID))
	if err != nil {
		return nil, nil, false, err
	}
	if node.Version < p.last.Version {
		return nil, nil, false, problem.New("ledger-lying", "the ledger shows version %d of this node's contracts, it showed %d before", node.Version, p.last.Version)
	}
	if node.Version == p.last.Version && !p.judged.IsZero() && time.Since(p.judged) < fullEvery {
		return nil, nil, false, nil
	}
	cases, err := p.gather(ctx, l, node)
	if err != nil {
		return nil, nil, false, err
	}
	next := proven{V: 1, Slot: p.slotID, Version: node.Version}
	set = []workload.Desired{}
	var all []deployment
	for _, now := range cases {
		e, v, err := p.decide(now)
		if err != nil {
			p.log.Warn("refuse a contract", "contract", now.Entry.Contract.Short(), "code", problem.Code(err), "error", err)
			r := p.refuse(now, err)
			if v != nil && v.Version == now.Entry.Version {
				r.workloads = nil // they run on: their own receipts tell how they are
			}
			refused = append(refused, r)
		}
		if v != nil {
			next.Cases = append(next.Cases, e)
			set = append(set, desired(*v)...)
			all = append(all, deployed(e, *v))
		}
	}
	if err := p.keep(next); err != nil {
		// The node runs on; after a reboot without a ledger it would run the
		// older set.
		p.log.Warn("keep the proven set of contracts", "error", err)
	}
	p.last, p.judged, p.deployed = next, time.Now(), all
	return set, refused, true, nil
}

// decide judges what the ledger now says of one contract, next to what was
// believed before. Who holds the ledger may withhold news, but ends or changes
// nothing that runs: that takes the group's own approvals, or the farm's signed
// withdrawal. v is nil when nothing of the contract is to run; err says why the
// ledger's word is not believed.
func (p *prover) decide(now evidence) (e evidence, v *contract.Verdict, err error) {
	fresh, err := p.judge(now)
	var before *evidence
	for i := range p.last.Cases {
		if p.last.Cases[i].Entry.Contract == now.Entry.Contract {
			before = &p.last.Cases[i]
		}
	}
	if before == nil {
		if err != nil {
			return now, nil, err
		}
		return now, &fresh, nil
	}
	if err == nil && fresh.Version >= before.Entry.Version {
		return now, &fresh, nil
	}
	if err == nil {
		err = problem.New("ledger-lying", "the ledger offers version %d again, version %d was proven", fresh.Version, before.Entry.Version)
	}
	if p.withdrawn(now.Consent, before.Consent) {
		return now, nil, err
	}
	ended := now
	ended.Consent = before.Consent
	if len(ended.Group.Statement) == 0 {
		ended.Group, ended.Members = before.Group, before.Members
	}
	// A contract that left this slot is no longer on its list, which then has no
	// version to compare with: the approvals alone say what they come to.
	newest, newestErr := newestApproval(now.History)
	if newestErr == nil {
		ended.Entry.Version, ended.Entry.Plan = newest.Version, plan.Hash(newest.Plan)
	}
	_, endErr := p.judge(ended)
	code := problem.Code(endErr)
	// An older version may have given this slot nothing: that ends nothing.
	if (code == "contract-cancelled" || code == "not-for-this-slot") && newestErr == nil && newest.Version > before.Entry.Version {
		return now, nil, nil
	}
	kept, keptErr := p.judge(*before)
	if keptErr != nil {
		return now, nil, keptErr
	}
	return *before, &kept, err
}

// refuse names what a refused contract would have run here, for receipts.
func (p *prover) refuse(e evidence, err error) refusal {
	r := refusal{contract: e.Entry.Contract, version: e.Entry.Version, err: err}
	a, approvalErr := newestApproval(e.History)
	if approvalErr != nil {
		return r
	}
	asked, err := plan.Decode(a.Plan)
	if err != nil {
		return r
	}
	for _, w := range asked.Workloads {
		if w.Slot == p.slotID {
			r.workloads = append(r.workloads, w.Name)
		}
	}
	return r
}

// newestApproval decodes the last kept approval, whose signatures are not
// judged.
func newestApproval(history []contract.Signed) (a contract.Approval, err error) {
	if len(history) == 0 {
		return a, errors.New("there is no approval")
	}
	err = canon.Unmarshal(history[len(history)-1].Statement, &a)
	return a, err
}

// withdrawn tells whether now is the farm's own, newer word that the group may
// no longer use its nodes.
func (p *prover) withdrawn(now, before contract.Signed) bool {
	farm, _, farmKeys, err := contract.Open[contract.Farm](p.farm, contract.KindFarm, p.grid)
	if err != nil || len(farmKeys) != 1 {
		return false
	}
	n, _, keys, err := contract.Open[contract.Consent](now, contract.KindConsent, p.grid)
	if err != nil || len(keys) != 1 || !bytes.Equal(keys[0], farm.Key) {
		return false
	}
	b, _, _, err := contract.Open[contract.Consent](before, contract.KindConsent, p.grid)
	return err == nil && n.Farm == b.Farm && n.Group == b.Group && n.Sequence > b.Sequence && n.Capacity.IsZero()
}

// gather reads all evidence for one version of the slot's record: of the listed
// contracts, and of those that were believed before and are listed no more.
func (p *prover) gather(ctx context.Context, l ledger, node contract.NodeRecord) ([]evidence, error) {
	runs, _, err := get[contract.RunsRecord](ctx, l, contract.KeyRuns(p.slotID))
	if err != nil {
		return nil, err
	}
	if len(runs.Entries) > contract.MaxRuns {
		return nil, problem.New("record-mismatch", "the ledger lists %d contracts for this node, at most %d are allowed", len(runs.Entries), contract.MaxRuns)
	}
	root, err := contract.Root(runs.Entries)
	if err != nil {
		return nil, err
	}
	if node.Version > 0 && (root != node.Root || uint64(len(runs.Entries)) != node.Count) {
		// Between two blocks the list may be newer than the record; the next
		// read settles it.
		return nil, problem.New("record-mismatch", "the list of this node's contracts is not of version %d", node.Version)
	}
	entries := runs.Entries
	for _, old := range p.last.Cases {
		listed := func(e contract.RunEntry) bool { return e.Contract == old.Entry.Contract }
		if !slices.ContainsFunc(runs.Entries, listed) {
			entries = append(entries, contract.RunEntry{Contract: old.Entry.Contract})
		}
	}
	cases := make([]evidence, 0, len(entries))
	seen := p.remembered()
	for _, entry := range entries {
		e, err := p.evidence(ctx, l, entry, seen)
		if err != nil {
			return nil, fmt.Errorf("read contract %s: %w", entry.Contract.Short(), err)
		}
		cases = append(cases, e)
	}
	return cases, nil
}

// people are what contracts of one group share. A node that runs many of them,
// or those of a large group, reads each record once, and accounts that it has
// believed not again: they can't change.
type people struct {
	groups   map[canon.Hash]contract.Signed
	consents map[canon.Hash]contract.Signed
	accounts map[canon.Hash]contract.Signed
}

// remembered begins a round of reading with the accounts that were believed.
func (p *prover) remembered() people {
	seen := people{map[canon.Hash]contract.Signed{}, map[canon.Hash]contract.Signed{}, map[canon.Hash]contract.Signed{}}
	for _, e := range p.last.Cases {
		for _, m := range e.Members {
			seen.accounts[m.ID()] = m
		}
	}
	return seen
}

// evidence reads what one contract rests on. Missing records stay empty:
// contract.Judge refuses them with a reason.
func (p *prover) evidence(ctx context.Context, l ledger, entry contract.RunEntry, seen people) (evidence, error) {
	e := evidence{Entry: entry}
	k, _, err := get[contract.ContractRecord](ctx, l, contract.KeyContract(entry.Contract))
	if err != nil {
		return e, err
	}
	e.History = k.History
	if e.Group, err = once(seen.groups, k.Group, func() (contract.Signed, error) {
		r, _, err := get[contract.GroupRecord](ctx, l, contract.KeyGroup(k.Group))
		return r.Signed, err
	}); err != nil || len(e.Group.Statement) == 0 {
		return e, err
	}
	var founding contract.Group
	if err := canon.UnmarshalLimit(e.Group.Statement, contract.MaxPlain, &founding); err != nil || founding.Validate() != nil {
		return e, nil // Judge says what is wrong with it; a list without bounds is not read
	}
	for _, m := range founding.Members {
		a, err := once(seen.accounts, m.Account, func() (contract.Signed, error) {
			r, _, err := get[contract.AccountRecord](ctx, l, contract.KeyAccount(m.Account))
			return r.Signed, err
		})
		if err != nil {
			return e, err
		}
		e.Members = append(e.Members, a)
	}
	e.Consent, err = once(seen.consents, k.Group, func() (contract.Signed, error) {
		r, _, err := get[contract.ConsentRecord](ctx, l, contract.KeyConsent(p.farm.ID(), k.Group))
		return r.Signed, err
	})
	return e, err
}

// once returns what seen has under id, read when it has nothing.
func once(seen map[canon.Hash]contract.Signed, id canon.Hash, read func() (contract.Signed, error)) (contract.Signed, error) {
	if s, ok := seen[id]; ok {
		return s, nil
	}
	s, err := read()
	if err == nil {
		seen[id] = s
	}
	return s, err
}

// judge applies contract.Judge to one case.
func (p *prover) judge(e evidence) (contract.Verdict, error) {
	return contract.Judge(contract.Evidence{
		Grid: p.grid, Farm: p.farm, SlotID: p.slotID, Slot: p.slot,
		Consent: e.Consent, Group: e.Group, Members: e.Members, History: e.History, Entry: e.Entry,
	})
}

// desired is what a verdict asks of this node.
func desired(v contract.Verdict) []workload.Desired {
	set := make([]workload.Desired, 0, len(v.Workloads))
	for _, w := range v.Workloads {
		set = append(set, workload.Desired{ID: workload.ID{Contract: v.Contract, Name: w.Name}, Version: v.Version, Plan: w, Deployment: &v.Deployment})
	}
	return set
}

// deployed is what package rollout needs of a believed case.
func deployed(e evidence, v contract.Verdict) deployment {
	return deployment{
		contract: v.Contract, version: v.Version, plan: &v.Deployment, history: e.History,
		asked: v.Asked, granted: v.Granted, offered: v.Offered,
	}
}

// keep writes the set to the data disk.
func (p *prover) keep(set proven) error {
	if p.dir == "" {
		return nil
	}
	b, err := canon.Marshal(set)
	if err != nil {
		return err
	}
	if len(b) > maxProven {
		return problem.New("state-too-large", "the proven set has %d bytes, at most %d are kept", len(b), maxProven)
	}
	path := filepath.Join(p.dir, provenFile)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
		return nil
	}
	return replaceFile(path, b)
}

// replaceFile writes a file so that after a crash there is the old one or the new one.
func replaceFile(path string, b []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// get reads and decodes one record.
func get[T any](ctx context.Context, l ledger, key string) (T, bool, error) {
	var v T
	b, found, _, err := l.Get(ctx, key)
	if err != nil || !found {
		return v, false, err
	}
	if err := canon.Unmarshal(b, &v); err != nil {
		return v, false, problem.New("record-mismatch", "read ledger record %s: %w", key, err)
	}
	return v, true, nil
}
