package resolver

import (
	"math/rand/v2"
	"net/netip"

	"github.com/miekg/dns"

	"github.com/zero-os/zos/spec/plan"
)

// verdict is what becomes of a question.
type verdict int

const (
	silence verdict = iota // no answer at all
	answered
	forward // to the upstream
)

// maxUDP is the largest answer by UDP, whatever the asker offers: it fits the
// network's MTU, so no answer needs fragments.
const maxUDP = 1232

// judge decides what becomes of a packet from client, and answers it if the zone
// can. egress is what the client was granted. It is pure but for the order in
// which several addresses come.
func (z *Zone) judge(egress string, packet []byte) (verdict, *dns.Msg, *dns.Msg) {
	query := new(dns.Msg)
	if len(packet) < 12 || packet[2]&0x80 != 0 {
		return silence, nil, nil // no header, or itself an answer
	}
	if err := query.Unpack(packet); err != nil {
		broken := new(dns.Msg)
		broken.Id = uint16(packet[0])<<8 | uint16(packet[1])
		broken.Response, broken.Rcode = true, dns.RcodeFormatError
		return answered, nil, broken
	}
	reply := new(dns.Msg)
	reply.SetReply(query) // copies the first question only, with its letters' case
	reply.RecursionAvailable = egress != plan.EgressNone
	switch {
	case query.Opcode != dns.OpcodeQuery:
		reply.Rcode = dns.RcodeNotImplemented
	case len(query.Question) != 1 || len(query.Answer) > 0:
		reply.Rcode = dns.RcodeFormatError
	case query.Question[0].Qclass != dns.ClassINET, transfer(query.Question[0].Qtype):
		reply.Rcode = dns.RcodeRefused
	default:
		if opt := query.IsEdns0(); opt != nil && opt.Version() != 0 {
			reply.SetEdns0(maxUDP, false)
			reply.Rcode = dns.RcodeBadVers
			return answered, query, reply
		}
		if z.fill(reply, query.Question[0]) {
			break
		}
		if egress != plan.EgressNone && query.RecursionDesired && public(query.Question[0]) {
			return forward, query, reply
		}
		reply.Rcode = dns.RcodeRefused
	}
	finish(query, reply)
	return answered, query, reply
}

// finish gives the reply an OPT record where the query had one.
func finish(query, reply *dns.Msg) {
	if query.IsEdns0() != nil && reply.IsEdns0() == nil {
		reply.SetEdns0(maxUDP, false)
	}
}

// transfer tells the types that are no questions about one name.
func transfer(t uint16) bool {
	switch t {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB, dns.TypeTSIG, dns.TypeTKEY:
		return true
	}
	return false
}

// fill answers a question that belongs to the zone, and tells whether it does.
func (z *Zone) fill(reply *dns.Msg, q dns.Question) bool {
	name := dns.CanonicalName(q.Name)
	if z.origin != "" && within(name, z.origin) {
		reply.Authoritative = true
		addrs, ok := z.names[name]
		if !ok && name != z.origin {
			reply.Rcode = dns.RcodeNameError
		}
		for _, i := range rand.Perm(len(addrs)) {
			if rr := address(q, addrs[i]); rr != nil {
				reply.Answer = append(reply.Answer, rr)
			}
		}
		if name == z.origin && (q.Qtype == dns.TypeSOA || q.Qtype == dns.TypeANY) {
			reply.Answer = append(reply.Answer, soa(z.origin))
		}
		if len(reply.Answer) == 0 {
			reply.Ns = append(reply.Ns, soa(z.origin))
		}
		return true
	}
	a, ok := addrOf(name)
	if !ok {
		return false
	}
	for _, p := range z.prefixes {
		if !p.Contains(a) {
			continue
		}
		reply.Authoritative = true
		target, known := z.reverse[a]
		if !known {
			reply.Rcode = dns.RcodeNameError
		}
		if known && (q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY) {
			reply.Answer = append(reply.Answer, &dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: target})
		} else {
			reply.Ns = append(reply.Ns, soa(reverseZone(p)))
		}
		return true
	}
	return false
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: TTL}
}

// address is the record of an address that the question asks for, or nil.
func address(q dns.Question, a netip.Addr) dns.RR {
	switch {
	case a.Is4() && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY):
		return &dns.A{Hdr: header(q.Name, dns.TypeA), A: a.AsSlice()}
	case a.Is6() && (q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY):
		return &dns.AAAA{Hdr: header(q.Name, dns.TypeAAAA), AAAA: a.AsSlice()}
	}
	return nil
}

// soa is the record by which an asker knows how long a name may be missing.
func soa(zone string) dns.RR {
	return &dns.SOA{Hdr: header(zone, dns.TypeSOA), Ns: "resolver.internal.", Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: TTL}
}

// public tells whether a question may leave the network: it says nothing about
// private names or addresses (RFC 6303, RFC 9476 and ICANN's reservation of
// .internal).
func public(q dns.Question) bool {
	name := dns.CanonicalName(q.Name)
	if dns.CountLabel(name) < 2 && name != "." {
		return false // the bare name of a workload, or a top level that nobody needs
	}
	for _, zone := range []string{"internal.", "local.", "localhost.", "invalid.", "test.", "onion.", "alt.", "home.arpa.", "resolver.arpa."} {
		if within(name, zone) {
			return false
		}
	}
	if within(name, "in-addr.arpa.") || within(name, "ip6.arpa.") {
		a, ok := addrOf(name)
		return ok && a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a)
	}
	return true
}

// shared is the address space of carriers (RFC 6598), private to each.
var shared = netip.MustParsePrefix("100.64.0.0/10")
