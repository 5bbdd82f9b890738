package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/domain"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestAWrongRecordIsNamedWithWhatItShouldBe(t *testing.T) {
	const host = "www.shop.example"
	right := CheckRecords(domain.Report{Host: host, Addrs: addrs("198.51.100.10"), Want: addrs("198.51.100.10"), Notes: []string{"a note"}})
	if !right.OK || right.Fix != "" || right.Detail != "www.shop.example points to 198.51.100.10; a note" {
		t.Errorf("%+v", right)
	}
	wrong := CheckRecords(domain.Report{Host: host, Addrs: addrs("203.0.113.9"), Want: addrs("198.51.100.10", "2001:db8::10"), Aliases: []string{"lb.old.example"}, Problems: []string{"it points elsewhere"}})
	if wrong.OK || wrong.Detail != "it points elsewhere" || !strings.Contains(wrong.Fix, "lb.old.example. A 198.51.100.10; lb.old.example. AAAA 2001:db8::10") {
		t.Errorf("%+v", wrong)
	}
}

func TestAnOwnDomainIsProvenByItsGroupAlone(t *testing.T) {
	_, key, err := sign.Generate()
	must(t, key, err)
	g := contract.Group{Header: contract.Header{V: contract.Version, Kind: contract.KindGroup, Grid: canon.Hash{0: 5}}, Name: "demo", Founder: red,
		Members: []contract.Member{{Account: red, Weight: 1}}, Threshold: 1, Nonce: make([]byte, contract.NonceSize)}
	keys := map[canon.Hash]sign.PublicKey{red: key.Public()}
	s := domain.Statement{Grid: canon.Hash{0: 5}, Group: canon.Hash{0: 9}, Domain: "shop.example"}
	signature, err := domain.Sign(context.Background(), s, key)
	must(t, signature, err)
	text, err := domain.Make(domain.Proof{Group: s.Group, Signatures: [][]byte{signature}})
	must(t, text, err)
	r := domain.Report{Host: "www.shop.example", Proofs: []domain.Found{{Domain: "shop.example", Text: text}}}
	if got := CheckProof(r, s, g, keys); !got.OK || !strings.Contains(got.Detail, "_zos.shop.example") {
		t.Errorf("%+v", got)
	}
	other := s
	other.Group = canon.Hash{0: 8}
	for name, c := range map[string]struct {
		r domain.Report
		s domain.Statement
	}{
		"no record": {domain.Report{Host: r.Host}, s}, "another group's": {r, other},
		"another domain's": {domain.Report{Host: r.Host, Proofs: []domain.Found{{Domain: "www.shop.example", Text: text}}}, s},
	} {
		if got := CheckProof(c.r, c.s, g, keys); got.OK || !strings.Contains(got.Fix, "zos domain prove www.shop.example --group demo") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestARouteIsServedIfOneGatewayServesItWithAHealthyBackend(t *testing.T) {
	r := plan.Route{Host: "www.shop.example", Mode: plan.ModePassthrough, Port: 443, Network: "front", Backends: []string{"web-1", "web-2"}, Target: 8443, Check: plan.CheckTCP}
	names := Names{slotA: "node-1", slotB: "node-2"}
	gateway := func(slot canon.Hash, change func(*protocol.Gateway)) Published {
		live := protocol.Gateway{Name: "www", Process: protocol.Check{OK: true}, Public: protocol.Check{OK: true}, Routes: []protocol.GatewayRoute{{Name: r.Host, Mode: r.Mode, Serving: true,
			Backends: []protocol.GatewayBackend{{Name: "web-1", State: protocol.BackendHealthy}, {Name: "web-2", State: protocol.BackendUnhealthy, Message: "connection refused"}}}}}
		if change != nil {
			change(&live)
		}
		return Published{Workload: plan.Workload{Name: "www", Slot: slot}, Gateway: plan.Gateway{Routes: []plan.Route{r}}, Live: &live}
	}
	silent := Published{Workload: plan.Workload{Name: "www", Slot: slotB}, Err: problem.New("node-silent", "no answer")}
	for name, c := range map[string]struct {
		gateways        []Published
		served, healthy bool
		says            string
	}{
		"well":          {[]Published{gateway(slotA, nil)}, true, true, "served by node-1; web-1 healthy; web-2: connection refused"},
		"one is silent": {[]Published{gateway(slotA, nil), silent}, true, true, "served by node-1; not by node-2 does not answer: node-silent"},
		"all silent":    {[]Published{silent}, false, false, "node-2 does not answer: node-silent"},
		"no process":    {[]Published{gateway(slotA, func(g *protocol.Gateway) { g.Process = protocol.Check{Detail: "exit status 2"} })}, false, true, "node-1: the gateway process: exit status 2"},
		"no card":       {[]Published{gateway(slotA, func(g *protocol.Gateway) { g.Public = protocol.Check{} })}, false, true, "node-1: the public card: is not there"},
		"not its name":  {[]Published{gateway(slotA, func(g *protocol.Gateway) { g.Routes[0].Serving, g.Routes[0].Message = false, "the name is kiwi's" })}, false, true, "node-1: the name is kiwi's"},
		"no certificate": {[]Published{gateway(slotA, func(g *protocol.Gateway) {
			g.Routes[0].Certificate = &protocol.GatewayCertificate{State: protocol.CertificatePending, Code: "acme-unset", Message: "certify www.shop.example: its gateway's pool names no authority"}
		})}, false, true, "node-1 has no certificate: its gateway's pool names no authority"},
		"not yet":         {[]Published{gateway(slotA, func(g *protocol.Gateway) { g.Routes = nil })}, false, false, "node-1 does not have it yet"},
		"nothing healthy": {[]Published{gateway(slotA, func(g *protocol.Gateway) { g.Routes[0].Backends = g.Routes[0].Backends[1:] })}, true, false, "web-2: connection refused"},
		"not checked":     {[]Published{gateway(slotA, func(g *protocol.Gateway) { g.Routes[0].Backends[0].State = protocol.BackendUnknown })}, true, false, "web-1 was not checked yet"},
	} {
		s := CheckServing(r, c.gateways, names)
		all := s[0].Detail + "; " + s[1].Detail
		if len(s) != 2 || s[0].OK != c.served || s[1].OK != c.healthy || !strings.Contains(all, c.says) {
			t.Errorf("%s: %+v", name, s)
		}
		for _, s := range s {
			if s.OK != (s.Fix == "") {
				t.Errorf("%s: %+v", name, s)
			}
		}
	}
}

func TestACertificateIsCheckedAsABrowserDoes(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, key, err)
	now := time.Now()
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, DNSNames: []string{"www.shop.example"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	must(t, der, err)
	parsed, err := x509.ParseCertificate(der)
	must(t, parsed, err)
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	must(t, l, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	defer func() { l.Close(); <-ended }()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, closed, err)
	closed.Close()
	at, dead := netip.MustParseAddrPort(l.Addr().String()), netip.MustParseAddrPort(closed.Addr().String())
	for name, c := range map[string]struct {
		host  string
		at    []netip.AddrPort
		roots *x509.CertPool
		now   time.Time
		ok    bool
		says  string
	}{
		"good":              {"www.shop.example", []netip.AddrPort{at}, roots, now, true, "certificate of www.shop.example by test authority until"},
		"another host":      {"shop.example", []netip.AddrPort{at}, roots, now, false, "certificate of www.shop.example by test authority"},
		"expired":           {"www.shop.example", []netip.AddrPort{at}, roots, now.Add(2 * time.Hour), false, "expired"},
		"unknown authority": {"www.shop.example", []netip.AddrPort{at}, x509.NewCertPool(), now, false, "unknown authority"},
		"one is dead":       {"www.shop.example", []netip.AddrPort{at, dead}, roots, now, false, dead.String()},
	} {
		s := CheckTLS(context.Background(), c.host, c.at, c.roots, c.now)
		if s.OK != c.ok || !strings.Contains(s.Detail, c.says) || s.OK != (s.Fix == "") {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
