package main

import (
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway"
	"github.com/zero-os/zos/gateway/certs"
	"github.com/zero-os/zos/gateway/control"
)

// service does what the daemon says.
type service struct {
	log    *slog.Logger
	dialer *control.Dialer
	server *gateway.Server
	certs  *certs.Manager
	names  *names

	challenges *challenges
}

// Configure implements control.Service.
func (s *service) Configure(c control.Config) error {
	var next gateway.Config
	networks := map[string]bool{}
	for _, r := range c.Routes {
		route, err := routeOf(r)
		if err != nil {
			return fmt.Errorf("route %s: %w", r.ID, err)
		}
		next.Routes = append(next.Routes, route)
		networks[r.Network] = true
	}
	dns, err := control.Addrs(c.DNS)
	if err != nil {
		return fmt.Errorf("addresses of the name server: %w", err)
	}
	s.challenges.serve(c.Routes)
	roots, err := certs.Roots(c.Roots)
	if err == nil {
		err = s.certs.SetAuthority(c.Authority, roots, c.Domain)
	}
	if err != nil {
		// What needs no new certificate is served all the same.
		s.log.Warn("use the authority for certificates", "error", err)
	}
	if err := s.server.Apply(next); err != nil {
		return err
	}
	s.names.listen(dns)
	s.dialer.Keep(networks)
	return nil
}

func routeOf(r control.Route) (gateway.Route, error) {
	out := gateway.Route{
		ID: r.ID, Contract: r.Contract, Workload: r.Workload, Host: r.Host, Mode: r.Mode, Port: r.Port, Network: r.Network,
		Proxy: int(r.Proxy), Check: r.Check, Path: r.Path, Problem: r.Problem,
	}
	var err error
	if out.Addresses, err = control.Addrs(r.Addresses); err != nil {
		return out, err
	}
	for _, b := range r.Backends {
		at, err := netip.ParseAddrPort(b.Addr)
		if err != nil {
			return out, err
		}
		out.Backends = append(out.Backends, gateway.Backend{Name: b.Name, Addr: at})
	}
	return out, nil
}

// SetZone implements control.Service.
func (s *service) SetZone(z control.Zone) error { return s.names.set(z) }

// Status implements control.Service.
func (s *service) Status(contract canon.Hash) control.Status {
	now := s.server.Status()
	out := control.Status{
		Routes: []control.RouteStatus{}, Certificates: s.certificates(contract), Conns: uint64(now.Conns), Flows: uint64(now.Flows),
		Unknown: now.Unknown, Junk: now.Junk, Refused: now.Refused, LogLost: now.LogLost,
	}
	for _, r := range now.Routes {
		if r.Contract != contract || len(out.Routes) == control.MaxListed {
			continue
		}
		rs := control.RouteStatus{
			ID: r.ID, Problem: control.Short(r.Problem), Conns: uint64(r.Conns), Total: r.Total, In: r.In, Out: r.Out, Failures: r.Failures,
			Requests: r.Requests, Errors: r.Errors, Backends: []control.BackendStatus{},
		}
		for _, b := range r.Backends {
			rs.Backends = append(rs.Backends, control.BackendStatus{
				Name: b.Name, Addr: b.Addr.String(), Healthy: b.Healthy, Checked: b.Checked, Since: control.Unix(b.Since), Error: control.Short(b.Error), Conns: uint64(b.Conns),
			})
		}
		out.Routes = append(out.Routes, rs)
	}
	return out
}

// certificates are those of a contract's hosts.
func (s *service) certificates(contract canon.Hash) []control.CertificateStatus {
	out, id := []control.CertificateStatus{}, contract.String()
	for _, c := range s.certs.Status() {
		if c.Publication != id || len(out) == control.MaxListed {
			continue
		}
		out = append(out, control.CertificateStatus{
			Host: control.Short(c.Host), Issuer: control.Short(c.Issuer), Serial: control.Short(c.Serial), NotBefore: control.Unix(c.NotBefore), NotAfter: control.Unix(c.NotAfter),
			Code: control.Short(c.Code), Error: control.Short(c.Error), Failing: control.Unix(c.FailingFrom),
		})
	}
	return out
}
