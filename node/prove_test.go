package node

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// book is a ledger's state in memory, with the real rules, read without proofs:
// these tests are about what a node makes of a proven value.
type book map[string][]byte

func (b book) Get(key string) []byte        { return b[key] }
func (b book) Set(key string, value []byte) { b[key] = value }
func (b book) Delete(key string)            { delete(b, key) }

// reader is the book as a prover reads it.
type reader struct{ book }

func (r reader) Get(_ context.Context, key string) ([]byte, bool, light.Head, error) {
	v, ok := r.book[key]
	return v, ok, light.Head{}, nil
}

// grid is a grid of three people, a farm and a slot, as the rules made it.
type grid struct {
	*testing.T
	book    book
	id      canon.Hash
	now     uint64
	people  []sign.Signer
	farmer  sign.Signer
	keeper  sign.Signer // of the release key
	genesis contract.Genesis
	group   canon.Hash
	farm    contract.Signed
	slot    contract.Signed
	prover  *prover
}

func newGrid(t *testing.T) *grid {
	t.Helper()
	g := &grid{T: t, book: book{}, now: 1_800_000_000}
	genesis := contract.Genesis{V: contract.Version, Kind: contract.KindGenesis, Name: "test", Created: g.now, Nonce: contract.NewNonce(), ReleaseThreshold: 1}
	validator, release := g.signer(), g.signer()
	_ = validator
	genesis.Validators = []contract.Validator{{Name: "v", Key: make([]byte, 32), Power: 1}}
	genesis.ReleaseKeys = [][]byte{release.Public()}
	g.keeper, g.genesis = release, genesis
	encoded, err := contract.EncodeGenesis(genesis)
	if err != nil {
		t.Fatal(err)
	}
	if err := contract.Init(g.book, encoded); err != nil {
		t.Fatal(err)
	}
	g.id = canon.Sum(encoded)
	var members []contract.Member
	for _, name := range []string{"red", "green", "blue"} {
		key := g.signer()
		s := g.apply(contract.NewAccount(g.id, name, key.Public()), contract.KindAccount, key)
		members = append(members, contract.Member{Account: s.ID(), Weight: 1})
		g.people = append(g.people, key)
	}
	g.group = g.apply(contract.NewGroup(g.id, "demo", members[0].Account, 2, contract.NewNonce(), members...), contract.KindGroup, g.people[0]).ID()
	g.farmer = g.signer()
	g.farm = g.apply(contract.NewFarm(g.id, "home", g.farmer.Public()), contract.KindFarm, g.farmer)
	room := contract.Capacity{CPU: 4000, Memory: 1 << 30, Disk: 1 << 30}
	g.slot = g.apply(contract.NewSlot(g.id, g.farm.ID(), "n", "mac:52:54:00:00:00:01", contract.IdentityDisk, []string{"d"}, room), contract.KindSlot, g.farmer)
	g.consent(room, 1)
	g.prover = g.newProver("")
	return g
}

func (g *grid) newProver(dir string) *prover {
	return &prover{grid: g.id, farm: g.farm, slot: g.slot, slotID: g.slot.ID(), dir: dir, log: slog.New(slog.DiscardHandler)}
}

func (g *grid) signer() sign.Signer {
	g.Helper()
	_, s, err := sign.Generate()
	if err != nil {
		g.Fatal(err)
	}
	return s
}

func (g *grid) apply(st contract.Statement, kind string, by ...sign.Signer) contract.Signed {
	g.Helper()
	s, err := contract.Sign(g.Context(), st, kind, by...)
	if err != nil {
		g.Fatal(err)
	}
	tx, err := s.Encode()
	if err != nil {
		g.Fatal(err)
	}
	if _, err := contract.Apply(g.book, g.now, tx); err != nil {
		g.Fatal(err)
	}
	return s
}

func (g *grid) consent(c contract.Capacity, sequence uint64) {
	g.Helper()
	g.apply(contract.NewConsent(g.id, g.farm.ID(), g.group, c, sequence, g.now+1000), contract.KindConsent, g.farmer)
}

// plan is one container named after its command.
func (g *grid) plan(name, command string) (plan.Plan, []byte) {
	g.Helper()
	config, err := canon.Marshal(plan.Container{V: plan.Version, Flist: canon.Sum([]byte("image")), Size: 1, Args: []string{command}, Env: []string{"PATH=/bin"},
		WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), NoNewPrivs: true})
	if err != nil {
		g.Fatal(err)
	}
	p := plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: g.group, Name: name, Workloads: []plan.Workload{{Name: "w", Kind: plan.KindContainer, Slot: g.slot.ID(),
		Resources: plan.Resources{CPU: 100, Memory: 1 << 20, Disk: 1 << 20, PIDs: 8}, Config: config}}}
	b, err := plan.Encode(p)
	if err != nil {
		g.Fatal(err)
	}
	return p, b
}

