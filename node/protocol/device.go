package protocol

import (
	"fmt"
	"net/netip"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// MaxEndpoints is how many endpoints a DeviceConfig has at most.
const MaxEndpoints = 16

// DeviceParams name a device of the contract, in a request of bus.MethodDevice.
type DeviceParams struct {
	Workload string `cbor:"workload"`
}

// DeviceConfig answers bus.MethodDevice: what a person's machine needs to enter a
// network, besides its own private key. Only the device's account gets it.
type DeviceConfig struct {
	Network   string   `cbor:"network" json:"network"`     // its name; names in it end in NETWORK.internal
	EntryKey  []byte   `cbor:"entry_key" json:"entry_key"` // WireGuard public key of the entry, 32 bytes
	Preshared []byte   `cbor:"preshared" json:"preshared"` // of this device and this entry, 32 bytes: a secret
	Device    []byte   `cbor:"device" json:"device"`       // WireGuard public key that the plan has for the device, 32 bytes
	Addresses []string `cbor:"addresses" json:"addresses"` // of the device: IPv4, IPv6
	Ranges    []string `cbor:"ranges" json:"ranges"`       // the whole network: IPv4, IPv6
	DNS       []string `cbor:"dns" json:"dns"`             // the entry's router, which answers the network's names: IPv4, IPv6
	Endpoints []string `cbor:"endpoints" json:"endpoints"` // public addresses and UDP ports that lead to the entry; empty: no gateway does
	MTU       uint64   `cbor:"mtu" json:"mtu"`             // of the device's tunnel, bytes
}

// DecodeDeviceConfig reads the answer of a node, which may lie.
func DecodeDeviceConfig(b []byte) (DeviceConfig, error) {
	var c DeviceConfig
	err := canon.Unmarshal(b, &c)
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return DeviceConfig{}, problem.New("reply-invalid", "read the configuration of a device: %w", err)
	}
	return c, nil
}

func (c DeviceConfig) check() error {
	switch {
	case len(c.Network) == 0 || len(c.Network) > MaxText:
		return fmt.Errorf("a network's name of %d bytes", len(c.Network))
	case len(c.EntryKey) != 32 || len(c.Preshared) != 32 || len(c.Device) != 32:
		return fmt.Errorf("keys of %d, %d and %d bytes, want 32", len(c.EntryKey), len(c.Preshared), len(c.Device))
	case len(c.Addresses) != 2 || len(c.Ranges) != 2 || len(c.DNS) != 2:
		return fmt.Errorf("%d addresses, %d ranges and %d resolvers, want two of each", len(c.Addresses), len(c.Ranges), len(c.DNS))
	case len(c.Endpoints) > MaxEndpoints:
		return fmt.Errorf("%d endpoints, at most %d are allowed", len(c.Endpoints), MaxEndpoints)
	case c.MTU < 1280 || c.MTU > 9000:
		return fmt.Errorf("an MTU of %d", c.MTU)
	}
	for i := range 2 {
		for _, text := range []string{c.Addresses[i], c.DNS[i]} {
			if a, err := netip.ParseAddr(text); err != nil || a.Is4() != (i == 0) || a.Is4In6() || a.Zone() != "" {
				return fmt.Errorf("%.60q is no address, or not of its family", text)
			}
		}
		if r, err := netip.ParsePrefix(c.Ranges[i]); err != nil || r.Addr().Is4() != (i == 0) || r != r.Masked() {
			return fmt.Errorf("%.60q is no range, or not of its family", c.Ranges[i])
		}
	}
	for _, text := range c.Endpoints {
		if a, err := netip.ParseAddrPort(text); err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
			return fmt.Errorf("%.80q is no address and port", text)
		}
	}
	return nil
}
