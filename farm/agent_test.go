package farm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/farm"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous/server"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// state is the ledger's store; the rules over it are the real ones.
type state map[string][]byte

func (s state) Get(k string) []byte    { return s[k] }
func (s state) Set(k string, v []byte) { s[k] = v }
func (s state) Delete(k string)        { delete(s, k) }

type ledger struct {
	mu     sync.Mutex
	st     state
	txs    int
	broken error // what Submit says instead of doing its work
}

func (l *ledger) Submit(_ context.Context, tx contract.Signed) error {
	b, err := tx.Encode()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return l.broken
	}
	next := maps.Clone(l.st)
	if _, err := contract.Apply(next, uint64(time.Now().Unix()), b); err != nil {
		return err
	}
	l.st = next
	l.txs++
	return nil
}

func (l *ledger) Bound(_ context.Context, slot canon.Hash) (contract.BoundRecord, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return contract.Load[contract.BoundRecord](l.st, contract.KeyBound(slot))
}

func (l *ledger) Delegation(_ context.Context, id canon.Hash) (contract.DelegationRecord, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return contract.Load[contract.DelegationRecord](l.st, contract.KeyDelegation(id))
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.txs
}

func (l *ledger) breakWith(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = err
}

// site is a grid with one farm, its ledger and a bus.
type site struct {
	t          *testing.T
	grid, farm canon.Hash
	key, agent sign.Signer
	ledger     *ledger
	farmSigned contract.Signed
	delegation contract.Signed
	slots      map[string]canon.Hash
	slotSigned []contract.Signed
	url        string
}

const silence = 1500 * time.Millisecond

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ctx(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return c
}

func newSigner(t testing.TB) sign.Signer {
	_, s, err := sign.Generate()
	must(t, err)
	return s
}

func mac(name string) string {
	return map[string]string{"none": "mac:52:54:00:00:00:01", "disk": "mac:52:54:00:00:00:02", "tpm": "mac:52:54:00:00:00:03"}[name]
}

// newSite has a slot of each identity, named like it.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, key: newSigner(t), agent: newSigner(t), ledger: &ledger{st: state{}}, slots: map[string]canon.Hash{}}
	genesis, err := contract.EncodeGenesis(contract.Genesis{
		V: contract.Version, Kind: contract.KindGenesis, Name: "test", Created: 1, Nonce: contract.NewNonce(),
		Validators:  []contract.Validator{{Name: "v", Key: newSigner(t).Public()[19:], Power: 1}},
		ReleaseKeys: [][]byte{newSigner(t).Public()}, ReleaseThreshold: 1,
	})
	must(t, err)
	must(t, contract.Init(s.ledger.st, genesis))
	s.grid = canon.Sum(genesis)
	s.farmSigned = s.found(contract.NewFarm(s.grid, "barn", s.key.Public()))
	s.farm = s.farmSigned.ID()
	for _, id := range []string{contract.IdentityNone, contract.IdentityDisk, contract.IdentityTPM} {
		sl := s.found(contract.NewSlot(s.grid, s.farm, id, mac(id), id, nil, contract.Capacity{CPU: 1000, Memory: 1 << 30, Disk: 1 << 30}))
		s.slots[id] = sl.ID()
		s.slotSigned = append(s.slotSigned, sl)
	}
	s.delegation = s.found(contract.NewDelegation(s.grid, s.farm, s.agent.Public(), []string{"admit", "rekey"}, nil, 0, contract.Capacity{}, 1, uint64(time.Now().Add(time.Hour).Unix())))
	s.ledger.txs = 0
	srv, err := server.Serve(ctx(t), server.Config{
		CertDir: t.TempDir(), Grid: s.grid,
		Bound: func(context.Context, canon.Hash) (bus.Binding, error) {
			return bus.Binding{}, errors.New("not asked here")
		},
	})
	must(t, err)
	t.Cleanup(func() { must(t, srv.Stop()) })
	s.url = srv.URL()
	return s
}

// found signs a statement as the farm and puts it on the ledger.
func (s *site) found(st contract.Statement) contract.Signed {
	s.t.Helper()
	signed, err := contract.Sign(ctx(s.t), st, st.Head().Kind, s.key)
	must(s.t, err)
	must(s.t, s.ledger.Submit(ctx(s.t), signed))
	return signed
}