func (g *grid) deploy(name string) canon.Hash {
	g.Helper()
	p, b := g.plan(name, "/one")
	return g.apply(contract.NewDeploy(g.id, p, b, 1, contract.NewNonce(), g.now+100), contract.KindApproval, g.people[0], g.people[1]).ID()
}

func (g *grid) update(id canon.Hash, name string, current uint64) {
	g.Helper()
	p, b := g.plan(name, "/two")
	g.apply(contract.NewUpdate(g.id, id, current, p, b, 1, contract.NewNonce(), g.now+100), contract.KindApproval, g.people[1], g.people[2])
}

func (g *grid) cancel(id canon.Hash, name string, current uint64) {
	g.Helper()
	a, err := contract.NewCancel(g.id, id, g.group, name, current, 1, contract.NewNonce(), g.now+100)
	if err != nil {
		g.Fatal(err)
	}
	g.apply(a, contract.KindApproval, g.people[0], g.people[2])
}

// read lets the prover look, everything anew, and returns the versions of what
// it would run and the codes of what it refuses.
func (g *grid) read(b book) (versions []uint64, refused []string) {
	g.Helper()
	g.prover.judged = time.Time{}
	set, no, _, err := g.prover.read(g.Context(), reader{b})
	if err != nil {
		g.Fatal(err)
	}
	for _, d := range set {
		versions = append(versions, d.Version)
	}
	for _, r := range no {
		refused = append(refused, problem.Code(r.err))
	}
	return versions, refused
}

func (g *grid) expect(b book, versions []uint64, refused []string) {
	g.Helper()
	v, r := g.read(b)
	if len(v) != len(versions) || len(r) != len(refused) {
		g.Fatalf("runs %v and refuses %v, want %v and %v", v, r, versions, refused)
	}
	for i := range v {
		if v[i] != versions[i] {
			g.Fatalf("runs %v, want %v", v, versions)
		}
	}
	for i := range r {
		if r[i] != refused[i] {
			g.Fatalf("refuses %v, want %v", r, refused)
		}
	}
}

// forget makes a ledger that withholds a contract: the list and the record of
// the slot are consistent without it.
func (g *grid) forget(b book, id canon.Hash, keep ...contract.RunEntry) {
	g.Helper()
	rec, _, err := contract.Load[contract.NodeRecord](b, contract.KeyNode(g.slot.ID()))
	if err != nil {
		g.Fatal(err)
	}
	root, err := contract.Root(keep)
	if err != nil {
		g.Fatal(err)
	}
	g.set(b, contract.KeyNode(g.slot.ID()), contract.NodeRecord{Count: uint64(len(keep)), Version: rec.Version + 1, Root: root})
	g.set(b, contract.KeyRuns(g.slot.ID()), contract.RunsRecord{Entries: keep})
	delete(b, contract.KeyRun(g.slot.ID(), id))
}

func (g *grid) set(b book, key string, v any) {
	g.Helper()
	raw, err := canon.Marshal(v)
	if err != nil {
		g.Fatal(err)
	}
	b[key] = raw
}

func TestDeployUpdateAndCancelAreFollowed(t *testing.T) {
	g := newGrid(t)
	g.expect(g.book, nil, nil)
	id := g.deploy("shop")
	g.expect(g.book, []uint64{1}, nil)
	g.update(id, "shop", 1)
	g.expect(g.book, []uint64{2}, nil)
	g.cancel(id, "shop", 2)
	g.expect(g.book, nil, nil)
}

