package contract

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// memory is a State in a map. A transaction that fails leaves it as it was.
type memory map[string]string

func (m memory) Get(key string) []byte {
	v, ok := m[key]
	if !ok {
		return nil
	}
	return []byte(v)
}
func (m memory) Set(key string, value []byte) { m[key] = string(value) }
func (m memory) Delete(key string)            { delete(m, key) }

// hash is over all keys and values in order.
func (m memory) hash() canon.Hash {
	var b []byte
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v, h := canon.Sum([]byte(k)), canon.Sum([]byte(m[k]))
		b = append(append(b, v[:]...), h[:]...)
	}
	return canon.Sum(b)
}

// do applies tx as the ledger does: on error nothing is changed.
func (m memory) do(now uint64, tx []byte) (Result, error) {
	try := maps.Clone(m)
	res, err := Apply(try, now, tx)
	if err == nil {
		clear(m)
		maps.Copy(m, try)
	}
	return res, err
}

const (
	start = 1_800_000_000 // block time at which every test begins
	later = start + 86400 // an expiry
	gib   = 1 << 30
)

// world is a grid with three people in a 2-of-3 group and a farm of two slots
// that has admitted the group.
type world struct {
	t       testing.TB
	st      memory
	now     uint64
	genesis []byte
	grid    canon.Hash

	keys     map[string]sign.Signer // accounts by name, and "farm", "agent", "release-1", …
	accounts map[string]canon.Hash
	signed   map[string]Signed // founding statements by name
	group    canon.Hash
	farm     canon.Hash
	slots    []canon.Hash
}

// signer returns a key that depends on name alone.
func signer(name string) sign.Signer { return sign.FromSeed(canon.Sum([]byte(name))) }

func sealing(t testing.TB, name string) []byte {
	t.Helper()
	k, err := seal.KeyFromSeed(canon.Sum([]byte("seal " + name)))
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}

func nonce(name string) []byte { h := canon.Sum([]byte(name)); return h[:NonceSize] }

var big = Capacity{CPU: 4000, Memory: 4 * gib, Disk: 10 * gib}

func founded(t testing.TB, name string) *world {
	t.Helper()
	w := &world{t: t, st: memory{}, now: start, keys: map[string]sign.Signer{}, accounts: map[string]canon.Hash{}, signed: map[string]Signed{}}
	g := Genesis{V: Version, Kind: KindGenesis, Name: name, Created: start, Nonce: nonce(name), ReleaseThreshold: 2}
	for _, r := range []string{"release-1", "release-2", "release-3"} {
		g.ReleaseKeys = append(g.ReleaseKeys, w.key(r).Public())
	}
	v := canon.Sum([]byte("validator"))
	g.Validators = []Validator{{Name: "v1", Key: v[:], Power: 1}}
	var err error
	if w.genesis, err = EncodeGenesis(g); err != nil {
		t.Fatal(err)
	}
	w.grid = canon.Sum(w.genesis)
	if err := Init(w.st, w.genesis); err != nil {
		t.Fatal(err)
	}
	return w
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldIn(t, "test")
}

// newWorldIn is newWorld in a grid named name.
func newWorldIn(t testing.TB, name string) *world {
	t.Helper()
	w := founded(t, name)
	for _, who := range []string{"red", "green", "blue", "eve"} {
		w.addAccount(who)
	}
	w.group = w.addGroup("demo", "red", 2, w.members("red", "green", "blue")...)
	farm := w.sign(NewFarm(w.grid, "barn", w.key("farm").Public()), KindFarm, "farm")
	w.ok(farm)
	w.farm, w.signed["farm"] = farm.ID(), farm
	w.slots = []canon.Hash{w.addSlot("n1", big), w.addSlot("n2", big)}
	w.ok(w.consent(big.times(2), 1))
	return w
}

func (c Capacity) times(n uint64) Capacity {
	return Capacity{CPU: c.CPU * n, Memory: c.Memory * n, Disk: c.Disk * n}
}

func (w *world) key(name string) sign.Signer {
	if w.keys[name] == nil {
		w.keys[name] = signer(name)
	}
	return w.keys[name]
}

