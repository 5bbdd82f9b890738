package wireguard

import (
	"log/slog"
	"net/netip"
	"time"
)

// Engine says who encrypts.
type Engine int

const (
	Auto      Engine = iota // Kernel where the kernel can and RelayOnly is not set, else Userspace
	Kernel                  // the kernel's WireGuard
	Userspace               // wireguard-go in this process
)

func (e Engine) String() string {
	switch e {
	case Auto:
		return "auto"
	case Kernel:
		return "kernel"
	case Userspace:
		return "userspace"
	}
	return "unknown"
}

// DefaultMTU of an interface: what IPv6 needs at least, and small enough that
// an encrypted packet passes every usual path whole: over IPv6 it is 1360
// bytes, which leaves 140 for tunnels of the provider and for the relay's own
// header. On a path of 1280 bytes the outer packets are fragmented by the host.
// Against 1420 it costs 1.4 % more bytes in headers, and in BenchmarkUserspace
// nothing that shows (1280: 182 MB/s and 4.8 CPU-s/GB; 1420: 167 and 5.2).
const DefaultMTU = 1280

// MaxPacket is the largest packet that a device gives to ToRelay, and the
// largest that FromRelay takes: an interface's largest MTU plus WireGuard's 32
// bytes, rounded up to 16.
const MaxPacket = 2048

// MaxMTU of an interface.
const MaxMTU = MaxPacket - 48

// ProbeMagic begins every probe that OnProbe is to see. A WireGuard message
// begins with its type, 1 to 4, and three zero bytes.
const ProbeMagic = "\xf0zosprob"

// MaxProbe is the largest probe that SendProbe sends and OnProbe sees, bytes.
const MaxProbe = 1400

// Config of a device.
type Config struct {
	Name       string // of the interface, 1 to 15 bytes
	PrivateKey Key
	NetNS      int    // file descriptor of the router namespace, where plaintext is; needed only during the call
	MTU        int    // 0: DefaultMTU; 576 to MaxMTU
	Engine     Engine // who encrypts
	// RelayOnly: no UDP socket is ever opened, no probe sent or received, and no
	// path other than the relay taken. Implies Userspace: the kernel's engine
	// always has a socket.
	RelayOnly bool
	// ToRelay takes an encrypted packet for a peer whose path is the relay. It
	// must not block and not keep packet. nil: such packets are lost.
	ToRelay func(peer Key, packet []byte)
	// OnProbe takes what came to the device's port and begins with ProbeMagic,
	// from anyone at all: nothing about it is authentic. It must not block and
	// not keep probe. nil: probes are dropped.
	OnProbe func(from netip.AddrPort, probe []byte)
	Logger  *slog.Logger // nil: silent

	port uint16 // UDP, for an Entry; 0: one that is free
}

// Device is one WireGuard interface, up from the start. Its methods may be called from several
// goroutines; after Close they fail with net.ErrClosed.
type Device interface {
	Name() string
	Engine() Engine // Kernel or Userspace
	Port() uint16   // UDP, on every address of the host; 0 with RelayOnly
	PublicKey() Key
	// SetPeer adds the peer, with the relay as its path, or makes it what p says.
	// Sessions and path stay; a new preshared key counts from the next handshake.
	SetPeer(p Peer) error
	RemovePeer(peer Key) error // removing a peer that is not there is no error
	// SetPath sends the peer's packets directly to an address (not a link-local
	// IPv6 one); the zero AddrPort: through the relay. fs.ErrNotExist: no such
	// peer. A packet of the peer's that is still under way on the old path moves
	// it back; Stats tells, and then SetPath is called again.
	SetPath(peer Key, direct netip.AddrPort) error
	// FromRelay takes a packet that the relay brought from peer; it keeps no
	// reference to it. It never blocks: what is too much is dropped, as a network
	// would. fs.ErrNotExist: no such peer.
	FromRelay(peer Key, packet []byte) error
	// SendProbe sends b from the device's own port. b is at most MaxProbe bytes
	// and nothing that WireGuard could take for its own; what is to arrive at
	// another device's OnProbe begins with ProbeMagic.
	SendProbe(to netip.AddrPort, b []byte) error
	Stats() ([]PeerStats, error) // sorted by public key
	Close() error                // deletes the interface and every socket; a second call does nothing
	// Leave frees what this process holds and lets a kernel interface live on,
	// with its sessions, for Adopt. A userspace device ends, as with Close.
	Leave() error
}

// Peer is the other end of one link.
type Peer struct {
	PublicKey    Key
	PresharedKey Key            // zero: none
	AllowedIPs   []netip.Prefix // all of them: what is not here is taken away
	// Keepalive is in whole seconds up to 65535; 0: none. The first one is sent
	// when the peer is set, and begins a handshake.
	Keepalive time.Duration
}

// PeerStats is what a device knows of a peer.
type PeerStats struct {
	PublicKey     Key
	LastHandshake time.Time // zero: never
	RxBytes       uint64    // encrypted bytes received, since the peer was added
	TxBytes       uint64
	Relayed       bool           // packets to the peer go through the relay
	Endpoint      netip.AddrPort // where packets to the peer go; zero when relayed
	AllowedIPs    []netip.Prefix
}
