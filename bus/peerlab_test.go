package bus_test

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
)

// peer is a node that others call, and everything that only it knows.
type peer struct {
	*bus.Peers
	keys
	slot  canon.Hash
	conn  *bus.Conn
	clock *clock
	stop  func()
	mu    sync.Mutex
	calls []string // bodies that a handler of "echo" or "newest" got, in order
}

func (p *peer) got() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.calls...)
}

func slotNamed(s string) canon.Hash { return canon.Sum([]byte("slot " + s)) }

// bind makes the ledger name these keys of a slot.
func (w *world) bind(s canon.Hash, epoch uint64, k keys) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bound[s] = bus.Binding{Epoch: epoch, SigningKey: k.signer.Public(), SealingKey: k.sealing.Public()}
}

// peer starts the node of a slot with the bound keys k.
func (w *world) peer(t testing.TB, s canon.Hash, epoch uint64, k keys, urls ...string) *peer {
	t.Helper()
	return w.peerWith(t, s, epoch, k, func(*bus.PeersConfig) {}, urls...)
}

func (w *world) peerWith(t testing.TB, s canon.Hash, epoch uint64, k keys, change func(*bus.PeersConfig), urls ...string) *peer {
	t.Helper()
	p := &peer{keys: k, slot: s, conn: connect(t, bus.AsNode(s), urls...), clock: &clock{}}
	cfg := bus.PeersConfig{
		Conn: p.conn, Grid: grid, Slot: s, Epoch: epoch, Signer: k.signer, Sealing: k.sealing,
		Bound: w.Bound, Now: p.clock.Now, Logger: slog.New(slog.DiscardHandler),
	}
	change(&cfg)
	var err error
	p.Peers, err = bus.NewPeers(cfg)
	must(t, err)
	note := func(_ context.Context, from canon.Hash, body []byte) ([]byte, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.calls = append(p.calls, string(body))
		return append([]byte(from.Short()+" said "), body...), nil
	}
	p.Handle("echo", note)
	p.HandleInOrder("newest", note)
	run, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(run) }()
	p.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(p.stop)
	must(t, p.conn.Ready(ctx(t)))
	return p
}

// echo calls and wants the body back.
func (p *peer) echo(t testing.TB, c context.Context, to *peer, body string) {
	t.Helper()
	got, err := p.Call(c, to.slot, "echo", []byte(body))
	must(t, err)
	if want := p.slot.Short() + " said " + body; string(got) != want {
		t.Errorf("answer %q, want %q", got, want)
	}
}

// between is a bus that lies between two nodes: each is connected to a server of
// its own, and what passes goes through functions that may drop, alter, hold,
// repeat and invent.
type between struct {
	left, right string // URLs
	to          canon.Hash
	a, b        *nats.Conn
	prefix      string

	mu      sync.Mutex
	request func(data []byte, reply string) // nil passes on
	answer  func(data []byte, reply string)
	seen    [][]byte
}

// newBetween passes what nodes on the left send to one node on the right.
func newBetween(t testing.TB, to canon.Hash) *between {
	t.Helper()
	m := &between{left: serve(t).URL(), right: serve(t).URL(), to: to}
	m.a, _ = raw(t, m.left, bus.AsNode(to).String())
	m.b, m.prefix = raw(t, m.right, bus.AsNode(slotNamed("nobody")).String())
	back := map[string]string{}
	var mu sync.Mutex
	hook := func(f *func([]byte, string), otherwise func([]byte, string), data []byte, reply string) {
		m.mu.Lock()
		m.seen = append(m.seen, bytes.Clone(data))
		g := *f
		m.mu.Unlock()
		if g == nil {
			g = otherwise
		}
		g(data, reply)
	}
	_, err := m.b.Subscribe(m.prefix+".>", func(msg *nats.Msg) {
		mu.Lock()
		reply := back[msg.Subject]
		mu.Unlock()
		hook(&m.answer, m.toLeft, msg.Data, reply)
	})
	must(t, err)
	_, err = m.a.Subscribe(bus.PeerSubject(to), func(msg *nats.Msg) {
		in := m.prefix + "." + token()
		mu.Lock()
		back[in] = msg.Reply
		mu.Unlock()
		if len(msg.Data) == bus.NonceSize {
			m.toRight(msg.Data, in)
			return
		}
		hook(&m.request, m.toRight, msg.Data, in)
	})
	must(t, err)
	must(t, m.a.Flush())
	must(t, m.b.Flush())
	return m
}

func (m *between) toRight(data []byte, reply string) {
	if reply == "" {
		reply = m.prefix + ".gone"
	}
	m.b.PublishRequest(bus.PeerSubject(m.to), reply, data)
}

func (m *between) toLeft(data []byte, reply string) { m.a.Publish(reply, data) }

func (m *between) onRequest(f func(data []byte, reply string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.request = f
}

func (m *between) onAnswer(f func(data []byte, reply string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answer = f
}

// peerRefused waits until a node has refused something with code, n times.
func peerRefused(t testing.TB, p *peer, code string, count uint64) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if p.Refused()[code] >= count {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the node refused %v, want %s %d times", p.Refused(), code, count)
		}
	}
}
