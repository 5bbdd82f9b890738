package rendezvous

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/sign"
)

// Limits of a client.
const (
	MaxPacket = 2048 // bytes of one packet
	MaxURLs   = 8    // servers of one client
	MaxTokens = 1024 // tokens that a client watches
)

// Errors of Send. The packet is lost, as packets are.
var (
	ErrNoLink = errors.New("send by rendezvous: no server is connected")
	ErrAbsent = errors.New("send by rendezvous: the other side is connected to no server")
	ErrSize   = errors.New("send by rendezvous: the packet is empty or too large")
)

// ClientConfig is who a client is and which servers it uses.
type ClientConfig struct {
	URLs   []string // 1 to MaxURLs, as ParseURL reads them
	Grid   canon.Hash
	Slot   canon.Hash
	Epoch  uint64
	Signer sign.Signer // the slot's key of that epoch
	// RelayOnly opens no UDP socket at all.
	RelayOnly bool
	// OnPacket takes what came from another slot; from is what the server says.
	// It must be quick, may be called from several goroutines, and must not keep
	// packet.
	OnPacket func(from canon.Hash, packet []byte)
	// OnObserved is told from which outside address a server saw an
	// ObserveProbe. May be nil.
	OnObserved func(token [16]byte, addr netip.AddrPort)
	// OnChange is called when a link comes or goes, or changes between UDP and
	// TLS. It must be quick. May be nil.
	OnChange func()
	Logger   *slog.Logger
	// Periods replaces the times below, each if not 0; for tests.
	Periods Periods
}

// Link is the state of the way to one server, for people.
type Link struct {
	URL   string
	Up    bool
	UDP   bool          // packets go as datagrams now
	RTT   time.Duration // to the server and back; 0: not measured
	Since time.Time     // when Up last changed
	Error string        // why it is not up, one line
}

// Client is the links to all servers of a list.
type Client struct{}

// Connect begins to dial every server and returns at once. It fails only on a
// configuration that can never work.
func Connect(cfg ClientConfig) (*Client, error) { return nil, errors.New("not built yet") }

// Send passes a packet of 1 to MaxPacket bytes on towards another slot, over the
// best link on which that slot is. It never blocks and keeps nothing of packet.
// No error is no proof of arrival.
func (c *Client) Send(to canon.Hash, packet []byte) error { return ErrNoLink }

// Watch asks all servers to report where an ObserveProbe with this token comes
// from, until Unwatch. Choose tokens at random: who knows one can make the
// servers report his own address for it.
func (c *Client) Watch(token [16]byte) error { return nil }

// Unwatch ends Watch.
func (c *Client) Unwatch(token [16]byte) {}

// Servers are the UDP addresses that take an ObserveProbe: those of the servers
// to which there is a link.
func (c *Client) Servers() []netip.AddrPort { return nil }

// Links tells the state of each link, in the order of the URLs.
func (c *Client) Links() []Link { return nil }

// Poke says that the network changed: dead links are tried at once.
func (c *Client) Poke() {}

// Close ends all links and waits until nothing of the client runs.
func (c *Client) Close() {}

// ObserveProbe is the datagram that asks a server from which outside address it
// comes: send it from the socket in question to each of Servers, and the answer
// comes as OnObserved for a token that is watched. The server answers nothing to
// the sender.
func ObserveProbe(token [16]byte) []byte {
	return append([]byte{datagramObserve}, token[:]...)
}

const datagramObserve = 0x02

// Periods are the times by which a client judges its links.
type Periods struct {
	Ping     time.Duration // between pings of a link; 15 s
	Answer   time.Duration // a link without an answer for so long is dead; 10 s
	Probe    time.Duration // between probes of a peer with traffic; 500 ms
	Silent   time.Duration // a way that carries traffic and answers nothing is left; 1.5 s
	Absent   time.Duration // how long "gone" is believed; 500 ms
	Present  time.Duration // how long a peer is believed present; 20 s
	RetryMin time.Duration // first pause between dials; 100 ms
	RetryMax time.Duration // longest pause; 5 s
	Dial     time.Duration // for dialing, TLS and login; 10 s
}
