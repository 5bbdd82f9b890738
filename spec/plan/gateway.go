package plan

import (
	"fmt"

	"github.com/zero-os/zos/canon"
)

// KindGateway is the kind of a workload that publishes others to the world.
const KindGateway = "gateway"

// KindDevice is the kind of a person's machine that is a member of a network. It
// runs nowhere: its slot is the node by which it enters.
const KindDevice = "device"

// Gateway is the configuration of a workload of kind "gateway": what of the
// deployment's networks the world reaches, and at which public addresses. Its
// slot has a pool with these addresses.
type Gateway struct {
	V uint64 `cbor:"v"`
	// Addresses at which it listens, in canonical text, sorted, each once.
	Addresses []string `cbor:"addresses"`
	// Leased says that the addresses are this contract's alone. Otherwise they
	// are those that the slot's pool shares among all: by host name on ports 80
	// and 443, by port on others.
	Leased bool `cbor:"leased"`
	// Networks are its places in networks of the plan, by which it reaches the
	// backends: not open, without rules, egress or aliases. Nodes let it reach
	// what Routes name and nothing else.
	Networks []Attachment `cbor:"networks"`
	Routes   []Route      `cbor:"routes"` // sorted by host, mode and port, each once
}

// Route is one thing that a gateway publishes.
type Route struct {
	// Host is a full lower-case host name for passthrough and terminate, else "".
	Host string `cbor:"host"`
	Mode string `cbor:"mode"` // one of the Mode constants
	// Port is the public one; 443 for a Host.
	Port    uint16 `cbor:"port"`
	Network string `cbor:"network"` // of the backends; one of the gateway's Networks
	// Backends are the workloads behind it, sorted, each once; among them the load
	// is shared. Empty if Entry is set.
	Backends []string `cbor:"backends"`
	Target   uint16   `cbor:"target"` // port of the backends; EntryPort for an Entry
	// Entry is the slot by which devices enter the network; zero: none. Such a
	// route forwards their encrypted packets, and is of mode udp.
	Entry canon.Hash `cbor:"entry"`
	// Proxy is the version of the PROXY protocol that backends are told the
	// client's address by, 1 or 2; 0: none. Only 2 for udp, none for terminate.
	Proxy uint64 `cbor:"proxy"`
	// Check is how backends are found healthy: CheckTCP, CheckHTTP or CheckNone.
	Check string `cbor:"check"`
	Path  string `cbor:"path"` // of CheckHTTP, "" otherwise
}

// Modes of a Route.
const (
	ModePassthrough = "passthrough" // TLS, by its server name; the workload holds the key
	ModeTerminate   = "terminate"   // TLS ends at the gateway, HTTP goes on
	ModeTCP         = "tcp"         // a port
	ModeUDP         = "udp"         // a port
)

// Checks of a Route's backends.
const (
	CheckTCP  = "tcp"  // it accepts a connection
	CheckHTTP = "http" // it answers Path with 200 to 399
	CheckNone = "none" // it counts as healthy; the only one for udp
)

// EntryPort is the UDP port of a network's router at which devices enter. It is
// open to gateways whose routes name the router's slot, and to nobody else.
const EntryPort = 51820

// Device is the configuration of a workload of kind "device". The attachment's
// addresses are of its slot's part of the network; rules may name the device
// like a workload, and it can itself be reached by nobody.
type Device struct {
	V       uint64     `cbor:"v"`
	Key     []byte     `cbor:"key"`     // WireGuard public key, 32 bytes, unique in the plan
	Account canon.Hash `cbor:"account"` // whose machine it is: who may ask for its configuration
	Network Attachment `cbor:"network"` // not open, without rules, aliases or egress
}

// GatewayResources is what the planner gives every gateway, for its share of the
// node's gateway process and its access log.
func GatewayResources() Resources {
	return Resources{CPU: 50, Memory: 32 << 20, Disk: 8 << 20, PIDs: 1}
}

// DeviceResources is what the planner gives every device.
func DeviceResources() Resources { return Resources{CPU: 1, Memory: 1 << 20, Disk: 0, PIDs: 1} }

// DecodeGateway reads and validates the Config of a gateway.
func DecodeGateway(config []byte) (Gateway, error) {
	var g Gateway
	if err := canon.UnmarshalLimit(config, MaxSize, &g); err != nil {
		return Gateway{}, invalid("read gateway configuration: %w", err)
	}
	if err := g.Validate(); err != nil {
		return Gateway{}, err
	}
	return g, nil
}

// Encode validates g and returns its canonical bytes, for Workload.Config.
func (g Gateway) Encode() ([]byte, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	b, err := canon.Marshal(g)
	if err != nil {
		return nil, fmt.Errorf("encode gateway configuration: %w", err)
	}
	return b, nil
}

// DecodeDevice reads and validates the Config of a device.
func DecodeDevice(config []byte) (Device, error) {
	var d Device
	if err := canon.UnmarshalLimit(config, maxDevice, &d); err != nil {
		return Device{}, invalid("read device configuration: %w", err)
	}
	if err := d.Validate(); err != nil {
		return Device{}, err
	}
	return d, nil
}

// Encode validates d and returns its canonical bytes, for Workload.Config.
func (d Device) Encode() ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	b, err := canon.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode device configuration: %w", err)
	}
	return b, nil
}