func (w *world) sign(s Statement, kind string, by ...string) Signed {
	w.t.Helper()
	signers := make([]sign.Signer, len(by))
	for i, name := range by {
		signers[i] = w.key(name)
	}
	out, err := Sign(context.Background(), s, kind, signers...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) tx(s Signed) []byte {
	w.t.Helper()
	b, err := canon.Marshal(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// ok applies what must be accepted.
func (w *world) ok(s Signed) Result {
	w.t.Helper()
	res, err := w.st.do(w.now, w.tx(s))
	if err != nil {
		w.t.Fatalf("refused: %v (code %q)", err, problem.Code(err))
	}
	return res
}

// refused applies what must fail with code, and checks that it changed nothing.
func (w *world) refused(s Signed, code string) {
	w.t.Helper()
	before := w.st.hash()
	res, err := w.st.do(w.now, w.tx(s))
	if err == nil {
		w.t.Fatalf("accepted as %+v, want code %q", res, code)
	}
	if got := problem.Code(err); got != code {
		w.t.Fatalf("refused with code %q (%v), want %q", got, err, code)
	}
	if w.st.hash() != before {
		w.t.Fatal("a refused transaction changed the state")
	}
}

func (w *world) addAccount(who string) {
	w.t.Helper()
	s := w.sign(NewAccount(w.grid, who, w.key(who).Public()), KindAccount, who)
	w.ok(s)
	w.accounts[who], w.signed[who] = s.ID(), s
}

func (w *world) members(names ...string) []Member {
	var m []Member
	for _, n := range names {
		m = append(m, Member{Account: w.accounts[n], Weight: 1})
	}
	return m
}

func (w *world) addGroup(name, founder string, threshold uint64, m ...Member) canon.Hash {
	w.t.Helper()
	s := w.sign(NewGroup(w.grid, name, w.accounts[founder], threshold, nonce(name), m...), KindGroup, founder)
	w.ok(s)
	w.signed[name] = s
	return s.ID()
}

func (w *world) addSlot(name string, c Capacity) canon.Hash {
	w.t.Helper()
	s := w.sign(NewSlot(w.grid, w.farm, name, "mac:52:54:00:00:00:01", IdentityDisk, []string{"disk-" + name}, c), KindSlot, "farm")
	w.ok(s)
	w.signed[name] = s
	return s.ID()
}

func (w *world) consent(c Capacity, sequence uint64) Signed {
	w.t.Helper()
	s := w.sign(NewConsent(w.grid, w.farm, w.group, c, sequence, start+365*86400), KindConsent, "farm")
	w.signed["consent"] = s
	return s
}

// job is a container workload of 1 CPU and 1 GiB on a slot.
func (w *world) job(name string, slot canon.Hash) plan.Workload {
	w.t.Helper()
	config, err := plan.Container{
		V: plan.Version, Flist: canon.Sum([]byte("flist")), Size: 1 << 20,
		Args: []string{"/hello"}, Env: []string{"A=1"}, WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), NoNewPrivs: true,
	}.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	return plan.Workload{
		Name: name, Kind: plan.KindContainer, Slot: slot, Config: config,
		Resources: plan.Resources{CPU: 1000, Memory: gib, Disk: gib, PIDs: 100},
	}
}

func (w *world) plan(name string, jobs ...plan.Workload) (plan.Plan, []byte) {
	w.t.Helper()
	p := plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: w.group, Name: name, Workloads: jobs}
	b, err := plan.Encode(p)
	if err != nil {
		w.t.Fatal(err)
	}
	return p, b
}

func (w *world) deploy(name string, jobs ...plan.Workload) Approval {
	w.t.Helper()
	p, b := w.plan(name, jobs...)
	return NewDeploy(w.grid, p, b, 1, nonce(name), later)
}

func (w *world) update(contract canon.Hash, current uint64, name string, jobs ...plan.Workload) Approval {
	w.t.Helper()
	p, b := w.plan(name, jobs...)
	return NewUpdate(w.grid, contract, current, p, b, 1, nonce(name), later)
}

func (w *world) cancel(contract canon.Hash, current uint64, name string) Approval {
	w.t.Helper()
	a, err := NewCancel(w.grid, contract, w.group, name, current, 1, nonce(name), later)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) approve(a Approval, by ...string) Signed {
	w.t.Helper()
	return w.sign(a, KindApproval, by...)
}

// running deploys name and has it accepted; it returns the contract.
func (w *world) running(name string, jobs ...plan.Workload) canon.Hash {
	w.t.Helper()
	res := w.ok(w.approve(w.deploy(name, jobs...), "red", "green"))
	if !res.Accepted {
		w.t.Fatalf("two of three did not suffice: %+v", res)
	}
	return res.Contract
}

func (w *world) node(slot canon.Hash, epoch uint64, name string) Node {
	w.t.Helper()
	return NewNode(w.grid, slot, epoch, w.key(name).Public(), sealing(w.t, name), canon.Hash{}, nonce(name), later)
}

func (w *world) bind(slot canon.Hash, epoch uint64, name string) {
	w.t.Helper()
	w.ok(w.sign(w.node(slot, epoch, name), KindNode, name, "farm"))
}

// record reads what must be in the state.
func record[T any](w *world, key string) T {
	w.t.Helper()
	v, ok, err := Load[T](w.st, key)
	if err != nil || !ok {
		w.t.Fatalf("record %s: present %v, %v", key, ok, err)
	}
	return v
}

func (w *world) absent(key string) {
	w.t.Helper()
	if v := w.st.Get(key); v != nil {
		w.t.Errorf("record %s is still there", key)
	}
}

func (w *world) used(key string) Capacity {
	w.t.Helper()
	rec, _, err := Load[UsedRecord](w.st, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return rec.Capacity
}
