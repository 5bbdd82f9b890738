package protocol

import (
	"fmt"
	"strings"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Limits of a NetworkStatus. A node keeps below them, a client refuses more.
const (
	MaxNetworks  = 32  // networks of one contract on one node
	MaxPeers     = 256 // peers of one network
	MaxKeys      = 8   // keys of one network: one per epoch that is in use
	MaxAttached  = 128 // workloads of one network on one node
	MaxAddresses = 8   // addresses of one workload in one network
	MaxText      = 512 // bytes of any text
)

// Engines of a network's device.
const (
	EngineKernel    = "kernel"
	EngineUserspace = "userspace"
)

// States of a peer.
const (
	PeerUnknown = "unknown" // the peer's node has not told its keys yet
	PeerWaiting = "waiting" // its keys are known; no handshake yet
	PeerUp      = "up"      // a handshake is fresh
	PeerSilent  = "silent"  // there was a handshake, and it is old
)

// NetworkStatus answers bus.MethodNetwork: the networks of one contract as one
// node sees them now.
type NetworkStatus struct {
	Slot     canon.Hash `cbor:"slot" json:"slot"`
	Networks []Network  `cbor:"networks" json:"networks"`
}

// Network is one network of the contract on this node.
type Network struct {
	Name    string     `cbor:"name" json:"name"`
	ID      canon.Hash `cbor:"id" json:"id"`
	Version uint64     `cbor:"version" json:"version"` // of the contract that it was made from
	// Keys are the node's own keys that are in use, oldest first: two of them
	// while keys rotate, none before there is a device. Public halves only.
	Keys      []NetworkKey       `cbor:"keys" json:"keys"`
	Firewall  Check              `cbor:"firewall" json:"firewall"` // the rules in the kernel are those of the plan
	Resolver  Check              `cbor:"resolver" json:"resolver"` // it has answered a question just now
	Workloads []AttachedWorkload `cbor:"workloads" json:"workloads"`
	Peers     []NetworkPeer      `cbor:"peers" json:"peers"`
}

// NetworkKey is one of the node's keys for a network, and its WireGuard device.
type NetworkKey struct {
	Device    string `cbor:"device" json:"device"`
	Engine    string `cbor:"engine" json:"engine"` // EngineKernel or EngineUserspace
	Epoch     uint64 `cbor:"epoch" json:"epoch"`
	PublicKey []byte `cbor:"public_key" json:"public_key"` // 32 bytes, WireGuard's
	Age       uint64 `cbor:"age" json:"age"`               // seconds since it was made
	Port      uint64 `cbor:"port" json:"port"`             // UDP port of its device; 0: relay only
}

// Check is whether something was found as it should be.
type Check struct {
	OK     bool   `cbor:"ok" json:"ok"`
	Detail string `cbor:"detail" json:"detail"` // what was found instead, one line
}

// AttachedWorkload is a workload that has its interface in the network.
type AttachedWorkload struct {
	Name      string   `cbor:"name" json:"name"`
	Addresses []string `cbor:"addresses" json:"addresses"`
}

// NetworkPeer is another node of the network, as this one sees it.
type NetworkPeer struct {
	Slot  canon.Hash `cbor:"slot" json:"slot"`
	State string     `cbor:"state" json:"state"` // PeerUnknown, PeerWaiting, PeerUp or PeerSilent
	// Path is how packets travel to it now: "relay via host:port" or
	// "direct 192.0.2.1:4711"; empty before the first.
	Path string `cbor:"path" json:"path"`
	RTT  uint64 `cbor:"rtt" json:"rtt_ms"` // round trip of a direct path in milliseconds; 0: not known
	// Epoch and PublicKey are the peer's newest key as it told this node in a
	// binding that its slot's key signed; 0 and empty before the first.
	Epoch     uint64 `cbor:"epoch" json:"epoch"`
	PublicKey []byte `cbor:"public_key" json:"public_key"`
	// UsedEpoch is the peer's key by which packets travel: older than Epoch while
	// keys rotate.
	UsedEpoch uint64 `cbor:"used_epoch" json:"used_epoch"`
	Handshake *Age   `cbor:"handshake" json:"handshake"` // the last one; nil: none yet
	PSK       *Age   `cbor:"psk" json:"psk"`             // the post-quantum key in use; nil: none, or of before the node's daemon started
	Received  uint64 `cbor:"rx" json:"rx"`               // bytes
	Sent      uint64 `cbor:"tx" json:"tx"`               // bytes
	Code      string `cbor:"code" json:"code"`           // problem code of the last failure that still lasts
	Message   string `cbor:"message" json:"message"`     // the same for people, one line
}

// Age is how long ago something was.
type Age struct {
	Seconds uint64 `cbor:"s" json:"seconds"`
}

// AgeOf is the age at now of something that was at t; nil if t is zero. A t ahead
// of now is of age 0.
func AgeOf(now, t time.Time) *Age {
	if t.IsZero() {
		return nil
	}
	return &Age{Seconds: uint64(max(0, now.Sub(t)) / time.Second)}
}

// FreshHandshake is the age of a handshake past which the peer is away: while
// keepalives are sent, a new one comes every two minutes.
const FreshHandshake = 210 * time.Second

// PeerState tells a peer's state from the epoch of its newest key and the age of
// the last handshake. A node whose daemon has just started again may have a
// session with a peer whose key it does not know yet.
func PeerState(epoch uint64, handshake *Age) string {
	switch {
	case handshake != nil && handshake.Seconds <= uint64(FreshHandshake/time.Second):
		return PeerUp
	case handshake != nil:
		return PeerSilent
	case epoch == 0:
		return PeerUnknown
	}
	return PeerWaiting
}

// DecodeNetworkStatus reads the answer of a node, which may lie.
func DecodeNetworkStatus(b []byte) (NetworkStatus, error) {
	var s NetworkStatus
	if err := canon.Unmarshal(b, &s); err != nil {
		return NetworkStatus{}, problem.New("reply-invalid", "read the status of networks: %w", err)
	}
	if err := s.check(); err != nil {
		return NetworkStatus{}, problem.New("reply-invalid", "read the status of networks: %w", err)
	}
	return s, nil
}

func (s NetworkStatus) check() error {
	if len(s.Networks) > MaxNetworks {
		return fmt.Errorf("%d networks, at most %d are allowed", len(s.Networks), MaxNetworks)
	}
	for _, n := range s.Networks {
		if err := n.check(); err != nil {
			return fmt.Errorf("network %.40q: %w", n.Name, err)
		}
	}
	return nil
}

func (n Network) check() error {
	for _, l := range []struct {
		what      string
		have, max int
	}{{"peers", len(n.Peers), MaxPeers}, {"keys", len(n.Keys), MaxKeys}, {"workloads", len(n.Workloads), MaxAttached}} {
		if l.have > l.max {
			return fmt.Errorf("%d %s, at most %d are allowed", l.have, l.what, l.max)
		}
	}
	texts := []string{n.Name, n.Firewall.Detail, n.Resolver.Detail}
	keys := [][]byte{}
	for _, k := range n.Keys {
		texts = append(texts, k.Device, k.Engine)
		keys = append(keys, k.PublicKey)
	}
	for _, w := range n.Workloads {
		if len(w.Addresses) > MaxAddresses {
			return fmt.Errorf("workload %.63q has %d addresses, at most %d are allowed", w.Name, len(w.Addresses), MaxAddresses)
		}
		texts = append(append(texts, w.Name), w.Addresses...)
	}
	for _, p := range n.Peers {
		texts = append(texts, p.State, p.Path, p.Code, p.Message)
		keys = append(keys, p.PublicKey)
	}
	for _, t := range texts {
		if len(t) > MaxText {
			return fmt.Errorf("a text of %d bytes, at most %d are allowed", len(t), MaxText)
		}
	}
	for _, k := range keys {
		if len(k) != 0 && len(k) != 32 {
			return fmt.Errorf("a key of %d bytes", len(k))
		}
	}
	return nil
}

// Bounded returns s cut to the limits, so that a node with more than they allow
// still answers.
func (s NetworkStatus) Bounded() NetworkStatus {
	s.Networks = cut(s.Networks, MaxNetworks)
	for i := range s.Networks {
		n := &s.Networks[i]
		n.Peers, n.Keys, n.Workloads = cut(n.Peers, MaxPeers), cut(n.Keys, MaxKeys), cut(n.Workloads, MaxAttached)
		for _, t := range []*string{&n.Name, &n.Firewall.Detail, &n.Resolver.Detail} {
			*t = short(*t)
		}
		for j := range n.Keys {
			n.Keys[j].Device, n.Keys[j].Engine = short(n.Keys[j].Device), short(n.Keys[j].Engine)
		}
		for j := range n.Workloads {
			w := &n.Workloads[j]
			w.Name, w.Addresses = short(w.Name), cut(w.Addresses, MaxAddresses)
			for k := range w.Addresses {
				w.Addresses[k] = short(w.Addresses[k])
			}
		}
		for j := range n.Peers {
			p := &n.Peers[j]
			p.State, p.Path, p.Code, p.Message = short(p.State), short(p.Path), short(p.Code), short(p.Message)
		}
	}
	return s
}

// cut copies at most n elements.
func cut[T any](list []T, n int) []T {
	return append([]T{}, list[:min(len(list), n)]...)
}

// short cuts a text to MaxText bytes of valid UTF-8.
func short(s string) string {
	s = strings.ToValidUTF8(s, "·")
	if len(s) <= MaxText {
		return s
	}
	end := 0
	for i := range s {
		if i > MaxText {
			break
		}
		end = i
	}
	return s[:end]
}
