package dns

import "net/netip"

// Zone is everything that the server knows. It is not changed after Serve got it.
type Zone struct {
	Domain string // lower case, without a dot at its end
	Serial uint32 // grows with every change
	// NS are the zone's name servers, by names under Domain or elsewhere. Those
	// under Domain have their addresses here and need none in Names.
	NS []NameServer
	// Names are names under Domain, without it, and their gateways' addresses; the
	// key "" is the domain itself.
	Names map[string][]netip.Addr
	// TXT are text records by full name, lower case, under Domain. A record is at
	// most 255 bytes.
	TXT map[string][]string
	// CAA are the authorities that may certify names of the zone, as in "issue"
	// properties; empty: any.
	CAA []string
}

// NameServer is one name server of a zone.
type NameServer struct {
	Name  string // full name, lower case, without a dot at its end
	Addrs []netip.Addr
}