// TestAWorkloadThatMovesAwayEndsHere plays an update that gives the workload to
// another slot, and then a ledger that offers that update again when the group
// has brought the workload back.
func TestAWorkloadThatMovesAwayEndsHere(t *testing.T) {
	g := newGrid(t)
	other := g.apply(contract.NewSlot(g.id, g.farm.ID(), "other", "mac:52:54:00:00:00:02", contract.IdentityDisk, []string{"e"},
		contract.Capacity{CPU: 4000, Memory: 1 << 30, Disk: 1 << 30}), contract.KindSlot, g.farmer)
	id := g.deploy("shop")
	g.expect(g.book, []uint64{1}, nil)
	p, _ := g.plan("shop", "/one")
	p.Workloads[0].Slot = other.ID()
	b, err := plan.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	g.apply(contract.NewUpdate(g.id, id, 1, p, b, 1, contract.NewNonce(), g.now+100), contract.KindApproval, g.people[1], g.people[2])
	away := maps.Clone(g.book)
	g.expect(g.book, nil, nil)

	g.update(id, "shop", 2)
	g.expect(g.book, []uint64{3}, nil)
	rec, _, err := contract.Load[contract.NodeRecord](g.book, contract.KeyNode(g.slot.ID()))
	if err != nil {
		t.Fatal(err)
	}
	before, _, err := contract.Load[contract.NodeRecord](away, contract.KeyNode(g.slot.ID()))
	if err != nil {
		t.Fatal(err)
	}
	before.Version = rec.Version + 1
	g.set(away, contract.KeyNode(g.slot.ID()), before)
	g.expect(away, []uint64{3}, []string{"record-mismatch"})
}

func TestAFarmThatWithdrawsItsConsentEndsWhatRuns(t *testing.T) {
	g := newGrid(t)
	g.deploy("shop")
	g.expect(g.book, []uint64{1}, nil)
	g.consent(contract.Capacity{}, 2)
	g.expect(g.book, nil, []string{"no-consent"})
}

// TestAFarmThatGrantsLessLeavesWhatRuns plays a consent below what the group
// uses already: its workloads run on, and no receipt says that they failed.
func TestAFarmThatGrantsLessLeavesWhatRuns(t *testing.T) {
	g := newGrid(t)
	g.deploy("shop")
	g.expect(g.book, []uint64{1}, nil)
	g.consent(contract.Capacity{CPU: 1, Memory: 1, Disk: 1}, 2)
	g.prover.judged = time.Time{}
	set, refused, _, err := g.prover.read(t.Context(), reader{g.book})
	if err != nil || len(set) != 1 || len(refused) != 1 || problem.Code(refused[0].err) != "capacity-exceeded" || len(refused[0].workloads) != 0 {
		t.Fatalf("runs %v, refuses %+v, %v", set, refused, err)
	}
}

// TestAColludingLedgerEndsNothing plays validators who hold all keys and hide
// or replace what a group approved: what was proven goes on.
func TestAColludingLedgerEndsNothing(t *testing.T) {
	for name, lie := range map[string]func(g *grid, b book, id canon.Hash){
		"the contract is gone": func(g *grid, b book, id canon.Hash) {
			g.forget(b, id)
			delete(b, contract.KeyContract(id))
		},
		"it is marked cancelled without approvals": func(g *grid, b book, id canon.Hash) {
			g.forget(b, id)
			rec, _, _ := contract.Load[contract.ContractRecord](b, contract.KeyContract(id))
			rec.State, rec.Version = contract.ContractCancelled, rec.Version+1
			g.set(b, contract.KeyContract(id), rec)
		},
		"the consent is gone": func(g *grid, b book, id canon.Hash) {
			delete(b, contract.KeyConsent(g.farm.ID(), g.group))
		},
		"the group is gone": func(g *grid, b book, id canon.Hash) { delete(b, contract.KeyGroup(g.group)) },
		"a withdrawal that the farm did not sign": func(g *grid, b book, id canon.Hash) {
			s, err := contract.Sign(g.Context(), contract.NewConsent(g.id, g.farm.ID(), g.group, contract.Capacity{}, 9, g.now+1000), contract.KindConsent, g.people[0])
			if err != nil {
				g.Fatal(err)
			}
			g.set(b, contract.KeyConsent(g.farm.ID(), g.group), contract.ConsentRecord{Signed: s})
		},
		"a cancellation that one person signed": func(g *grid, b book, id canon.Hash) {
			a, err := contract.NewCancel(g.id, id, g.group, "shop", 1, 1, contract.NewNonce(), g.now+100)
			if err != nil {
				g.Fatal(err)
			}
			s, err := contract.Sign(g.Context(), a, contract.KindApproval, g.people[0])
			if err != nil {
				g.Fatal(err)
			}
			rec, _, _ := contract.Load[contract.ContractRecord](b, contract.KeyContract(id))
			rec.History, rec.State, rec.Version = append(rec.History, s), contract.ContractCancelled, 2
			g.set(b, contract.KeyContract(id), rec)
			g.forget(b, id)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrid(t)
			id := g.deploy("shop")
			g.expect(g.book, []uint64{1}, nil)
			b := maps.Clone(g.book)
			lie(g, b, id)
			versions, refused := g.read(b)
			if len(versions) != 1 || versions[0] != 1 || len(refused) != 1 {
				t.Fatalf("runs %v and refuses %v: a lie of the ledger ended what the group approved", versions, refused)
			}
			// The truth, when it comes, is followed.
			g.cancel(id, "shop", 1)
			g.prover.last.Version = 0 // the liar's count of changes was his own
			g.expect(g.book, nil, nil)
		})
	}
}

