package bus_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/server"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	grid     = canon.Sum([]byte("grid"))
	slot     = canon.Sum([]byte("slot"))
	contract = canon.Sum([]byte("contract"))
)

func ctx(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	if got := problem.Code(err); got != code {
		t.Fatalf("error %v: code %q, want %q", err, got, code)
	}
}

func signer(t testing.TB) sign.Signer {
	t.Helper()
	_, s, err := sign.Generate()
	must(t, err)
	return s
}

// served is a rendezvous of the lab, which can come back where it was.
type served struct {
	*server.Server
	dir string
}

func serve(t testing.TB) *served {
	t.Helper()
	return serveAt(t, "", t.TempDir())
}

func serveAt(t testing.TB, listen, dir string) *served {
	t.Helper()
	s, err := server.Serve(ctx(t), server.Config{
		Listen: listen, CertDir: dir, Grid: grid,
		Bound: func(context.Context, canon.Hash) (bus.Binding, error) { return bus.Binding{}, errors.New("not bound") },
	})
	must(t, err)
	t.Cleanup(func() { must(t, s.Stop()) })
	return &served{s, dir}
}

// again starts a stopped one at the same address, with the same key.
func (s *served) again(t testing.TB) *served {
	t.Helper()
	a, err := rendezvous.ParseURL(s.URL())
	must(t, err)
	return serveAt(t, a.Host, s.dir)
}

