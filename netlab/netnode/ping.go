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
	pulse

	first time.Time // with pulse's mutex
}

// NewPing begins to ping an Answer from the namespace; tb's cleanup ends it.
func NewPing(tb netlab.TB, h *netlab.Host, to netip.Addr) *Ping {
	tb.Helper()
	p := &Ping{conn: h.ListenPacket("udp", ":0"), stop: make(chan struct{})}
	p.Reset()
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
			if p.first.IsZero() {
				p.first = time.Now()
			}
			p.mu.Unlock()
			p.beat()
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
func (p *Ping) Answers() int { return p.count() }

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
