package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/spec/plan"
)

// Steps of a check of what is published.
const (
	StepDNS     = "dns"     // its records lead to the gateways
	StepGateway = "gateway" // their nodes serve it
	StepBackend = "backend" // something behind it is healthy
	StepTLS     = "tls"     // port 443 answers, with a certificate for it
)

// HostCheck is what was found out about one host, or port, that is published.
type HostCheck struct {
	Name  string `json:"name"` // the host, or the port with its protocol
	OK    bool   `json:"ok"`
	Steps []Step `json:"steps"`
}

// Records is what the public learns of a host: addresses, and the name that it is
// an alias of.
type Records struct {
	Addresses []netip.Addr
	Alias     string // without its last dot; "" if the host is none
	Err       error  // nobody could say; a name that does not exist is no error
}

// LookUp asks DNS as this machine's programs do.
func LookUp(ctx context.Context, r *net.Resolver, host string) Records {
	var out Records
	addresses, err := r.LookupNetIP(ctx, "ip", host+".")
	if no := (*net.DNSError)(nil); err != nil && (!errors.As(err, &no) || !no.IsNotFound) {
		return Records{Err: err}
	}
	for _, a := range addresses {
		out.Addresses = append(out.Addresses, a.Unmap())
	}
	if alias, err := r.LookupCNAME(ctx, host+"."); err == nil {
		if alias = strings.ToLower(strings.TrimSuffix(alias, ".")); alias != host {
			out.Alias = alias
		}
	}
	return out
}

// CheckRecords compares a host's records with the addresses of the gateways that
// publish it. Every record must lead to one: a client takes any of them.
func CheckRecords(host string, got Records, want []netip.Addr) Step {
	s := Step{Name: StepDNS}
	slices.SortFunc(want, netip.Addr.Compare)
	want = slices.Compact(want)
	var right, wrong, unused []string
	for _, a := range got.Addresses {
		if slices.Contains(want, a) {
			right = append(right, a.String())
		} else {
			wrong = append(wrong, a.String())
		}
	}
	for _, a := range want {
		if !slices.Contains(got.Addresses, a) {
			unused = append(unused, a.String())
		}
	}
	slices.Sort(right)
	slices.Sort(wrong)
	through := host
	if got.Alias != "" {
		through = fmt.Sprintf("%s, an alias of %s,", host, got.Alias)
	}
	should := strings.Join(recordsFor(addressed(host, got.Alias), want), "; ")
	switch {
	case got.Err != nil:
		s.Detail, s.Fix = fmt.Sprintf("nobody says where %s leads: %s", host, got.Err), "look at this machine's resolver, and try again"
	case len(got.Addresses) == 0:
		s.Detail, s.Fix = through+" has no address", "add where the domain's records are: "+should
	case len(wrong) > 0:
		s.Detail = fmt.Sprintf("%s points to %s, which is no gateway of it", through, strings.Join(wrong, " and "))
		if len(right) > 0 {
			s.Detail += fmt.Sprintf("; and to %s, which is right", strings.Join(right, " and "))
		}
		s.Fix = "it should point to " + texts(want) + ": " + should
	default:
		s.OK, s.Detail = true, fmt.Sprintf("%s points to %s", through, strings.Join(right, " and "))
		if len(unused) > 0 {
			s.Detail += fmt.Sprintf("; not to %s, so that one gateway less can take over", strings.Join(unused, " and "))
		}
	}
	return s
}

// addressed is the name whose addresses count: the host's, or that of its alias.
func addressed(host, alias string) string {
	if alias != "" {
		return alias
	}
	return host
}

// recordsFor are lines of a zone that lead to addresses.
func recordsFor(host string, want []netip.Addr) []string {
	out := make([]string, len(want))
	for i, a := range want {
		kind := "A"
		if a.Is6() {
			kind = "AAAA"
		}
		out[i] = fmt.Sprintf("%s. %s %s", host, kind, a)
	}
	return out
}

func texts(list []netip.Addr) string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = a.String()
	}
	return strings.Join(out, " and ")
}