func TestAnOldVersionOfferedAgainIsNotRun(t *testing.T) {
	g := newGrid(t)
	id := g.deploy("shop")
	old := maps.Clone(g.book)
	g.update(id, "shop", 1)
	g.expect(g.book, []uint64{2}, nil)
	// The slot's record itself goes back: refused before anything is read.
	if _, _, _, err := g.prover.read(t.Context(), reader{old}); problem.Code(err) != "ledger-lying" {
		t.Fatalf("an older record of the slot gave %v", err)
	}
	// The record goes on, the contract goes back.
	rec, _, err := contract.Load[contract.NodeRecord](g.book, contract.KeyNode(g.slot.ID()))
	if err != nil {
		t.Fatal(err)
	}
	before, _, err := contract.Load[contract.NodeRecord](old, contract.KeyNode(g.slot.ID()))
	if err != nil {
		t.Fatal(err)
	}
	before.Version = rec.Version + 1
	g.set(old, contract.KeyNode(g.slot.ID()), before)
	g.expect(old, []uint64{2}, []string{"ledger-lying"})
}

func TestAListThatIsNotTheRecordsIsNotBelieved(t *testing.T) {
	g := newGrid(t)
	id := g.deploy("shop")
	g.set(g.book, contract.KeyRuns(g.slot.ID()), contract.RunsRecord{Entries: []contract.RunEntry{}})
	if _, _, _, err := g.prover.read(t.Context(), reader{g.book}); problem.Code(err) != "record-mismatch" {
		t.Fatalf("a list without contract %s gave %v", id.Short(), err)
	}
}

// counting counts what is asked of a ledger.
type counting struct {
	reader
	reads *int
}

func (c counting) Get(ctx context.Context, key string) ([]byte, bool, light.Head, error) {
	*c.reads++
	return c.reader.Get(ctx, key)
}

// TestManyContractsOfOneGroupAreReadOnce bounds what a node asks the ledger for:
// a large group with many contracts must not make it deaf to all others.
func TestManyContractsOfOneGroupAreReadOnce(t *testing.T) {
	g := newGrid(t)
	const contracts = 20
	for i := range contracts {
		g.deploy(fmt.Sprintf("shop-%d", i))
	}
	// The slot's record and list, the group, its consent; its accounts once.
	for _, accounts := range []int{3, 0} {
		reads := 0
		g.prover.judged = time.Time{}
		set, _, _, err := g.prover.read(t.Context(), counting{reader{g.book}, &reads})
		if err != nil || len(set) != contracts {
			t.Fatalf("%d workloads, %v", len(set), err)
		}
		if want := 4 + contracts + accounts; reads != want {
			t.Fatalf("%d records were read for %d contracts, want %d", reads, contracts, want)
		}
	}
}

// TestTheDiskRemembersWhatWasProven plays a node that boots without a ledger.
func TestTheDiskRemembersWhatWasProven(t *testing.T) {
	g := newGrid(t)
	dir := t.TempDir()
	g.prover = g.newProver(dir)
	g.deploy("shop")
	g.expect(g.book, []uint64{1}, nil)
	again := g.newProver(dir)
	set, ok := again.restore()
	if !ok || len(set) != 1 || set[0].Version != 1 {
		t.Fatalf("restored %v, %v", set, ok)
	}
	if d := set[0].Deployment; d == nil || d.Name == "" || len(d.Workloads) != 1 || d.Workloads[0].Name != set[0].Plan.Name {
		t.Fatalf("the workload comes with the deployment %+v", d)
	}
	// What is on the disk is judged like what comes over the wire.
	g.prover.last.Cases[0].History[0].Signatures = g.prover.last.Cases[0].History[0].Signatures[:1]
	if err := g.prover.keep(g.prover.last); err != nil {
		t.Fatal(err)
	}
	forged := g.newProver(dir)
	if set, _ := forged.restore(); len(set) != 0 || len(forged.last.Cases) != 0 {
		t.Fatalf("a set with one approval was restored: %v, %v", set, forged.last.Cases)
	}
}
