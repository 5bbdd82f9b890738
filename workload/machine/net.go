package machine

import (
	"net/netip"

	"github.com/zero-os/zos/workload/control"
)

// Net is what a machine's monitor finds of its networks, and what its guest is to be
// told.
type Net struct {
	Path       string // of the network namespace, pinned; "" for none
	Interfaces []Interface
	// ResolvConf and Hosts are the contents of the guest's files.
	ResolvConf, Hosts []byte
	// Nameservers and Search are what ResolvConf says.
	Nameservers []netip.Addr
	Search      []string
	// Probe is the way of health checks to a guest without an agent; nil: there is none.
	Probe *ProbeFrom
}

// Interface is one network interface of a guest.
type Interface struct {
	Tap string // name in the namespace: tap0, tap1, …
	control.Iface
}

// Ifaces are the interfaces as a guest's agent takes them.
func (n Net) Ifaces() []control.Iface {
	var out []control.Iface
	for _, i := range n.Interfaces {
		out = append(out, i.Iface)
	}
	return out
}