// CheckServing judges a route by the word of the gateways' nodes: it is well if one
// of them serves it with a healthy backend.
func CheckServing(r plan.Route, gateways []Published, names Names) []Step {
	serve, back := Step{Name: StepGateway}, Step{Name: StepBackend}
	var serving, not, healthy, sick []string
	counted := false
	for _, g := range gateways {
		node := names.Of(g.Workload.Slot)
		live, ok := g.Route(r)
		switch {
		case g.Err != nil:
			not = append(not, node+" does not answer: "+because(g.Err))
		case g.Live == nil:
			not = append(not, node+" does not have it yet")
		case !g.Live.Process.OK:
			not = append(not, fmt.Sprintf("%s: the gateway process: %s", node, orElse(g.Live.Process.Detail, "does not run")))
		case !g.Live.Public.OK:
			not = append(not, fmt.Sprintf("%s: the public card: %s", node, orElse(g.Live.Public.Detail, "is not there")))
		case !ok:
			not = append(not, node+" does not have it yet")
		case !live.Serving:
			not = append(not, node+": "+orElse(live.Message, orElse(live.Code, "does not serve it")))
		default:
			serving = append(serving, node)
		}
		for _, b := range live.Backends {
			counted = true
			switch b.State {
			case protocol.BackendHealthy:
				healthy = append(healthy, b.Name)
			case protocol.BackendUnhealthy:
				sick = append(sick, b.Name+": "+orElse(b.Message, "unhealthy"))
			default:
				sick = append(sick, b.Name+" was not checked yet")
			}
		}
	}
	slices.Sort(healthy)
	slices.Sort(sick)
	healthy, sick = slices.Compact(healthy), slices.Compact(sick)
	if serve.OK = len(serving) > 0; serve.OK {
		serve.Detail = "served by " + strings.Join(serving, " and ")
		if len(not) > 0 {
			serve.Detail += "; not by " + strings.Join(not, "; ")
		}
	} else {
		serve.Detail, serve.Fix = strings.Join(not, "; "), "look at: zos gateway show, and zos node ls"
	}
	switch {
	case !r.Entry.IsZero():
		back.OK, back.Detail = true, "devices enter by "+names.Of(r.Entry)
	case len(healthy) > 0:
		back.OK, back.Detail = true, strings.Join(healthy, " and ")+" healthy"
		if len(sick) > 0 {
			back.Detail += "; " + strings.Join(sick, "; ")
		}
	case !counted:
		back.Detail, back.Fix = "no gateway says how they do", "look at: zos gateway show"
	default:
		back.Detail, back.Fix = strings.Join(sick, "; "), fmt.Sprintf("look at the programs: zos logs, and what listens on %d/%s", r.Target, protocolOf(r))
	}
	return []Step{serve, back}
}

func protocolOf(r plan.Route) string {
	if r.Mode == plan.ModeUDP {
		return plan.ProtocolUDP
	}
	return plan.ProtocolTCP
}

// tlsTime is what one handshake may take.
const tlsTime = 5 * time.Second

// CheckTLS connects to a host's port 443 at each address as a browser would, and
// says which certificate answers. roots are those that it must lead to; nil: the
// machine's.
func CheckTLS(ctx context.Context, host string, at []netip.AddrPort, roots *x509.CertPool, now time.Time) Step {
	s := Step{Name: StepTLS, OK: true}
	var said, wrong []string
	for _, a := range at {
		detail, err := shake(ctx, host, a, roots, now)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", a, err))
			continue
		}
		if !slices.Contains(said, detail) {
			said = append(said, detail)
		}
	}
	if s.Detail = strings.Join(slices.Concat(wrong, said), "; "); len(wrong) > 0 {
		s.OK, s.Fix = false, "whoever holds the key renews the certificate: the workload with passthrough, else the gateway: zos gateway show"
	}
	return s
}

func shake(ctx context.Context, host string, at netip.AddrPort, roots *x509.CertPool, now time.Time) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tlsTime)
	defer cancel()
	// What is wrong with the certificate is to be told, so it is checked afterwards.
	d := tls.Dialer{Config: &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}}
	c, err := d.DialContext(ctx, "tcp", at.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	chain := c.(*tls.Conn).ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return "", errors.New("answers without a certificate")
	}
	leaf := chain[0]
	whose := fmt.Sprintf("certificate of %s by %s until %s", strings.Join(leaf.DNSNames, ", "), orElse(leaf.Issuer.CommonName, leaf.Issuer.String()), leaf.NotAfter.UTC().Format(time.DateOnly))
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between, CurrentTime: now}); err != nil {
		return "", fmt.Errorf("%s: %w", whose, err)
	}
	return whose, nil
}
