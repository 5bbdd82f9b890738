package rendezvoustest

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// Proxy is the wire before a server, which a test can break: TCP and UDP on one
// port.
type Proxy struct {
	url     string
	backend string
	ln      net.Listener
	udp     *net.UDPConn
	wg      sync.WaitGroup

	mu      sync.Mutex
	thawed  sync.Cond
	conns   map[net.Conn]struct{}
	flows   map[netip.AddrPort]*net.UDPConn
	frozen  bool
	refuse  bool
	noUDP   bool
	udpMost int
	closed  bool
}

// NewProxy begins to pass connections and datagrams on to the server at url.
func NewProxy(t testing.TB, url string) *Proxy {
	t.Helper()
	backend, rest := host(t, url)
	p := &Proxy{backend: backend, conns: map[net.Conn]struct{}{}, flows: map[netip.AddrPort]*net.UDPConn{}}
	p.thawed.L = &p.mu
	for try := 0; ; try++ {
		var err error
		if p.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		p.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(p.ln.Addr().(*net.TCPAddr).AddrPort()))
		if err == nil {
			break
		}
		p.ln.Close()
		if try == 20 {
			t.Fatal(err)
		}
	}
	p.url = "tls://" + p.ln.Addr().String() + rest
	p.wg.Go(p.accept)
	p.wg.Go(p.readUDP)
	t.Cleanup(p.Close)
	return p
}

// URL is the server's, through the proxy.
func (p *Proxy) URL() string { return p.url }

// Freeze stops everything that passes, without a sign of it, or lets it pass
// again; connections are accepted all the while. Datagrams are lost.
func (p *Proxy) Freeze(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = on
	p.thawed.Broadcast()
}

// Refuse resets new connections, or accepts them again.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// BlockUDP loses all datagrams.
func (p *Proxy) BlockUDP(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noUDP = on
}

// LimitUDP loses datagrams of more than most bytes; 0: none.
func (p *Proxy) LimitUDP(most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.udpMost = most
}

// Reset cuts all connections with a TCP reset.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

// Close ends the proxy.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed, p.frozen = true, false
	p.thawed.Broadcast()
	for _, f := range p.flows {
		f.Close()
	}
	p.mu.Unlock()
	p.ln.Close()
	p.udp.Close()
	p.Reset()
	p.wg.Wait()
}

func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.refuse {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) accept() {
	for {
		in, err := p.ln.Accept()
		if err != nil {
			return
		}
		if !p.track(in) {
			continue
		}
		p.wg.Go(func() {
			defer p.forget(in)
			out, err := net.Dial("tcp", p.backend)
			if err != nil || !p.track(out) {
				return
			}
			defer p.forget(out)
			done := make(chan struct{})
			go func() { defer close(done); p.copy(out, in) }()
			p.copy(in, out)
			<-done
		})
	}
}

func (p *Proxy) forget(c net.Conn) {
	c.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// copy passes bytes on until either side ends, then ends both.
func (p *Proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		p.mu.Lock()
		for p.frozen {
			p.thawed.Wait()
		}
		p.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if err != io.EOF {
				from.(*net.TCPConn).SetLinger(0) // a reset is passed on as one
				to.(*net.TCPConn).SetLinger(0)
			}
			return
		}
	}
}

// passes tells whether a datagram of n bytes gets through now.
func (p *Proxy) passes(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.frozen && !p.noUDP && (p.udpMost == 0 || n <= p.udpMost)
}

func (p *Proxy) readUDP() {
	b := make([]byte, 64<<10)
	for {
		n, from, err := p.udp.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if f := p.flow(from); f != nil && p.passes(n) {
			f.Write(b[:n])
		}
	}
}

// flow is the socket that stands for one sender, as in a NAT.
func (p *Proxy) flow(from netip.AddrPort) *net.UDPConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flows[from]; f != nil || p.closed {
		return f
	}
	to, err := net.ResolveUDPAddr("udp", p.backend)
	if err != nil {
		return nil
	}
	f, err := net.DialUDP("udp", nil, to)
	if err != nil {
		return nil
	}
	p.flows[from] = f
	p.wg.Go(func() {
		b := make([]byte, 64<<10)
		for {
			n, err := f.Read(b)
			if err != nil {
				p.mu.Lock()
				closed := p.closed
				p.mu.Unlock()
				if closed {
					return
				}
				continue
			}
			if p.passes(n) {
				p.udp.WriteToUDPAddrPort(b[:n], from)
			}
		}
	})
	return f
}
