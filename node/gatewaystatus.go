package node

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	publish "github.com/zero-os/zos/workload/gateway"
)

// gatewayStatus tells the members of a contract's group how its gateways are on
// this node.
func (n *Node) gatewayStatus(ctx context.Context, q bus.Query) (protocol.GatewayStatus, error) {
	local, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	return gatewayStatusOf(n.at.Slot, n.gateways.State(local, q.Contract), time.Now()), nil
}

// gatewayStatusOf puts together what is to be served and what the process says of
// it, which may be lies: it is cut to the limits.
func gatewayStatusOf(slot canon.Hash, s publish.State, now time.Time) protocol.GatewayStatus {
	out := protocol.GatewayStatus{Slot: slot, Gateways: []protocol.Gateway{}}
	said := map[string]control.RouteStatus{}
	for _, r := range s.Status.Routes {
		said[r.ID] = r
	}
	certificates := map[string]control.CertificateStatus{}
	for _, c := range s.Status.Certificates {
		certificates[c.Host] = c
	}
	for _, d := range s.Gateways {
		g, err := plan.DecodeGateway(d.Plan.Config)
		if err != nil {
			continue // Ensure has refused it
		}
		one := protocol.Gateway{Name: d.ID.Name, Version: d.Version, Addresses: g.Addresses, Process: checkOf(s.Process), Public: checkOf(s.Public), Routes: []protocol.GatewayRoute{}}
		for _, r := range g.Routes {
			id := publish.RouteID(d.ID, r)
			status, known := said[id]
			one.Routes = append(one.Routes, gatewayRoute(d, r, s.Routes[id], status, known && s.Process == nil && s.Public == nil, certificates[r.Host], now))
		}
		out.Gateways = append(out.Gateways, one)
	}
	return out.Bounded()
}

func checkOf(err error) protocol.Check {
	if err == nil {
		return protocol.Check{OK: true}
	}
	return protocol.Check{Detail: oneLine(err.Error())}
}

func gatewayRoute(d workload.Desired, r plan.Route, want control.Route, said control.RouteStatus, known bool, c control.CertificateStatus, now time.Time) protocol.GatewayRoute {
	out := protocol.GatewayRoute{
		Name: r.String(), Mode: r.Mode, Port: uint64(r.Port), Network: r.Network, Target: uint64(r.Target), Entry: r.Entry, Backends: []protocol.GatewayBackend{},
		Counters: protocol.GatewayCounters{
			Connections: said.Total, Open: said.Conns, Failed: said.Failures, Received: said.In, Sent: said.Out, Requests: said.Requests, Errors: said.Errors,
		},
	}
	trouble := cmp.Or(want.Problem, said.Problem)
	out.Serving = known && trouble == ""
	if trouble != "" {
		code, message, ok := strings.Cut(trouble, " ")
		if !ok || !isCode(code) {
			code, message = "not-served", trouble
		}
		out.Code, out.Message = code, oneLine(message)
	} else if !known {
		out.Code, out.Message = publish.CodeDown, "the gateway process does not say that it serves it"
	}
	health := map[string]control.BackendStatus{}
	for _, b := range said.Backends {
		health[b.Addr] = b
	}
	for _, b := range want.Backends {
		h, ok := health[b.Addr]
		backend := protocol.GatewayBackend{Name: b.Name, Address: b.Addr, State: protocol.BackendUnknown, Open: h.Conns, Message: oneLine(h.Error)}
		if ok && h.Checked {
			backend.State, backend.Since = protocol.BackendUnhealthy, protocol.AgeOf(now, unixTime(h.Since))
			if h.Healthy {
				backend.State = protocol.BackendHealthy
			}
		}
		out.Backends = append(out.Backends, backend)
	}
	if r.Mode == plan.ModeTerminate {
		out.Certificate = certificateOf(c, now)
	}
	return out
}

func certificateOf(c control.CertificateStatus, now time.Time) *protocol.GatewayCertificate {
	out := &protocol.GatewayCertificate{
		State: protocol.CertificateValid, Issuer: c.Issuer, Serial: c.Serial, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		Code: c.Code, Message: oneLine(c.Error), Failing: protocol.AgeOf(now, unixTime(c.Failing)),
	}
	switch {
	case c.NotAfter == 0:
		out.State = protocol.CertificatePending
	case uint64(max(0, now.Unix())) > c.NotAfter:
		out.State = protocol.CertificateExpired
	case c.Failing != 0:
		out.State = protocol.CertificateRenew
	}
	return out
}

// unixTime is the time of seconds that a process said; none for what no clock has.
func unixTime(s uint64) time.Time {
	if s == 0 || s > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0)
}

// isCode tells whether s has the form of a problem's code.
func isCode(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}
