package plan

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"github.com/zero-os/zos/canon"
)

// Network is a private network of one deployment: which nodes carry it, and
// which addresses are each node's. Its id is that of package network.
type Network struct {
	Name string `cbor:"name"` // [a-z0-9-]{1,40}, unique within the plan
	// IPv4 is the whole range in canonical text: /8 to /24 of 10.0.0.0/8,
	// 100.64.0.0/10, 172.16.0.0/12 or 192.168.0.0/16.
	IPv4 string `cbor:"ipv4"`
	// IPv6 is a unique local /48. The planner derives it with ULA.
	IPv6  string        `cbor:"ipv6"`
	Exit  canon.Hash    `cbor:"exit"`  // slot through which egress "exit" leaves; zero: none
	Nodes []NetworkNode `cbor:"nodes"` // sorted by slot, each once, at least one
}

// NetworkNode is one node's part of a network. A router of its own runs there:
// a workload of kind "network".
type NetworkNode struct {
	Slot canon.Hash `cbor:"slot"`
	IPv4 string     `cbor:"ipv4"` // its /24 of the network's IPv4; .1 is the router
	IPv6 string     `cbor:"ipv6"` // its /64 of the network's IPv6; ::1 is the router
}

// Attachment is one interface of a workload.
type Attachment struct {
	Network string `cbor:"network"` // a network of the plan that has the workload's slot
	IPv4    string `cbor:"ipv4"`    // one address of the node's /24, unique in the network
	IPv6    string `cbor:"ipv6"`    // one address of the node's /64, unique in the network
	// Aliases are further names that the network's resolver answers for; sorted.
	// Several workloads may share one: it then has several addresses.
	Aliases []string `cbor:"aliases"`
	// Open lets every workload of the network reach every port. Otherwise only
	// Allow does, and an empty Allow lets nobody in. Answers always pass.
	Open  bool   `cbor:"open"`
	Allow []Rule `cbor:"allow"`
	// Egress is what of the world outside the network the workload reaches.
	Egress    string `cbor:"egress"`    // EgressNone, EgressNode or EgressExit
	Bandwidth uint64 `cbor:"bandwidth"` // bit/s each way; 0: no limit
}

// Rule lets peers reach ports of a workload.
type Rule struct {
	Protocol string   `cbor:"protocol"` // ProtocolTCP, ProtocolUDP or ProtocolICMP
	First    uint16   `cbor:"first"`    // first port; 0 for icmp
	Last     uint16   `cbor:"last"`     // last port, inclusive; 0 for icmp
	Peers    []string `cbor:"peers"`    // workloads of the network, sorted; empty: all of them
}

// Ports shows what a rule opens as a spec writes it: 5432/tcp, 8000-8010/udp or
// icmp.
func (r Rule) Ports() string {
	switch {
	case r.Protocol == ProtocolICMP:
		return r.Protocol
	case r.First == r.Last:
		return fmt.Sprintf("%d/%s", r.First, r.Protocol)
	}
	return fmt.Sprintf("%d-%d/%s", r.First, r.Last, r.Protocol)
}

// Where an Attachment's packets may go besides its network. At most one
// attachment of a workload may have another egress than EgressNone.
const (
	EgressNone = "none" // nowhere
	EgressNode = "node" // out of the workload's own node, behind its address
	EgressExit = "exit" // through the network to its exit node, and out of that
)

// Protocols of a Rule. ProtocolICMP is ICMP and ICMPv6 echo.
const (
	ProtocolTCP  = "tcp"
	ProtocolUDP  = "udp"
	ProtocolICMP = "icmp"
)

// KindNetwork is the kind of a network's router on one node.
const KindNetwork = "network"

// NetworkConfig is the configuration of a workload of kind "network". All else
// about the network stands in the plan's Networks.
type NetworkConfig struct {
	V       uint64 `cbor:"v"`
	Network string `cbor:"network"` // name of a network of the plan
}

// RouterName is the name of the workload that is a network's router on a slot.
func RouterName(network string, slot canon.Hash) string {
	return network + "-" + slot.String()[:8]
}

// RouterResources is what the planner gives every router.
func RouterResources() Resources { return Resources{CPU: 10, Memory: 8 << 20, Disk: 0, PIDs: 1} }

// DecodeNetworkConfig reads and validates the Config of a router.
func DecodeNetworkConfig(config []byte) (NetworkConfig, error) {
	var c NetworkConfig
	if err := canon.UnmarshalLimit(config, maxNetworkConfig, &c); err != nil {
		return NetworkConfig{}, invalid("read network configuration: %w", err)
	}
	if err := c.Validate(); err != nil {
		return NetworkConfig{}, err
	}
	return c, nil
}

// Encode validates c and returns its canonical bytes, for Workload.Config.
func (c NetworkConfig) Encode() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	b, err := canon.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode network configuration: %w", err)
	}
	return b, nil
}

// Validate checks a router's configuration by itself; Plan.Validate checks that
// the network exists.
func (c NetworkConfig) Validate() error {
	switch {
	case c.V != Version:
		return invalid("network configuration of version %d, this software knows %d", c.V, Version)
	case !ValidNetworkName(c.Network):
		return invalid("network name %.80q: want [a-z0-9-], 1 to %d characters", c.Network, MaxNetworkName)
	}
	return nil
}

// ValidNetworkName tells whether s can name a network. It is shorter than other
// names, so that RouterName fits.
func ValidNetworkName(s string) bool { return ValidName(s) && len(s) <= MaxNetworkName }

// ULA is the IPv6 range of a network: a unique local /48 (RFC 4193) whose 40
// bits are a hash of who it belongs to. So it is the same in every version of
// a deployment, and two deployments hardly ever have the same.
func ULA(group canon.Hash, deployment, network string) netip.Prefix {
	h := sha256.New()
	h.Write([]byte("zos-ula-v1\x00"))
	h.Write(group[:])
	h.Write([]byte(deployment)) // a name holds no zero byte
	h.Write([]byte{0})
	h.Write([]byte(network))
	var a [16]byte
	a[0] = 0xfd
	copy(a[1:6], h.Sum(nil))
	return netip.PrefixFrom(netip.AddrFrom16(a), 48)
}
