package protocol

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func gatewayStatus() GatewayStatus {
	return GatewayStatus{Slot: canon.Sum([]byte("slot")), Gateways: []Gateway{{
		Name: "www", Version: 3, Addresses: []string{"198.51.100.9"}, Process: Check{OK: true}, Public: Check{Detail: "no card"},
		Routes: []GatewayRoute{{
			Name: "shop.example", Mode: "terminate", Port: 443, Network: "front", Target: 8080, Serving: true, Code: "c", Message: "m",
			Backends:    []GatewayBackend{{Name: "web", Address: "10.1.1.2:8080", State: BackendHealthy, Since: &Age{3}, Open: 2}},
			Certificate: &GatewayCertificate{State: CertificateValid, Issuer: "CA", Serial: "0a", NotAfter: 9, Failing: &Age{1}},
			Counters:    GatewayCounters{Connections: 1, Sent: 2},
		}, {Name: "5432/tcp", Mode: "tcp", Backends: []GatewayBackend{}}},
	}}}
}

func TestGatewayStatusTravelsWhole(t *testing.T) {
	b, err := canon.Marshal(gatewayStatus())
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeGatewayStatus(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := canon.Marshal(got)
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("%v\n%s", err, cmp.Diff(got, gatewayStatus()))
	}
}

func hugeGatewayStatus() GatewayStatus {
	long := strings.Repeat("é\xff", MaxText)
	s := gatewayStatus()
	g := &s.Gateways[0]
	g.Name, g.Process.Detail, g.Public.Detail = long, long, long
	for range MaxGatewayRoutes {
		r := g.Routes[0]
		r.Name, r.Message, r.Certificate = long, long, &GatewayCertificate{Issuer: long, Message: long}
		r.Backends = nil
		for range MaxGatewayBackends + 1 {
			r.Backends = append(r.Backends, GatewayBackend{Name: long, Message: long})
		}
		g.Routes = append(g.Routes, r)
	}
	for i := range MaxAddresses + 1 {
		g.Addresses = append(g.Addresses, fmt.Sprint(long, i))
	}
	for range MaxGateways {
		s.Gateways = append(s.Gateways, *g)
	}
	return s
}

// What a node sends is cut to what a client accepts, and not more.
func TestBoundedGatewayStatusIsAccepted(t *testing.T) {
	if d := cmp.Diff(gatewayStatus().Bounded(), gatewayStatus()); d != "" {
		t.Errorf("changed although it is small: %s", d)
	}
	s := hugeGatewayStatus()
	if s.check() == nil {
		t.Fatal("the limits limit nothing")
	}
	got := s.Bounded()
	if err := got.check(); err != nil {
		t.Error(err)
	}
	if s.Gateways[0].Routes[2].Certificate.Issuer == got.Gateways[0].Routes[2].Certificate.Issuer {
		t.Error("what was given in was changed")
	}
	b, err := canon.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeGatewayStatus(b); err != nil {
		t.Error(err)
	}
}

func TestALyingGatewayIsRefused(t *testing.T) {
	for what, change := range map[string]func(*GatewayStatus){
		"too many gateways":  func(s *GatewayStatus) { s.Gateways = make([]Gateway, MaxGateways+1) },
		"too many routes":    func(s *GatewayStatus) { s.Gateways[0].Routes = make([]GatewayRoute, MaxGatewayRoutes+1) },
		"too many addresses": func(s *GatewayStatus) { s.Gateways[0].Addresses = make([]string, MaxAddresses+1) },
		"too many backends": func(s *GatewayStatus) {
			s.Gateways[0].Routes[0].Backends = make([]GatewayBackend, MaxGatewayBackends+1)
		},
		"a long text": func(s *GatewayStatus) { s.Gateways[0].Routes[0].Certificate.Issuer = strings.Repeat("x", MaxText+1) },
	} {
		s := gatewayStatus()
		change(&s)
		b, err := canon.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeGatewayStatus(b); problem.Code(err) != "reply-invalid" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := DecodeGatewayStatus([]byte{0xa1}); problem.Code(err) != "reply-invalid" {
		t.Errorf("junk: %v", err)
	}
}

func FuzzDecodeGatewayStatus(f *testing.F) {
	b, err := canon.Marshal(gatewayStatus())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeGatewayStatus(b)
		if err != nil {
			return
		}
		if again, err := canon.Marshal(s); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%v: %x became %x", err, b, again)
		}
	})
}