func (s *site) conn(role bus.Role) *bus.Conn {
	s.t.Helper()
	c, err := bus.Connect(bus.ConnConfig{URLs: []string{s.url}, Role: role})
	must(s.t, err)
	s.t.Cleanup(c.Close)
	must(s.t, c.Ready(ctx(s.t)))
	return c
}

func (s *site) config() farm.AgentConfig {
	return farm.AgentConfig{
		Conn: s.conn(bus.AsAgent(s.farm)), Grid: s.grid, Farm: s.farmSigned, Delegation: s.delegation,
		Signer: s.agent, Slots: s.slotSigned, Ledger: s.ledger, SilenceFor: silence,
	}
}

// run starts an agent; it stops with the test or when the function is called.
func (s *site) run(change func(*farm.AgentConfig)) (stop func()) {
	s.t.Helper()
	cfg := s.config()
	if change != nil {
		change(&cfg)
	}
	a, err := farm.NewAgent(cfg)
	must(s.t, err)
	c, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(c) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	s.t.Cleanup(stop)
	return stop
}

// machine is one boot of a node.
type machine struct {
	s       *site
	slot    canon.Hash
	signer  sign.Signer
	sealing *seal.PrivateKey
	hints   []string
	conn    *bus.Conn
	mu      sync.Mutex
	answers []farm.Answer
	heard   func() // called for each answer that is not "sign"
}

func (s *site) machine(slot string) *machine {
	s.t.Helper()
	var seed [32]byte
	rand.Read(seed[:])
	k, err := seal.KeyFromSeed(seed)
	must(s.t, err)
	return &machine{s: s, slot: s.slots[slot], signer: newSigner(s.t), sealing: k, hints: []string{"smbios:x", mac(slot)}, conn: s.conn(bus.AsNode(s.slots[slot]))}
}

// join asks until bound or until enough has passed.
func (m *machine) join(c context.Context) (uint64, error) {
	return farm.Ask(c, farm.AskConfig{
		Conn: m.conn, Grid: m.s.grid, Farm: m.s.farm, FarmKey: m.s.key.Public(), Slot: m.slot,
		Signer: m.signer, SealingKey: m.sealing.Public(), Hints: m.hints,
		On: func(a farm.Answer) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.answers = append(m.answers, a)
			if m.heard != nil && a.Outcome != farm.ReplySign {
				m.heard()
			}
		},
	})
}

// joined demands the epoch, and that the ledger agrees.
func (m *machine) joined(epoch uint64) {
	m.s.t.Helper()
	got, err := m.join(ctx(m.s.t))
	must(m.s.t, err)
	rec, ok, err := m.s.ledger.Bound(ctx(m.s.t), m.slot)
	must(m.s.t, err)
	if !ok {
		m.s.t.Fatal("the ledger binds nothing")
	}
	n, _, keys, err := contract.Open[contract.Node](rec.Signed, contract.KindNode, m.s.grid)
	must(m.s.t, err)
	if got != epoch || rec.Epoch != epoch || !bytes.Equal(n.SigningKey, m.signer.Public()) || !bytes.Equal(n.SealingKey, m.sealing.Public()) || len(keys) != 2 {
		m.s.t.Fatalf("epoch %d, want %d; the ledger has epoch %d of %s", got, epoch, rec.Epoch, sign.PublicKey(n.SigningKey).Fingerprint())
	}
}

