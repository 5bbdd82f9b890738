package nettest

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/netlab/netnode"
	"github.com/zero-os/zos/network/wireguard"
)

// underlay watches every underlay link of a world: for a marker, and for frames
// that networks have no business to send.
type underlay struct {
	*netlab.Capture
	servers []netip.Addr

	mu     sync.Mutex
	nodes  map[netip.Addr]bool // addresses of nodes and of their NATs
	others map[string]int      // what is not allowed
	kinds  map[string]int      // what is, by why
}

// watch must be called before anything is sent.
func watch(w *netnode.World, marker string, segments ...*netlab.Segment) *underlay {
	segments = append(segments, w.Internet)
	u := &underlay{nodes: map[netip.Addr]bool{}, others: map[string]int{}, kinds: map[string]int{}}
	for _, s := range w.Servers {
		u.servers = append(u.servers, s.Host.Addr4(), s.Host.Addr6())
	}
	u.Capture = netlab.NewCapture(segments, marker)
	for _, s := range segments {
		s.Tap(u.see)
	}
	return u
}

// between allows encrypted packets among these addresses.
func (u *underlay) between(addrs ...netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, a := range addrs {
		u.nodes[a] = true
	}
}

func (u *underlay) see(p netlab.Packet) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if why := u.why(p); why != "" {
		u.kinds[why]++
		return
	}
	u.others[fmt.Sprintf("%s on %s from %s", p.Flow, p.Segment, p.From)]++
}

// why tells why a packet may be there, "" if it may not.
func (u *underlay) why(p netlab.Packet) string {
	f := p.Flow
	if netlab.Neighbours(f) {
		return "neighbours"
	}
	server := func(a netip.AddrPort) bool {
		// Only first fragments have a port.
		return (a.Port() == 443 || f.Proto == "udp" && f.Src.Port() == 0 && f.Dst.Port() == 0) && slices.Contains(u.servers, a.Addr())
	}
	if server(f.Src) || server(f.Dst) {
		return f.Proto + " to a server"
	}
	// To whom it spoke with, a node's kernel says that a socket has gone.
	known := u.nodes[f.Dst.Addr()] || slices.Contains(u.servers, f.Dst.Addr())
	if (f.Proto == "icmp" && f.Type == 3 || f.Proto == "icmpv6" && f.Type == 1) && u.nodes[f.Src.Addr()] && known {
		return "unreachable"
	}
	if f.Proto != "udp" || !u.nodes[f.Src.Addr()] {
		return ""
	}
	payload := p.Frame[14+20+8:]
	if f.Src.Addr().Is6() {
		payload = p.Frame[14+40+8:]
	}
	switch {
	case bytes.HasPrefix(payload, []byte(wireguard.ProbeMagic)):
		return "probe"
	case isWireGuard(payload) && u.nodes[f.Dst.Addr()]:
		return "WireGuard"
	}
	return ""
}

// isWireGuard tells whether b is one of the protocol's four messages.
func isWireGuard(b []byte) bool {
	if len(b) < 32 || b[1] != 0 || b[2] != 0 || b[3] != 0 {
		return false
	}
	switch b[0] {
	case 1:
		return len(b) == 148
	case 2:
		return len(b) == 92
	case 3:
		return len(b) == 64
	case 4:
		return len(b)%16 == 0
	}
	return false
}

// clean fails the test if the marker or anything that is not allowed was seen.
func (u *underlay) clean(t *testing.T, phase string) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if hits := u.Hits(); len(hits) > 0 {
		t.Errorf("%s: the marker was seen %d times, first %v", phase, len(hits), hits[0])
	}
	if len(u.others) > 0 {
		var list []string
		for f, n := range u.others {
			list = append(list, fmt.Sprintf("%d × %s", n, f))
		}
		slices.Sort(list)
		t.Errorf("%s: flows that nobody allowed:\n%s", phase, strings.Join(list, "\n"))
	}
	clear(u.others)
	if u.Frames() == 0 {
		t.Errorf("%s: the capture saw nothing at all", phase)
	}
}
