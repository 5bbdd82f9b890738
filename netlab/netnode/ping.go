package netnode

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/zero-os/zos/netlab"
)

// pingPort is where Answer listens.
const pingPort = 7007

// pingEvery is how often a Ping sends.
const pingEvery = 5 * time.Millisecond

// Answer sends back every datagram that comes to an address of the namespace,
// until tb's cleanup. It is for Ping.
func Answer(tb netlab.TB, h *netlab.Host, at netip.Addr) {
	tb.Helper()
	c := h.ListenPacket("udp", netip.AddrPortFrom(at, pingPort).String())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	tb.Cleanup(func() {
		c.Close()
		<-done
	})
}

// Ping sends a datagram every five milliseconds and notes when answers come.
// Other than with TCP, a silence is exactly as long as nothing passed.
type Ping struct {
	conn *net.UDPConn
	stop chan struct{}
	work sync.WaitGroup

	mu      sync.Mutex
	first   time.Time
	last    time.Time
	longest time.Duration
	answers int
}

// NewPing begins to ping an Answer from the namespace; tb's cleanup ends it.
func NewPing(tb netlab.TB, h *netlab.Host, to netip.Addr) *Ping {
	tb.Helper()
	p := &Ping{conn: h.ListenPacket("udp", ":0"), stop: make(chan struct{}), last: time.Now()}
	p.work.Go(func() {
		tick := time.NewTicker(pingEvery)
		defer tick.Stop()
		for n := uint64(0); ; n++ {
			_, _ = p.conn.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(nil, n), netip.AddrPortFrom(to, pingPort))
			select {
			case <-p.stop:
				return
			case <-tick.C:
			}
		}
	})
	p.work.Go(func() {
		b := make([]byte, 100)
		for {
			if _, err := p.conn.Read(b); err != nil {
				return
			}
			p.mu.Lock()
			now := time.Now()
			if p.first.IsZero() {
				p.first = now
			}
			p.longest, p.last = max(p.longest, now.Sub(p.last)), now
			p.answers++
			p.mu.Unlock()
		}
	})
	tb.Cleanup(p.Close)
	return p
}

// First is when the first answer came; zero: none has.
func (p *Ping) First() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.first
}

// Answers is how many answers came.
func (p *Ping) Answers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers
}

// Silence is the longest time without an answer since Reset, up to now.
func (p *Ping) Silence() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.longest, time.Since(p.last))
}

// Reset forgets how long silences were.
func (p *Ping) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longest, p.last = 0, time.Now()
}

// Goes waits until so many further answers came; tb fails after a minute.
func (p *Ping) Goes(tb netlab.TB, what string, answers int) {
	tb.Helper()
	want := p.Answers() + answers
	Until(tb, what, func() bool { return p.Answers() >= want })
}

// Close ends it.
func (p *Ping) Close() {
	select {
	case <-p.stop:
		return
	default:
	}
	close(p.stop)
	p.conn.Close()
	p.work.Wait()
}