func connect(t testing.TB, role bus.Role, urls ...string) *bus.Conn {
	t.Helper()
	c, err := bus.Connect(bus.ConnConfig{URLs: urls, Role: role})
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// world is a grid with one node, its farm and one member, as a ledger would
// prove it.
type world struct {
	mu    sync.Mutex
	facts bus.Facts
	many  bool // every contract stands, not one alone
	bound map[canon.Hash]bus.Binding

	farm, member, outsider sign.Signer
}

func newWorld(t testing.TB) *world {
	w := &world{farm: signer(t), member: signer(t), outsider: signer(t), bound: map[canon.Hash]bus.Binding{}}
	w.facts = bus.Facts{FarmKey: w.farm.Public(), Contract: true, Members: []sign.PublicKey{w.member.Public()}}
	return w
}

func (w *world) Facts(_ context.Context, c canon.Hash) (bus.Facts, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.facts
	f.Contract = f.Contract && (w.many || c == contract)
	return f, nil
}

func (w *world) setMembers(keys ...sign.PublicKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.facts.Members = keys
}

func (w *world) Bound(_ context.Context, s canon.Hash) (bus.Binding, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, ok := w.bound[s]
	if !ok {
		return b, errors.New("not bound")
	}
	return b, nil
}

// node is a node of the world and everything that only it knows.
type node struct {
	*bus.Node
	signer  sign.Signer
	sealing *seal.PrivateKey
	slot    canon.Hash
	stop    func()
	clock   *clock
	calls   chan bus.Query // calls that were answered
}

// clock is a clock that a test can move.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

type keys struct {
	signer  sign.Signer
	sealing *seal.PrivateKey
}

func newKeys(t testing.TB) keys {
	var seed [32]byte
	rand.Read(seed[:])
	k, err := seal.KeyFromSeed(seed)
	must(t, err)
	return keys{signer(t), k}
}

// Times of the tests. Where a stream must not end, the lease is long enough for a
// busy machine; where it must, it is short.
const (
	lease = 10 * time.Second
	short = time.Second
	beat  = 100 * time.Millisecond
)

// start runs a node of slot s with keys k and makes it the bound one.
func (w *world) start(t testing.TB, s canon.Hash, k keys, urls ...string) *node {
	t.Helper()
	n := &node{signer: k.signer, sealing: k.sealing, slot: s, clock: &clock{}, calls: make(chan bus.Query, 1000)}
	w.mu.Lock()
	w.bound[s] = bus.Binding{Epoch: 1, SigningKey: k.signer.Public(), SealingKey: k.sealing.Public()}
	w.mu.Unlock()
	conn := connect(t, bus.AsNode(s), urls...)
	var nonce [bus.NonceSize]byte
	rand.Read(nonce[:])
	var err error
	n.Node, err = bus.NewNode(bus.NodeConfig{
		Conn: conn, Grid: grid, Slot: s, Epoch: 1, BootNonce: nonce,
		Signer: k.signer, Sealing: k.sealing, Release: 7, HeartbeatEvery: beat,
		Facts: w.Facts, Now: n.clock.Now,
		Status: func() bus.Status { return bus.Status{Ready: true, Running: 1} },
		Logger: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	n.SetLease(lease)
	n.HandleCall(bus.MethodStatus, func(_ context.Context, q bus.Query) ([]byte, error) {
		n.calls <- q
		return append([]byte("status of "), q.Params...), nil
	})
	n.HandleCall(bus.MethodNode, func(_ context.Context, q bus.Query) ([]byte, error) {
		n.calls <- q
		return []byte("node"), nil
	})
	run, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(run) }()
	n.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(n.stop)
	must(t, conn.Ready(ctx(t)))
	return n
}

// client asks as s over the bus at urls.
func (w *world) client(t testing.TB, s sign.Signer, urls ...string) *bus.Client {
	t.Helper()
	c, err := bus.NewClient(bus.ClientConfig{Conn: connect(t, bus.AsPeople(), urls...), Grid: grid, Bound: w.Bound, Signer: s})
	must(t, err)
	c.SetLease(lease)
	return c
}

// greeted is a client that has said hello, so that a short call is about the
// call alone.
func (w *world) greeted(t testing.TB, s sign.Signer, urls ...string) *bus.Client {
	t.Helper()
	c := w.client(t, s, urls...)
	_, err := c.Hello(ctx(t), slot)
	must(t, err)
	return c
}

func ask(method string) bus.Ask {
	a := bus.Ask{Slot: slot, Method: method, Params: []byte("web")}
	if method == bus.MethodStatus || method == bus.MethodLogs {
		a.Contract = contract
	}
	return a
}

func token() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// raw is a connection by hand in some role.
func raw(t testing.TB, url, role string) (*nats.Conn, string) {
	t.Helper()
	tok := token()
	a, err := rendezvous.ParseURL(url)
	must(t, err)
	nc, err := nats.Connect("nats://127.0.0.1:1", nats.SetCustomDialer(dialer{a}), nats.UserInfo(role, tok), nats.NoReconnect(), nats.Timeout(5*time.Second))
	must(t, err)
	t.Cleanup(nc.Close)
	return nc, "inbox." + tok
}

type dialer struct{ to rendezvous.Address }

func (d dialer) Dial(string, string) (net.Conn, error) {
	c, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return rendezvous.Dial(c, d.to, rendezvous.ALPNBus)
}

func (dialer) SkipTLSHandshake() bool { return true }

// middle is a bus that lies: people are connected to one server, the node to
// another, and everything between them passes through functions that may drop,
// alter, hold, repeat and invent.
type middle struct {
	people, node string // URLs
	a, b         *nats.Conn
	prefix       string

	mu      sync.Mutex
	request func(m *middle, data []byte, reply string) // nil passes on
	answer  func(m *middle, data []byte, reply string)
	seen    [][]byte // all that passed
}

func newMiddle(t testing.TB) *middle {
	t.Helper()
	m := &middle{people: serve(t).URL(), node: serve(t).URL()}
	m.a, _ = raw(t, m.people, bus.AsNode(slot).String())
	m.b, m.prefix = raw(t, m.node, bus.AsPeople().String())
	// Replies come back to one inbox per asker's inbox.
	back := map[string]string{}
	var mu sync.Mutex
	_, err := m.b.Subscribe(m.prefix+".>", func(msg *nats.Msg) {
		mu.Lock()
		to := back[msg.Subject]
		mu.Unlock()
		m.note(msg.Data)
		m.mu.Lock()
		f := m.answer
		m.mu.Unlock()
		if f != nil {
			f(m, msg.Data, to)
			return
		}
		m.toPeople(msg.Data, to)
	})
	must(t, err)
	inbox := func(reply string) string {
		mu.Lock()
		defer mu.Unlock()
		s := m.prefix + "." + token()
		back[s] = reply
		return s
	}
	_, err = m.a.Subscribe(bus.RequestSubject(slot), func(msg *nats.Msg) {
		m.note(msg.Data)
		m.mu.Lock()
		f := m.request
		m.mu.Unlock()
		if f != nil {
			f(m, msg.Data, inbox(msg.Reply))
			return
		}
		m.toNode(msg.Data, inbox(msg.Reply))
	})
	must(t, err)
	_, err = m.a.Subscribe(bus.HelloSubject(slot), func(msg *nats.Msg) {
		m.b.PublishRequest(msg.Subject, inbox(msg.Reply), msg.Data)
	})
	must(t, err)
	must(t, m.a.Flush())
	must(t, m.b.Flush())
	return m
}

func (m *middle) note(b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = append(m.seen, append([]byte{}, b...))
}

func (m *middle) onRequest(f func(m *middle, data []byte, reply string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.request = f
}

func (m *middle) onAnswer(f func(m *middle, data []byte, reply string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answer = f
}

func (m *middle) toNode(data []byte, reply string) {
	if reply == "" { // an asker who is gone
		reply = m.prefix + ".gone"
	}
	if err := m.b.PublishRequest(bus.RequestSubject(slot), reply, data); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		panic(err) // closed is how a test ends while a message is on its way
	}
}
func (m *middle) toPeople(data []byte, reply string) { m.a.Publish(reply, data) }

// refusedSoon waits until the node has refused something with code, n times.
func refusedSoon(t testing.TB, n *node, code string, count uint64) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if n.Refused()[code] >= count {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the node refused %v, want %s %d times", n.Refused(), code, count)
		}
	}
}
