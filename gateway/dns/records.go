package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/zero-os/zos/problem"
)

// Lifetimes of records, in seconds: short ones, as addresses move when gateways do.
const (
	ttlAddress  = 60
	ttlText     = 5 // challenges come and go
	ttlServer   = 3600
	ttlNegative = 10 // a name may be reserved the next moment
)

// Limits of a Zone.
const (
	MaxNames   = 1 << 20 // and of text records
	MaxAddrs   = 16      // of a name
	MaxTexts   = 16      // of a name
	MaxText    = 255     // bytes
	MaxServers = 8
)

// records are a Zone as it is answered from. It is never changed.
type records struct {
	origin string // "grid.example."
	soa    dns.RR
	byName map[string]map[uint16][]dns.RR
	exists map[string]bool // names with records at or below them
}

func compile(z Zone) (*records, error) {
	bad := func(format string, args ...any) error {
		return problem.New("zone-data-invalid", "zone of %.200q: "+format, append([]any{z.Domain}, args...)...)
	}
	if !validName(z.Domain) {
		return nil, bad("that is no domain in lower case")
	}
	if len(z.NS) == 0 || len(z.NS) > MaxServers || len(z.Names) > MaxNames || len(z.TXT) > MaxNames {
		return nil, bad("%d name servers, %d names, %d text records", len(z.NS), len(z.Names), len(z.TXT))
	}
	r := &records{origin: z.Domain + ".", byName: map[string]map[uint16][]dns.RR{}, exists: map[string]bool{}}
	for _, s := range z.NS {
		if !validName(s.Name) {
			return nil, bad("name server %.200q", s.Name)
		}
		r.add(r.origin, &dns.NS{Hdr: head(r.origin, dns.TypeNS, ttlServer), Ns: s.Name + "."})
		if r.covers(s.Name + ".") {
			if err := r.addAddrs(s.Name+".", s.Addrs, ttlServer); err != nil {
				return nil, bad("name server %s: %w", s.Name, err)
			}
		}
	}
	r.soa = &dns.SOA{
		Hdr: head(r.origin, dns.TypeSOA, ttlNegative), Ns: z.NS[0].Name + ".", Mbox: "hostmaster." + r.origin, Serial: z.Serial,
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttlNegative,
	}
	r.add(r.origin, r.soa)
	for below, addrs := range z.Names {
		name := r.origin
		if below != "" {
			if !validName(below) || !validName(below+"."+z.Domain) {
				return nil, bad("name %.80q", below)
			}
			name = below + "." + r.origin
		}
		if err := r.addAddrs(name, addrs, ttlAddress); err != nil {
			return nil, bad("%s: %w", name, err)
		}
		r.exist(name)
	}
	for name, texts := range z.TXT {
		if !validName(name) || !r.covers(name+".") || len(texts) > MaxTexts {
			return nil, bad("text record %.200q", name)
		}
		for _, t := range texts {
			if len(t) > MaxText {
				return nil, bad("text record %s of %d bytes", name, len(t))
			}
			r.add(name+".", &dns.TXT{Hdr: head(name+".", dns.TypeTXT, ttlText), Txt: []string{escape(t)}})
		}
	}
	for _, ca := range z.CAA {
		if len(ca) > MaxText {
			return nil, bad("authority %.80q", ca)
		}
		r.add(r.origin, &dns.CAA{Hdr: head(r.origin, dns.TypeCAA, ttlServer), Tag: "issue", Value: escape(ca)})
	}
	return r, nil
}

func head(name string, kind uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// escape keeps a text as it is: package dns reads backslashes as escapes.
func escape(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

func (r *records) add(name string, rr dns.RR) {
	if r.byName[name] == nil {
		r.byName[name] = map[uint16][]dns.RR{}
	}
	kind := rr.Header().Rrtype
	r.byName[name][kind] = append(r.byName[name][kind], rr)
	r.exist(name)
}

func (r *records) addAddrs(name string, addrs []netip.Addr, ttl uint32) error {
	if len(addrs) > MaxAddrs {
		return problem.New("zone-data-invalid", "%d addresses, at most %d are allowed", len(addrs), MaxAddrs)
	}
	for _, a := range addrs {
		switch {
		case !a.IsValid() || a.Is4In6() || a.Zone() != "":
			return problem.New("zone-data-invalid", "address %s", a)
		case a.Is4():
			r.add(name, &dns.A{Hdr: head(name, dns.TypeA, ttl), A: a.AsSlice()})
		default:
			r.add(name, &dns.AAAA{Hdr: head(name, dns.TypeAAAA, ttl), AAAA: a.AsSlice()})
		}
	}
	return nil
}

// exist marks name, and the names between it and the domain, which have no records
// but are not absent either (RFC 8020).
func (r *records) exist(name string) {
	for r.covers(name) && !r.exists[name] {
		r.exists[name] = true
		_, name, _ = strings.Cut(name, ".")
	}
}

// covers tells whether name, in any case, is the domain or under it.
func (r *records) covers(name string) bool {
	if len(name) < len(r.origin) || !strings.EqualFold(name[len(name)-len(r.origin):], r.origin) {
		return false
	}
	return len(name) == len(r.origin) || name[len(name)-len(r.origin)-1] == '.'
}

// answer fills r with what there is of kind at name, which is in lower case and
// covered.
func (r *records) answer(m *dns.Msg, name string, kind uint16) {
	m.Authoritative = true
	asked := m.Question[0].Name // in the case of the question: it may be checked
	sets := r.byName[name]
	if kind == dns.TypeANY && len(sets) > 0 {
		// RFC 8482: an answer that says nothing, and amplifies nothing.
		m.Answer = append(m.Answer, &dns.HINFO{Hdr: head(asked, dns.TypeHINFO, ttlServer), Cpu: "RFC8482"})
		return
	}
	for _, rr := range sets[kind] {
		rr = dns.Copy(rr)
		rr.Header().Name = asked
		m.Answer = append(m.Answer, rr)
	}
	if kind == dns.TypeNS && name == r.origin {
		for _, ns := range sets[dns.TypeNS] {
			if glue := ns.(*dns.NS).Ns; r.covers(glue) {
				m.Extra = append(m.Extra, r.byName[glue][dns.TypeA]...)
				m.Extra = append(m.Extra, r.byName[glue][dns.TypeAAAA]...)
			}
		}
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{r.soa}
		if !r.exists[name] {
			m.Rcode = dns.RcodeNameError
		}
	}
}

// validName tells whether s is labels of letters, digits, hyphens and underscores
// in lower case, without a dot at its end.
func validName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for _, l := range strings.Split(s, ".") {
		if l == "" || len(l) > 63 {
			return false
		}
		for _, c := range []byte(l) {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}
