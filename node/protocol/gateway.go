package protocol

import (
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Limits of a GatewayStatus. A node keeps below them, a client refuses more.
const (
	MaxGateways        = 16   // gateways of one contract on one node
	MaxGatewayRoutes   = 256  // routes of one gateway
	MaxGatewayBackends = 64   // backends of one route
	MaxGatewayListed   = 2048 // backends of all routes of one answer
)

// States of a backend.
const (
	BackendUnknown   = "unknown"   // it was not checked yet
	BackendHealthy   = "healthy"   // it is used
	BackendUnhealthy = "unhealthy" // it is not
)

// States of a certificate.
const (
	CertificatePending = "pending" // there is none yet
	CertificateValid   = "valid"
	CertificateRenew   = "renew"   // valid, and its renewal fails
	CertificateExpired = "expired" // not served any more
)

// GatewayStatus answers bus.MethodGateway: the gateways of one contract as one
// node sees them now.
type GatewayStatus struct {
	Slot     canon.Hash `cbor:"slot" json:"slot"`
	Gateways []Gateway  `cbor:"gateways" json:"gateways"`
}

// Gateway is one workload of kind "gateway".
type Gateway struct {
	Name      string         `cbor:"name" json:"name"`
	Version   uint64         `cbor:"version" json:"version"` // of the contract that it serves
	Addresses []string       `cbor:"addresses" json:"addresses"`
	Process   Check          `cbor:"process" json:"process"` // the process that serves it answers
	Public    Check          `cbor:"public" json:"public"`   // the public card is there, with these addresses
	Routes    []GatewayRoute `cbor:"routes" json:"routes"`
}

// GatewayRoute is one thing that it publishes.
type GatewayRoute struct {
	Name    string     `cbor:"name" json:"name"` // the host, or the port with its protocol
	Mode    string     `cbor:"mode" json:"mode"` // a plan.Mode… constant
	Port    uint64     `cbor:"port" json:"port"`
	Network string     `cbor:"network" json:"network"`
	Target  uint64     `cbor:"target" json:"target"`
	Entry   canon.Hash `cbor:"entry" json:"entry"` // slot by which devices enter; zero: none
	// Serving tells whether the world reaches it. Otherwise Code and Message say
	// why not; they may also say what will soon be wrong.
	Serving     bool                `cbor:"serving" json:"serving"`
	Code        string              `cbor:"code" json:"code"`
	Message     string              `cbor:"message" json:"message"`
	Backends    []GatewayBackend    `cbor:"backends" json:"backends"`
	Certificate *GatewayCertificate `cbor:"certificate" json:"certificate"` // nil unless TLS ends here
	Counters    GatewayCounters     `cbor:"counters" json:"counters"`
}

// GatewayBackend is a workload behind a route.
type GatewayBackend struct {
	Name    string `cbor:"name" json:"name"`
	Address string `cbor:"address" json:"address"` // and port, in the network
	State   string `cbor:"state" json:"state"`     // a Backend… constant
	Since   *Age   `cbor:"since" json:"since"`     // of the state; nil: not checked yet
	Message string `cbor:"message" json:"message"` // how the last check failed
	Open    uint64 `cbor:"open" json:"open"`       // connections now
}

// GatewayCertificate is what is shown to browsers.
type GatewayCertificate struct {
	State     string `cbor:"state" json:"state"` // a Certificate… constant
	Issuer    string `cbor:"issuer" json:"issuer"`
	Serial    string `cbor:"serial" json:"serial"` // hex
	NotBefore uint64 `cbor:"not_before" json:"not_before"`
	NotAfter  uint64 `cbor:"not_after" json:"not_after"` // Unix seconds
	Code      string `cbor:"code" json:"code"`           // of the last try that failed
	Message   string `cbor:"message" json:"message"`
	Failing   *Age   `cbor:"failing" json:"failing"` // since when renewal fails; nil: it does not
}

// GatewayCounters count since the process began.
type GatewayCounters struct {
	Connections uint64 `cbor:"connections" json:"connections"`
	Open        uint64 `cbor:"open" json:"open"`     // now
	Failed      uint64 `cbor:"failed" json:"failed"` // no backend took them
	Refused     uint64 `cbor:"refused" json:"refused"`
	Received    uint64 `cbor:"rx" json:"rx"`             // bytes from clients
	Sent        uint64 `cbor:"tx" json:"tx"`             // bytes to clients
	Requests    uint64 `cbor:"requests" json:"requests"` // of HTTP
	Errors      uint64 `cbor:"errors" json:"errors"`     // answers 5xx
}

// DecodeGatewayStatus reads the answer of a node, which may lie.
func DecodeGatewayStatus(b []byte) (GatewayStatus, error) {
	var s GatewayStatus
	if err := canon.Unmarshal(b, &s); err != nil {
		return GatewayStatus{}, problem.New("reply-invalid", "read the status of gateways: %w", err)
	}
	if err := s.check(); err != nil {
		return GatewayStatus{}, problem.New("reply-invalid", "read the status of gateways: %w", err)
	}
	return s, nil
}

func (s GatewayStatus) check() error {
	if len(s.Gateways) > MaxGateways {
		return fmt.Errorf("%d gateways, at most %d are allowed", len(s.Gateways), MaxGateways)
	}
	listed := 0
	for _, g := range s.Gateways {
		if len(g.Addresses) > MaxAddresses || len(g.Routes) > MaxGatewayRoutes {
			return fmt.Errorf("gateway %.63q has %d addresses and %d routes, at most %d and %d are allowed", g.Name, len(g.Addresses), len(g.Routes), MaxAddresses, MaxGatewayRoutes)
		}
		for _, r := range g.Routes {
			if listed += len(r.Backends); len(r.Backends) > MaxGatewayBackends || listed > MaxGatewayListed {
				return fmt.Errorf("route %.80q has %d backends, at most %d of a route and %d of all are allowed", r.Name, len(r.Backends), MaxGatewayBackends, MaxGatewayListed)
			}
		}
	}
	for _, t := range s.texts() {
		if len(*t) > MaxText {
			return fmt.Errorf("a text of %d bytes, at most %d are allowed", len(*t), MaxText)
		}
	}
	return nil
}

// texts are all texts of s, to be looked at or changed.
func (s GatewayStatus) texts() []*string {
	var all []*string
	for i := range s.Gateways {
		g := &s.Gateways[i]
		all = append(all, &g.Name, &g.Process.Detail, &g.Public.Detail)
		for j := range g.Addresses {
			all = append(all, &g.Addresses[j])
		}
		for j := range g.Routes {
			r := &g.Routes[j]
			all = append(all, &r.Name, &r.Mode, &r.Network, &r.Code, &r.Message)
			for k := range r.Backends {
				b := &r.Backends[k]
				all = append(all, &b.Name, &b.Address, &b.State, &b.Message)
			}
			if c := r.Certificate; c != nil {
				all = append(all, &c.State, &c.Issuer, &c.Serial, &c.Code, &c.Message)
			}
		}
	}
	return all
}

// Bounded returns s cut to the limits, so that a node with more than they allow
// still answers. What s points to is not changed.
func (s GatewayStatus) Bounded() GatewayStatus {
	room := MaxGatewayListed
	s.Gateways = cut(s.Gateways, MaxGateways)
	for i := range s.Gateways {
		g := &s.Gateways[i]
		g.Addresses, g.Routes = cut(g.Addresses, MaxAddresses), cut(g.Routes, MaxGatewayRoutes)
		for j := range g.Routes {
			r := &g.Routes[j]
			r.Backends = cut(r.Backends, min(MaxGatewayBackends, room))
			room -= len(r.Backends)
			if r.Certificate != nil {
				own := *r.Certificate
				r.Certificate = &own
			}
		}
	}
	for _, t := range s.texts() {
		*t = short(*t)
	}
	return s
}