// refused demands an answer with the code, and that the node does not join.
func (m *machine) refused(code string) {
	m.s.t.Helper()
	c, cancel := context.WithCancel(ctx(m.s.t))
	defer cancel()
	m.mu.Lock()
	m.answers = nil
	m.heard = cancel // the first answer is enough
	m.mu.Unlock()
	if _, err := m.join(c); !errors.Is(err, context.Canceled) {
		m.s.t.Fatalf("joined, or failed: %v", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = nil
	if last := m.answers[len(m.answers)-1]; last.Code != code {
		m.s.t.Fatalf("answers %+v, want %s", m.answers, code)
	}
}

// live sends the heartbeats of a bound node until it is stopped.
func (m *machine) live(epoch uint64) (stop func()) {
	m.s.t.Helper()
	n, err := bus.NewNode(bus.NodeConfig{
		Conn: m.conn, Grid: m.s.grid, Slot: m.slot, Epoch: epoch, Signer: m.signer, Sealing: m.sealing,
		Facts:          func(context.Context, canon.Hash) (bus.Facts, error) { return bus.Facts{}, nil },
		HeartbeatEvery: 100 * time.Millisecond,
	})
	must(m.s.t, err)
	c, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(c) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	m.s.t.Cleanup(stop)
	return stop
}

func TestFirstBootIsAdmittedAndTheNextOneIsKnown(t *testing.T) {
	t.Parallel()
	for _, identity := range []string{"none", "disk", "tpm"} {
		s := newSite(t)
		s.run(nil)
		m := s.machine(identity)
		m.joined(1)
		m.joined(1) // the same keys: a reboot with a disk or TPM
		if n := s.ledger.count(); n != 1 {
			t.Errorf("%s: %d transactions for two boots with the same key", identity, n)
		}
	}
}

func TestSlotWithoutKeysIsRekeyedWhenItsOldKeyIsSilent(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(nil)
	first := s.machine("none")
	first.joined(1)
	stop := first.live(1)
	second := s.machine("none")
	c, cancel := context.WithTimeout(context.Background(), 2*silence)
	defer cancel()
	if e, err := second.join(c); err == nil {
		t.Fatalf("a second machine took the slot of a live one, epoch %d", e)
	}
	if n := s.ledger.count(); n != 1 {
		t.Fatalf("%d transactions", n)
	}
	stop()
	began := time.Now()
	second.joined(2)
	if d := time.Since(began); d < silence-200*time.Millisecond {
		t.Errorf("re-keyed %s after the old key's last word", d)
	}
	// The old key is void: with it, the first machine has to wait again.
	second.live(2)
	c, cancel = context.WithTimeout(context.Background(), 2*silence)
	defer cancel()
	if e, err := first.join(c); err == nil {
		t.Errorf("a void key was bound again, epoch %d", e)
	}
}

// An agent that has just started has heard nobody: that is no silence.
func TestSilenceCountsFromTheAgentsStart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	stop := s.run(nil)
	s.machine("none").joined(1)
	stop()
	time.Sleep(silence)
	began := time.Now()
	s.run(nil)
	s.machine("none").joined(2)
	if d := time.Since(began); d < silence {
		t.Errorf("re-keyed %s after the agent's start", d)
	}
}

// A key that was bound this moment has had no time for a heartbeat.
func TestNewKeyIsGivenTimeToSpeak(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(nil)
	s.machine("none").joined(1)
	s.machine("none").joined(2)
	third := s.machine("none")
	third.joined(3)
	if first := third.answers[0]; first.Outcome != farm.ReplyWait {
		t.Errorf("a key bound this moment was taken for silent: %+v", first)
	}
}

func TestSlotThatKeepsItsKeysNeedsTheFarm(t *testing.T) {
	t.Parallel()
	for _, identity := range []string{"disk", "tpm"} {
		s := newSite(t)
		stop := s.run(nil)
		s.machine(identity).joined(1)
		time.Sleep(silence)
		s.machine(identity).refused("rekey-needs-farm")
		stop()
		s.run(func(c *farm.AgentConfig) { c.AllowRekey = true })
		s.machine(identity).joined(2)
	}
}

func TestForeignHardwareIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(nil)
	m := s.machine("none")
	m.hints = []string{mac("disk"), "smbios:none"}
	m.refused("hint-mismatch")
	m = s.machine("none")
	m.slot = canon.Sum([]byte("no slot"))
	m.conn = s.conn(bus.AsNode(m.slot))
	m.refused("slot-unknown")
	if n := s.ledger.count(); n != 0 {
		t.Errorf("%d transactions", n)
	}
}

func TestReplacedDelegationActsNoMore(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(nil)
	s.found(contract.NewDelegation(s.grid, s.farm, s.agent.Public(), nil, nil, 0, contract.Capacity{}, 2, uint64(time.Now().Add(time.Hour).Unix())))
	s.machine("none").refused("delegation-refused")
}

// A ledger that is away, or refuses, only delays.
func TestNodeJoinsWhenTheLedgerReturns(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(nil)
	s.ledger.breakWith(errors.New("no connection"))
	m := s.machine("none")
	m.refused("ledger-unreachable")
	s.ledger.breakWith(problem.New("stale-epoch", "too late"))
	m.refused("stale-epoch")
	s.ledger.breakWith(nil)
	m.joined(1)
}

