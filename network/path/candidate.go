package path

import (
	"fmt"
	"net/netip"
	"slices"
)

// MaxCandidates that a node tells, and that it takes from a peer.
const MaxCandidates = 16

// Kind says how a node knows an address of its own.
type Kind uint8

const (
	// Global is an interface's address that is routed everywhere.
	Global Kind = 1 + iota
	// Private is an interface's address of a private range: good on one LAN.
	Private
	// Observed is how a relay server sees the node: outside of its router.
	Observed
	// learned is where an authentic ping of the peer came from; it is never told.
	learned
)

// rank orders kinds: the lower, the fewer routers in between.
func (k Kind) rank() int {
	switch k {
	case Private:
		return 0
	case Global:
		return 1
	default:
		return 2
	}
}

// Candidate is an address at which a node may be reachable.
type Candidate struct {
	Kind Kind
	Addr netip.AddrPort
}

// KindOf returns the kind of an interface's own address.
func KindOf(a netip.Addr) Kind {
	if a.IsPrivate() || sharedSpace.Contains(a.Unmap()) {
		return Private
	}
	return Global
}

// sharedSpace is what carriers give to their customers (RFC 6598).
var sharedSpace = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10)

// Usable tells whether pings may be sent to an address that somebody else named:
// never to this machine itself, a group, or a neighbour.
func Usable(a netip.AddrPort) bool {
	ip := a.Addr()
	return a.Port() != 0 && ip == ip.Unmap() && ip.Zone() == "" && !ip.IsLoopback() && !ip.IsMulticast() &&
		!ip.IsUnspecified() && !ip.IsLinkLocalUnicast() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// Normal returns at most MaxCandidates of cs, usable, sorted, each address once.
func Normal(cs []Candidate) []Candidate {
	out := make([]Candidate, 0, len(cs))
	for _, c := range cs {
		if Usable(c.Addr) && !slices.ContainsFunc(out, func(o Candidate) bool { return o.Addr == c.Addr }) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Candidate) int {
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return a.Addr.Compare(b.Addr)
	})
	// Of a host with very many addresses the last of each kind go first, and
	// never all of a kind.
	for len(out) > MaxCandidates {
		count := map[Kind]int{}
		most := Kind(0)
		for _, c := range out {
			if count[c.Kind]++; count[c.Kind] > count[most] {
				most = c.Kind
			}
		}
		for i := len(out) - 1; ; i-- {
			if out[i].Kind == most {
				out = slices.Delete(out, i, i+1)
				break
			}
		}
	}
	return out
}

// Tell is what a node tells a peer about itself: through the relay, and in the
// exchange of keys.
type Tell struct {
	// Number rises with every Tell of a node, so that a late one changes nothing.
	Number uint64
	// Relay: the sender has no direct path to the receiver any more, because it
	// moved or heard nothing; let the receiver use none either.
	Relay bool
	// Punch: the sender is about to ping the receiver's addresses; let the
	// receiver do the same now.
	Punch      bool
	Candidates []Candidate // at most MaxCandidates, as Normal returns them
}

const (
	flagRelay = 1 << iota
	flagPunch

	candidateSize = 1 + 16 + 2
	tellSize      = 8 + 1 + 1
)

// Encode returns the bytes of t: 10 and 19 for each candidate.
func (t Tell) Encode() []byte {
	b := make([]byte, 0, tellSize+len(t.Candidates)*candidateSize)
	b = append64(b, t.Number)
	var flags byte
	if t.Relay {
		flags |= flagRelay
	}
	if t.Punch {
		flags |= flagPunch
	}
	b = append(b, flags, byte(len(t.Candidates)))
	for _, c := range t.Candidates {
		ip := c.Addr.Addr().As16()
		b = append(append(b, byte(c.Kind)), ip[:]...)
		b = append(b, byte(c.Addr.Port()>>8), byte(c.Addr.Port()))
	}
	return b
}

// DecodeTell reads what Encode gave, and nothing else.
func DecodeTell(b []byte) (Tell, error) {
	if len(b) < tellSize || b[8] > flagRelay|flagPunch || b[9] > MaxCandidates || len(b) != tellSize+int(b[9])*candidateSize {
		return Tell{}, fmt.Errorf("read path message: %d bytes are not one", len(b))
	}
	t := Tell{Number: read64(b), Relay: b[8]&flagRelay != 0, Punch: b[8]&flagPunch != 0}
	for b = b[tellSize:]; len(b) > 0; b = b[candidateSize:] {
		c := Candidate{
			Kind: Kind(b[0]),
			Addr: netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[1:17])).Unmap(), uint16(b[17])<<8|uint16(b[18])),
		}
		if c.Kind < Global || c.Kind > Observed || !Usable(c.Addr) {
			return Tell{}, fmt.Errorf("read path message: %v is no address of a node", c.Addr)
		}
		t.Candidates = append(t.Candidates, c)
	}
	if !slices.Equal(t.Candidates, Normal(t.Candidates)) {
		return Tell{}, fmt.Errorf("read path message: addresses are not sorted, or twice")
	}
	return t, nil
}
