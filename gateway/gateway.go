package gateway

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/zero-os/zos/gateway/hello"
)

// Dialer reaches backends in tenant networks. Its methods are called by many
// goroutines at once, and must return when the context ends.
type Dialer interface {
	// Dial connects to an address in a network, by "tcp" or "udp"; the connection
	// is one of Connect, a *net.TCPConn or a *net.UDPConn, or bytes aren't moved cheaply. An error that
	// is a refusal, a reset, a lack of route or a timeout counts against the
	// backend; any other counts against the dialer.
	Dial(ctx context.Context, network, proto string, to netip.AddrPort) (net.Conn, error)
}

// Listener opens public sockets. NetListener is the plain one.
type Listener interface {
	ListenTCP(at netip.AddrPort) (*net.TCPListener, error)
	ListenUDP(at netip.AddrPort) (*net.UDPConn, error)
}

// Terminator ends TLS for routes of mode terminate, and answers port 80. The
// Server has counted a connection against its bounds before it hands it over, and
// counts it as closed when the method returns.
type Terminator interface {
	// Update tells all routes, before any new one of them is served. Routes
	// with a Problem, and those of other modes, are among them. It must not block.
	Update(Config)
	// ServeTLS serves a connection for t until it ends, and closes it. What h was
	// parsed of is still unread in c. When t.Draining is closed the connection
	// takes no further requests; when ctx ends (the drain's bound, or the process') it is
	// closed at once.
	ServeTLS(ctx context.Context, c *net.TCPConn, h hello.Hello, t *Target, names Names)
	// ServePlain serves a connection to port 80, nothing of which is read, and
	// closes it.
	ServePlain(ctx context.Context, c *net.TCPConn, names Names)
}

// Names are the host names that are published at one address, now.
type Names interface {
	// Lookup returns what serves a host (lower case, without a port), of mode
	// passthrough or terminate; nil if nothing does, or it has a problem.
	Lookup(host string) *Target
}

// Options of a Server. Zero values are the defaults that stand beside them.
type Options struct {
	Dialer     Dialer
	Listener   Listener     // NetListener{}
	Terminator Terminator   // nil: routes of mode terminate aren't served, port 80 isn't listened at
	Log        *slog.Logger // of the process; says nothing about clients. Discarded if nil
	Access     *AccessLog   // nil: no records

	HelloTimeout time.Duration // 5 s: from accept to the end of the ClientHello
	DialTimeout  time.Duration // 1 s: to one backend, while there are others to try
	DialTotal    time.Duration // 5 s: to all of them
	Idle         time.Duration // 1 h: no byte in either direction
	Stall        time.Duration // 5 min: bytes wait, and the other end takes none
	Drain        time.Duration // 30 s: what a new configuration doesn't have any more
	FlowIdle     time.Duration // 3 min: a flow of datagrams; 15 s before the backend's first

	// Bounds on connections at a time. A connection is two sockets.
	Conns       int // (7/8 of RLIMIT_NOFILE - 256) / 2, at most 100,000: the process
	Pending     int // Conns / 2: those that haven't said a name yet; the oldest gives way
	PerContract int // Conns / 2
	PerRoute    int // Conns / 2
	PerClient   int // 1024: an IPv4 address, or an IPv6 /64

	// Bounds on UDP flows at a time. A flow is a socket.
	Flows       int // 4096: a route's
	AllFlows    int // Conns / 2, at most 65,536: the process'
	ClientFlows int // 256: a client's (as above) on one route
}
