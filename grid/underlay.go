package grid

import "net/netip"

// Underlay is the network between the machines and the services, where that is
// another one than QEMU's user network over this host's loopback. Package netlab
// makes such networks.
type Underlay interface {
	// Address is that by which machines dial the services.
	Address() netip.Addr
	// Within runs open in the machines' network: sockets that it makes are there.
	Within(open func() error) error
	// Expose lets machines dial a TCP port of this host's loopback, as the same
	// port of Address.
	Expose(port uint16) error
	// Admit lets this host dial a TCP port of Address, as the same port of its
	// loopback.
	Admit(port uint16) error
	// Wire plugs in machine number i, from 1, and returns QEMU's arguments for its
	// card. bootFile is the URL that DHCP gives it.
	Wire(i int, mac, bootFile string) []string
	// Public is the public side of machine number i.
	Public(i int) (Public, error)
}