// A node that can read the ledger itself needs an agent only for what is not
// there yet, and takes no agent's word for it.
func TestProvenBindingNeedsNoAgent(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	stop := s.run(nil)
	m := s.machine("disk")
	m.joined(1)
	stop()
	epoch, err := farm.Ask(ctx(t), farm.AskConfig{
		Conn: m.conn, Grid: s.grid, Farm: s.farm, FarmKey: s.key.Public(), Slot: m.slot, Signer: m.signer, SealingKey: m.sealing.Public(),
		Proven: func(context.Context) (uint64, bool) { return 1, true },
	})
	must(t, err)
	if epoch != 1 {
		t.Errorf("epoch %d", epoch)
	}
	s.run(nil)
	asked := 0
	c, cancel := context.WithCancel(ctx(t))
	defer cancel()
	if e, err := farm.Ask(c, farm.AskConfig{
		Conn: m.conn, Grid: s.grid, Farm: s.farm, FarmKey: s.key.Public(), Slot: m.slot, Signer: m.signer, SealingKey: m.sealing.Public(),
		Proven: func(context.Context) (uint64, bool) {
			if asked++; asked == 4 {
				cancel()
			}
			return 0, false
		},
	}); !errors.Is(err, context.Canceled) {
		t.Errorf("the agent's word was taken for proof: epoch %d, %v, asked %d times", e, err, asked)
	}
}

// What somebody else answers in the agent's name is no answer.
func TestForgedAnswersAreIgnored(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := s.machine("none")
	liar, other := newSigner(t), newSigner(t)
	sig := func(st contract.Statement, by sign.Signer) contract.Signed {
		out, err := contract.Sign(context.Background(), st, st.Head().Kind, by)
		if err != nil {
			t.Error(err)
		}
		return out
	}
	var heard sync.WaitGroup
	heard.Add(1)
	once := sync.OnceFunc(heard.Done)
	conn := s.conn(bus.AsAgent(s.farm))
	stop := conn.Subscribe(bus.JoinSubject(s.farm), func(_ string, data []byte, respond func([]byte) error) {
		join, err := contract.DecodeSigned(data)
		if err != nil {
			t.Error(err)
		}
		answer := func(change func(*farm.Answer)) farm.Answer {
			a := farm.Answer{
				Header: contract.Header{V: contract.Version, Kind: farm.KindAnswer, Grid: s.grid},
				Farm:   s.farm, Slot: m.slot, Join: join.ID(), Outcome: farm.ReplyBound, Epoch: 666, Delegation: s.delegation.ID(),
			}
			change(&a)
			return a
		}
		same := func(*farm.Answer) {}
		d := contract.NewDelegation(s.grid, s.farm, liar.Public(), []string{"admit"}, nil, 0, contract.Capacity{}, 9, 1<<40)
		own := sig(d, liar)
		for _, w := range []map[string]any{
			{"answer": wire(sig(answer(same), liar)), "delegation": wire(s.delegation)},
			{"answer": wire(sig(answer(func(a *farm.Answer) { a.Delegation = own.ID() }), liar)), "delegation": wire(own)},
			{"answer": wire(sig(answer(func(a *farm.Answer) { a.Join = canon.Sum(nil) }), s.agent)), "delegation": wire(s.delegation)},
			{"answer": wire(sig(answer(func(a *farm.Answer) { a.Slot = canon.Sum(nil) }), s.agent)), "delegation": wire(s.delegation)},
			{"answer": wire(sig(answer(func(a *farm.Answer) { a.Farm = canon.Sum(nil) }), s.agent)), "delegation": wire(s.delegation)},
			{"answer": wire(sig(answer(func(a *farm.Answer) { a.Grid = canon.Sum(nil) }), s.agent)), "delegation": wire(s.delegation)},
			{"answer": wire(sig(answer(func(a *farm.Answer) { a.Delegation = canon.Sum(nil) }), s.agent)), "delegation": wire(s.delegation)},
			{"answer": wire(sig(answer(same), s.agent)), "delegation": wire(sig(d, other))},
		} {
			b, err := canon.Marshal(w)
			if err != nil {
				t.Error(err)
			}
			respond(b)
		}
		respond(nil)
		respond([]byte{0xa0})
		respond(make([]byte, 100_000))
		once()
	})
	c, cancel := context.WithCancel(context.Background())
	defer cancel()
	type result struct {
		epoch uint64
		err   error
	}
	done := make(chan result, 1)
	go func() {
		e, err := m.join(c)
		done <- result{e, err}
	}()
	heard.Wait()
	select {
	case r := <-done:
		t.Fatalf("a forged answer was believed: %+v", r)
	case <-time.After(500 * time.Millisecond):
	}
	stop()
	s.run(nil)
	select {
	case r := <-done:
		must(t, r.err)
		if r.epoch != 1 {
			t.Errorf("epoch %d", r.epoch)
		}
	case <-ctx(t).Done():
		t.Fatal("the true agent's answer did not count")
	}
}

