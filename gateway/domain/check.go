package domain

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// Report is what a host's records say.
type Report struct {
	Host     string
	Aliases  []string     // CNAMEs from Host on
	Addrs    []netip.Addr // where it leads, sorted
	Want     []netip.Addr // where it should lead, sorted
	CAA      []string     // authorities that may certify it; empty: any
	CAAOf    string       // the name whose records those are
	Proofs   []Found      // texts at RecordName of Host and the domains above it
	Problems []string     // what keeps clients or authorities away; none: all is well
	Notes    []string     // what could be better
}

// Found is a proof that was found, not checked.
type Found struct {
	Domain, Text string
}

// MayCertify tells whether the records let an authority, by the name that it uses in
// CAA records, certify the host.
func (r Report) MayCertify(authority string) bool {
	return len(r.CAA) == 0 || slices.Contains(r.CAA, strings.ToLower(authority))
}

// Check looks a host up and compares with the addresses of its gateways. What is
// wrong is in the Report, in words for people; an error says that host is no name.
func Check(ctx context.Context, resolver Resolver, host string, want []netip.Addr) (Report, error) {
	if !plan.ValidHost(host) {
		return Report{}, problem.New("name-invalid", "%.200q is no host name in lower case", host)
	}
	r := Report{Host: host, Want: slices.Clone(want)}
	slices.SortFunc(r.Want, netip.Addr.Compare)
	r.Want = slices.Compact(r.Want)
	absent, failed := false, false
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		a, err := resolver.Lookup(ctx, host, kind)
		if err != nil {
			r.problem("the records of %s can't be looked up: %s", host, plainText(err.Error()))
			failed = true
			break
		}
		absent = absent || a.Absent
		aliases, addrs := follow(host, a.Records)
		if len(aliases) > len(r.Aliases) {
			r.Aliases = aliases
		}
		r.Addrs = append(r.Addrs, addrs...)
	}
	slices.SortFunc(r.Addrs, netip.Addr.Compare)
	r.Addrs = slices.Compact(r.Addrs)
	if !failed {
		r.compare(absent)
	}
	for name := host; strings.Contains(name, "."); _, name, _ = strings.Cut(name, ".") {
		if a, err := resolver.Lookup(ctx, RecordName(name), dns.TypeTXT); err == nil {
			for _, t := range a.texts() {
				if strings.HasPrefix(t, version+" ") {
					r.Proofs = append(r.Proofs, Found{name, t})
				}
			}
		}
	}
	// RFC 8659 §3: the closest name that has any.
	for name := host; name != "" && r.CAAOf == ""; _, name, _ = strings.Cut(name, ".") {
		a, err := resolver.Lookup(ctx, name, dns.TypeCAA)
		if errors.Is(err, errRefused) && name != host {
			// A zone's own server knows nothing of what is above it; authorities ask others.
			r.Notes = append(r.Notes, fmt.Sprintf("whether CAA records of %s keep authorities away is not known: %s", name, plainText(err.Error())))
			break
		}
		if err != nil {
			if !failed {
				r.problem("the CAA records of %s can't be looked up, so authorities refuse to certify %s: %s", name, host, plainText(err.Error()))
			}
			break
		}
		for _, rr := range a.Records {
			if c, ok := rr.(*dns.CAA); ok && c.Tag == "issue" {
				authority, _, _ := strings.Cut(c.Value, ";")
				r.CAA = append(r.CAA, strings.ToLower(plainText(strings.TrimSpace(authority))))
				r.CAAOf = name
			}
		}
	}
	return r, nil
}

// follow walks the aliases of an answer.
func follow(host string, rrs []dns.RR) (aliases []string, addrs []netip.Addr) {
	name := host
	for range len(rrs) {
		i := slices.IndexFunc(rrs, func(rr dns.RR) bool {
			c, ok := rr.(*dns.CNAME)
			return ok && strings.EqualFold(strings.TrimSuffix(c.Hdr.Name, "."), name)
		})
		if i < 0 {
			break
		}
		name = strings.ToLower(strings.TrimSuffix(rrs[i].(*dns.CNAME).Target, "."))
		if name == host || slices.Contains(aliases, name) {
			break // a circle
		}
		aliases = append(aliases, plainText(name))
	}
	for _, rr := range rrs {
		var ip []byte
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A.To4()
		case *dns.AAAA:
			ip = rr.AAAA.To16()
		default:
			continue
		}
		if a, ok := netip.AddrFromSlice(ip); ok && strings.EqualFold(strings.TrimSuffix(rr.Header().Name, "."), name) {
			addrs = append(addrs, a)
		}
	}
	return aliases, addrs
}

// compare says what is wrong with where the host leads.
func (r *Report) compare(absent bool) {
	name := r.Host
	if len(r.Aliases) > 0 {
		name += " (an alias of " + r.Aliases[len(r.Aliases)-1] + ")"
	}
	at := "its gateways are at "
	if len(r.Want) == 1 {
		at = "its gateway is at "
	}
	if len(r.Want) == 0 {
		r.problem("%s is published at no gateway", r.Host)
		return
	}
	var right, wrong, lacking []netip.Addr
	for _, a := range r.Addrs {
		if slices.Contains(r.Want, a) {
			right = append(right, a)
		} else {
			wrong = append(wrong, a)
		}
	}
	for _, a := range r.Want {
		if !slices.Contains(r.Addrs, a) {
			lacking = append(lacking, a)
		}
	}
	switch {
	case absent && len(r.Aliases) == 0 && len(r.Addrs) == 0:
		r.problem("%s does not exist; %s%s: add %s", name, at, join(r.Want), records(r.Want))
	case len(r.Addrs) == 0:
		r.problem("%s has no address; %s%s: add %s", name, at, join(r.Want), records(r.Want))
	case len(right) == 0:
		r.problem("%s points to %s, %s%s", name, join(wrong), at, join(r.Want))
	case len(wrong) > 0:
		r.problem("%s also points to %s, %s%s: remove the other", name, join(wrong), at, join(r.Want))
	}
	if len(right) > 0 && len(lacking) > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%s does not point to %s: add %s, so that clients have another way in if a gateway fails", name, join(lacking), records(lacking)))
	}
	for _, a := range wrong {
		if a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
			r.Notes = append(r.Notes, fmt.Sprintf("%s is no public address", a))
		}
	}
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// records says which ones to add.
func records(addrs []netip.Addr) string {
	parts := []string{}
	for _, a := range addrs {
		kind := "an A record "
		if a.Is6() {
			kind = "an AAAA record "
		}
		parts = append(parts, kind+a.String())
	}
	return and(parts)
}

func join(addrs []netip.Addr) string {
	parts := []string{}
	for i, a := range addrs {
		if i == 8 {
			parts = append(parts, fmt.Sprintf("%d more", len(addrs)-i))
			break
		}
		parts = append(parts, a.String())
	}
	return and(parts)
}

func and(parts []string) string {
	if len(parts) < 2 {
		return strings.Join(parts, "")
	}
	return strings.Join(parts[:len(parts)-1], ", ") + " and " + parts[len(parts)-1]
}

// plainText makes what strangers wrote fit for a terminal.
func plainText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if len(s) > 300 {
		s = s[:300] + "..."
	}
	return s
}
