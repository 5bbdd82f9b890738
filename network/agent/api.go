package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/sign"
)

// What the agent owns in a router namespace.
const (
	// ExitTable is the routing table that holds a default route through the
	// network's exit node. Who may use it is for the owner of the namespace to
	// say, with rules (ip rule).
	ExitTable = 100
	// RouteProtocol marks the agent's routes, so that it removes no others.
	RouteProtocol = 157
)

// DeviceNames are the names of the WireGuard interfaces in a router namespace:
// even key epochs use the first, odd ones the second.
func DeviceNames() [2]string { return [2]string{"wg0", "wg1"} }

// MethodExchange is the one method that agents call at each other.
const MethodExchange = "network.exchange"

// Messenger carries calls between nodes. It proves who calls: a handler's from
// is true. bus.Peers is one.
type Messenger interface {
	Call(ctx context.Context, slot canon.Hash, method string, body []byte) ([]byte, error)
	Handle(method string, h func(ctx context.Context, from canon.Hash, body []byte) ([]byte, error))
}

// Relay carries packets to nodes that can't be reached otherwise. It may drop,
// delay, alter and forge: nothing here trusts it. rendezvous.Client is one.
type Relay interface {
	// Send never blocks. The packet has at most 2048 bytes.
	Send(to canon.Hash, packet []byte) error
	// Servers are where observation probes go.
	Servers() []netip.AddrPort
	// Watch asks the servers to report where an observation probe with this
	// token comes from, until Unwatch.
	Watch(token [16]byte) error
	Unwatch(token [16]byte)
	// Poke says that the node's addresses changed.
	Poke()
}

// Identity is what the ledger says of a slot.
type Identity struct {
	Epoch uint64
	Key   sign.PublicKey
}

// Devices makes WireGuard devices. wireguard.Host is one.
type Devices interface {
	New(ctx context.Context, c wireguard.Config) (wireguard.Device, error)
	// Adopt takes over what outlived the daemon; fs.ErrNotExist: nothing did.
	Adopt(ctx context.Context, c wireguard.Config) (wireguard.Device, error)
}

// Config is who the agent is and what it works with.
type Config struct {
	Grid   canon.Hash
	Slot   canon.Hash // of this node
	Epoch  uint64     // of the slot
	Signer sign.Signer
	// Bound reads what the ledger says of another slot. It is asked once per
	// exchange; the caller caches.
	Bound     func(ctx context.Context, slot canon.Hash) (Identity, error)
	Messenger Messenger
	Relay     Relay
	// ObserveProbe makes what is sent to a relay server from a device's own
	// port; the server's answer comes to Observed. rendezvous.ObserveProbe; nil
	// if relays don't observe.
	ObserveProbe func(token [16]byte) []byte
	Devices      Devices
	Engine       wireguard.Engine // Auto, unless a test asks for one
	MTU          int              // of the devices; 0: the devices' default
	RelayOnly    bool             // no UDP socket, no candidates, no probes
	// Host tells the node's own addresses; nil: those of the namespace in which
	// New is called, by netlink. Unused when RelayOnly.
	Host    Host
	Periods Periods
	Logger  *slog.Logger     // nil: none
	Now     func() time.Time // nil: time.Now

	openRouter func(netns int) (router, error) // tests
}

// Host is the node's connection to the underlay.
type Host interface {
	Underlay() (Underlay, error)
	// Watch calls changed, from one goroutine, whenever what Underlay tells may
	// have changed, until ctx ends.
	Watch(ctx context.Context, changed func()) error
}

// Underlay is by which addresses the node is connected now.
type Underlay struct {
	// Addresses at which others might reach the node: no loopback, no link-local,
	// nothing of the node's own virtual networks.
	Addresses []netip.Addr
	// Routes identifies the default routes: another text means that packets
	// leave by another way.
	Routes string
}

// Periods are how often things happen. Zero fields mean the defaults.
type Periods struct {
	Rotate    time.Duration // life of a key epoch; default 24 h
	Overlap   time.Duration // how long the older device may stay; default 1 h
	Linger    time.Duration // how long it stays when all peers have moved and it is silent; default 1 min
	Renew     time.Duration // of preshared keys, jittered by a tenth; default 10 min
	MaxPSKAge time.Duration // default 30 min
	Retry     time.Duration // first wait after a failed exchange; default 250 ms
	MaxRetry  time.Duration // longest wait; default 30 s
	Call      time.Duration // deadline of one exchange; default 15 s
}

// Status is a network of this node, now.
type Status struct {
	ID       canon.Hash
	Name     string
	KeyEpoch uint64         // the newest that this node has a device for
	Devices  []DeviceStatus // oldest first; two during a rotation
	Peers    []PeerStatus   // sorted by slot, without the node itself
}

// DeviceStatus is one of the node's own keys.
type DeviceStatus struct {
	Name      string
	Engine    wireguard.Engine
	KeyEpoch  uint64
	PublicKey wireguard.Key
	Port      uint16 // UDP; 0: relay only
	Since     time.Time
	Observed  []netip.AddrPort // its addresses as relay servers see them
}

// Paths of a peer.
const (
	PathRelay  = "relay"
	PathDirect = "direct"
)

// PeerStatus is another node of the network, as seen from here.
type PeerStatus struct {
	Slot canon.Hash
	// NewestEpoch and NewestKey are the newest that the peer has told of
	// itself, in a binding that its slot's key signed; 0 and zero before the
	// first.
	NewestEpoch uint64
	NewestKey   wireguard.Key
	// KeyEpoch is that by which packets travel; 0 while they don't.
	KeyEpoch  uint64
	Device    string
	Path      string         // PathRelay, PathDirect; "" before the first exchange
	Address   netip.AddrPort // of a direct path
	RTT       time.Duration  // of a direct path
	Handshake time.Time      // the last one; zero: none yet
	PSK       time.Time      // when the preshared key in use was agreed; zero: none
	Received  uint64         // bytes, over all devices that stand
	Sent      uint64
	Code      string // problem code of what fails now, "" if nothing
	Message   string // the same for people, one line
}