func wire(s contract.Signed) map[string]any {
	var sigs []any
	for _, x := range s.Signatures {
		sigs = append(sigs, map[string]any{"key": x.Key, "sig": x.Sig})
	}
	return map[string]any{"statement": s.Statement, "signatures": sigs}
}

// A join that is altered, for another farm, or signed by another key than it asks
// for, gets no answer and moves nothing.
func TestForgedJoinsAreIgnored(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(nil)
	m, thief := s.machine("none"), newSigner(t)
	build := func(n contract.Node, nodeBy, joinBy sign.Signer, change func(*farm.Join)) []byte {
		node, err := contract.Sign(ctx(t), n, contract.KindNode, nodeBy)
		must(t, err)
		j := farm.Join{
			Header: contract.Header{V: contract.Version, Kind: farm.KindJoin, Grid: s.grid}, Farm: s.farm, ID: make([]byte, 16), Hints: m.hints, Node: node,
		}
		change(&j)
		signed, err := contract.Sign(ctx(t), j, farm.KindJoin, joinBy)
		must(t, err)
		b, err := signed.Encode()
		must(t, err)
		return b
	}
	n := contract.NewNode(s.grid, m.slot, 1, m.signer.Public(), m.sealing.Public(), s.delegation.ID(), make([]byte, 16), uint64(time.Now().Unix())+100)
	same := func(*farm.Join) {}
	weak := n
	weak.SealingKey = []byte("short")
	good := build(n, m.signer, m.signer, same)
	bad := [][]byte{
		nil, {0xa0}, make([]byte, 100_000), good[:len(good)-1],
		build(n, thief, thief, same),
		build(n, m.signer, thief, same),
		build(n, thief, m.signer, same),
		build(weak, m.signer, m.signer, same),
		build(n, m.signer, m.signer, func(j *farm.Join) { j.Farm = canon.Sum(nil) }),
		build(n, m.signer, m.signer, func(j *farm.Join) { j.Grid = canon.Sum(nil) }),
		build(n, m.signer, m.signer, func(j *farm.Join) { j.ID = nil }),
		build(n, m.signer, m.signer, func(j *farm.Join) { j.Hints = make([]string, farm.MaxHints+1) }),
		build(n, m.signer, m.signer, func(j *farm.Join) { j.Hints = []string{string(make([]byte, 200))} }),
		build(n, m.signer, m.signer, func(j *farm.Join) { j.Node.Signatures = nil }),
	}
	for i := 0; i < len(good); i += 101 {
		b := bytes.Clone(good)
		b[i] ^= 1
		bad = append(bad, b)
	}
	for i, b := range bad {
		c, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		if err := m.conn.Ask(c, bus.JoinSubject(s.farm), b, func([]byte) bool { return true }); err == nil {
			t.Errorf("forged join %d was answered", i)
		}
		cancel()
	}
	if s.ledger.count() != 0 {
		t.Error("a forged join became a transaction")
	}
	time.Sleep(2 * time.Second) // the agent's patience with this much asking
	if err := m.conn.Ask(ctx(t), bus.JoinSubject(s.farm), good, func([]byte) bool { return true }); err != nil {
		t.Errorf("control: the good join was not answered: %v", err)
	}
	if s.ledger.count() != 1 {
		t.Error("control: the good join did not become a transaction")
	}
}

func TestAgentNeedsAProperDelegation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := newSite(t)
	for name, change := range map[string]func(*farm.AgentConfig){
		"another key":        func(c *farm.AgentConfig) { c.Signer = newSigner(t) },
		"another farm's":     func(c *farm.AgentConfig) { c.Delegation = other.delegation },
		"farm not signed":    func(c *farm.AgentConfig) { c.Farm.Signatures = nil },
		"another grid":       func(c *farm.AgentConfig) { c.Grid = other.grid },
		"slot of another":    func(c *farm.AgentConfig) { c.Slots = other.slotSigned },
		"no ledger":          func(c *farm.AgentConfig) { c.Ledger = nil },
		"no signer":          func(c *farm.AgentConfig) { c.Signer = nil },
		"delegation altered": func(c *farm.AgentConfig) { c.Delegation.Statement = append([]byte{}, c.Delegation.Statement[1:]...) },
	} {
		cfg := s.config()
		change(&cfg)
		if _, err := farm.NewAgent(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
