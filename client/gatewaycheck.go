package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/domain"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// Steps of a check of what is published.
const (
	StepDNS     = "dns"     // its records lead to the gateways
	StepProof   = "proof"   // its domain is the group's
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

// CheckRecords judges what DNS says of a host: every record must lead to a gateway
// that publishes it, since a client takes any of them.
func CheckRecords(r domain.Report) Step {
	if len(r.Problems) > 0 {
		return Step{Name: StepDNS, Detail: strings.Join(append(slices.Clone(r.Problems), r.Notes...), "; "),
			Fix: "where the domain's records are, " + orElse(strings.Join(recordsFor(r), "; "), "have the host point to a gateway")}
	}
	return Step{Name: StepDNS, OK: true, Detail: strings.Join(append([]string{r.Host + " points to " + addressed(r.Addrs)}, r.Notes...), "; ")}
}

// recordsFor are the lines of a zone that a host should have: at its own name, or
// at that of the alias where the chain ends.
func recordsFor(r domain.Report) []string {
	host := r.Host
	if len(r.Aliases) > 0 {
		host = r.Aliases[len(r.Aliases)-1]
	}
	var out []string
	for _, a := range r.Want {
		kind := "A"
		if a.Is6() {
			kind = "AAAA"
		}
		out = append(out, fmt.Sprintf("%s. %s %s", host, kind, a))
	}
	return out
}

func addressed(list []netip.Addr) string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = a.String()
	}
	return strings.Join(out, " and ")
}

// CheckProof judges the proofs of an own domain that DNS has at a host and above
// it: one must be signed by a quorum of the group that publishes it.
func CheckProof(r domain.Report, s domain.Statement, g contract.Group, keys map[canon.Hash]sign.PublicKey) Step {
	fix := fmt.Sprintf("have members sign it: zos domain prove %s --group %s", r.Host, g.Name)
	best := error(nil)
	for _, f := range r.Proofs {
		s.Domain = f.Domain
		err := domain.Verify(s, g, keys, []string{f.Text})
		if err == nil {
			return Step{Name: StepProof, OK: true, Detail: fmt.Sprintf("%s is proven to be group %s's, by %s", r.Host, g.Name, domain.RecordName(f.Domain))}
		}
		best = err
	}
	if best != nil {
		return Step{Name: StepProof, Detail: best.Error(), Fix: fix}
	}
	return Step{Name: StepProof, Detail: fmt.Sprintf("no TXT record at %s or above says that it is group %s's", domain.RecordName(r.Host), g.Name), Fix: fix}
}

// CheckServing judges a route by the word of the gateways' nodes: it is well if one
// of them serves it with a healthy backend.
func CheckServing(r plan.Route, gateways []Published, names Names) []Step {
	serve, back := Step{Name: StepGateway}, Step{Name: StepBackend}
	var serving, not, healthy, sick []string
	counted, unset := false, false
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
		case live.Certificate != nil && (live.Certificate.State == protocol.CertificatePending || live.Certificate.State == protocol.CertificateExpired):
			not = append(not, node+" has no certificate: "+orElse(CertificateTrouble(*live.Certificate, r.Host), "its authority was not asked yet"))
			unset = unset || live.Certificate.Code == "acme-unset"
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
		if unset {
			serve.Fix = "let the farm name an authority, zos farm pool set --acme, or let TLS end at the workload: tls: passthrough"
		}
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

// CertificateTrouble is why a host's certificate is not got or renewed, without the
// host; empty if nothing is known.
func CertificateTrouble(c protocol.GatewayCertificate, host string) string {
	return strings.TrimPrefix(orElse(c.Message, c.Code), "certify "+host+": ")
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
