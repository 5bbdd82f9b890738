package netnode

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network"
)

// Mesh is a network over the slots of these numbers: node number i has
// 10.20.i.0/24 and fd20:0:0:i::/64. Self is for Ensure to fill in.
func Mesh(name string, numbers ...int) network.Topology {
	t := network.Topology{ID: network.ID(canon.Sum([]byte("contract")), name), Name: name}
	for _, i := range numbers {
		t.Nodes = append(t.Nodes, network.Node{Slot: Slot(i), Prefixes: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, byte(i), 0}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x20, 7: byte(i)}), 64),
		}})
	}
	slices.SortFunc(t.Nodes, func(a, b network.Node) int { return strings.Compare(a.Slot.String(), b.Slot.String()) })
	return t
}

// Router4 and Router6 are the first addresses of node number i in a Mesh.
func Router4(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 20, byte(i), 1}) }

// Router6 is Router4's counterpart.
func Router6(i int) netip.Addr { return netip.AddrFrom16([16]byte{0xfd, 0x20, 7: byte(i), 15: 1}) }
