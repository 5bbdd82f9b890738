package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// gatewayRow is one thing that is published, for machines.
type gatewayRow struct {
	Contract    string     `json:"contract"` // group/deployment
	ContractID  canon.Hash `json:"contract_id"`
	Gateway     string     `json:"gateway"` // the workload
	Node        string     `json:"node"`
	Published   string     `json:"published"` // the host, or the port with its protocol
	Mode        string     `json:"mode"`
	Addresses   []string   `json:"addresses"`
	Network     string     `json:"network"`
	Target      uint16     `json:"target"`
	Entry       string     `json:"entry"` // node by which devices enter; "" otherwise
	Backends    int        `json:"backends"`
	Healthy     int        `json:"healthy"`     // -1: not known
	Certificate string     `json:"certificate"` // a protocol.Certificate… constant; "" if TLS does not end here
	State       string     `json:"state"`       // serving, not serving or unknown
	Code        string     `json:"code"`
	Problem     string     `json:"problem"` // one line; "" if there is none
	// Live is what its node says; null without its word.
	Live *protocol.GatewayRoute `json:"live"`
}

// States of what is published.
const (
	stateServing = "serving"
	stateNot     = "not serving"
	stateUnknown = "unknown"
)

// gatewayRows put together what the plans and the nodes say.
func gatewayRows(list []client.Published, names client.Names) []gatewayRow {
	rows := []gatewayRow{}
	for _, p := range list {
		for _, r := range p.Gateway.Routes {
			rows = append(rows, gatewayRowOf(p, r, names))
		}
	}
	return rows
}

func gatewayRowOf(p client.Published, r plan.Route, names client.Names) gatewayRow {
	row := gatewayRow{
		Contract: names.Of(p.Contract.Group) + "/" + p.Contract.Name, ContractID: p.Contract.ID, Gateway: p.Workload.Name,
		Node: names.Of(p.Workload.Slot), Published: r.String(), Mode: r.Mode, Addresses: p.Gateway.Addresses, Network: r.Network, Target: r.Target,
		Backends: len(r.Backends), Healthy: -1, State: stateNot,
	}
	if !r.Entry.IsZero() {
		row.Entry = names.Of(r.Entry)
	}
	live, ok := p.Route(r)
	switch {
	case p.Err != nil:
		row.State, row.Code, row.Problem = stateUnknown, problem.Code(p.Err), row.Node+" does not answer"
		if row.Code == "not-permitted" {
			row.Problem = "its node was not asked"
		}
		return row
	case p.Live == nil:
		row.Problem = row.Node + " does not have it yet"
		return row
	case !p.Live.Process.OK:
		row.Problem = "gateway process: " + said(p.Live.Process.Detail, "does not run")
	case !p.Live.Public.OK:
		row.Problem = "public card: " + said(p.Live.Public.Detail, "is not there")
	case !ok:
		row.Problem = row.Node + " does not have it yet"
		return row
	}
	if !ok {
		return row
	}
	row.Live = &live
	row.Healthy = 0
	for _, b := range live.Backends {
		if b.State == protocol.BackendHealthy {
			row.Healthy++
		}
	}
	if row.Problem != "" {
		return row
	}
	if live.Serving {
		row.State = stateServing
	}
	row.Code, row.Problem = live.Code, live.Message
	if c := live.Certificate; c != nil {
		row.Certificate = c.State
		none := c.State == protocol.CertificatePending || c.State == protocol.CertificateExpired
		if none && row.State == stateServing {
			row.State = stateNot
		}
		switch {
		case row.Problem != "" || c.Failing == nil && !none:
		case none:
			row.Code, row.Problem = c.Code, "no certificate: "+said(client.CertificateTrouble(*c, r.Host), "its authority was not asked yet")
		default:
			row.Code, row.Problem = c.Code, "renewal fails since "+span(c.Failing.Seconds)
		}
	}
	if row.Problem == "" && row.Healthy < row.Backends {
		for _, b := range live.Backends {
			if b.State == protocol.BackendUnhealthy {
				row.Problem = b.Name + ": " + said(b.Message, "unhealthy")
				break
			}
		}
	}
	return row
}

func said(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (a *app) showGateways(rows []gatewayRow) error {
	var lines [][]string
	var problems []string
	for _, r := range rows {
		lines = append(lines, []string{r.Contract + "/" + r.Gateway, r.Published, r.Mode, r.Addresses[0] + andMore(len(r.Addresses)-1),
			healthOf(r), orDash(r.Certificate), r.State})
		text := r.Contract + "/" + r.Gateway + ": " + r.Problem
		if r.Live != nil { // its own, not the whole gateway's
			text = r.Published + ": " + r.Problem
		}
		if r.Problem != "" && !slices.Contains(problems, text) {
			problems = append(problems, text)
		}
	}
	if err := a.table(rows, []string{"GATEWAY", "PUBLISHED", "MODE", "ADDRESS", "UP", "CERTIFICATE", "STATE"}, lines); err != nil || a.format == "json" {
		return err
	}
	for _, text := range problems {
		fmt.Fprintf(a.out, "%s %s\n", a.paint(a.out, bad, "✗"), wrapped(printable(text), 98, "  "))
	}
	return nil
}

func andMore(n int) string {
	if n < 1 {
		return ""
	}
	return fmt.Sprintf(" +%d", n)
}

// healthOf says how many backends are healthy, of how many.
func healthOf(r gatewayRow) string {
	switch {
	case r.Entry != "":
		return "-" // devices shake hands with the node itself
	case r.Healthy < 0:
		return fmt.Sprintf("?/%d", r.Backends)
	}
	return fmt.Sprintf("%d/%d", r.Healthy, r.Backends)
}

// publishedShown is a gateway for machines.
type publishedShown struct {
	Contract   string            `json:"contract"`
	ContractID canon.Hash        `json:"contract_id"`
	Version    uint64            `json:"version"` // of the contract
	Gateway    string            `json:"gateway"`
	Node       string            `json:"node"`
	Addresses  []string          `json:"addresses"`
	Leased     bool              `json:"leased"`
	Error      string            `json:"error"` // why its node says nothing; "" if it does
	Live       *protocol.Gateway `json:"live"`
	Routes     []gatewayRow      `json:"routes"`
}

// showPublished prints all that there is about gateways.
func (a *app) showPublished(list []client.Published, names client.Names) error {
	shown := make([]publishedShown, 0, len(list))
	for _, p := range list {
		s := publishedShown{Contract: names.Of(p.Contract.Group) + "/" + p.Contract.Name, ContractID: p.Contract.ID, Version: p.Contract.Version,
			Gateway: p.Workload.Name, Node: names.Of(p.Workload.Slot), Addresses: p.Gateway.Addresses, Leased: p.Gateway.Leased, Live: p.Live,
			Routes: gatewayRows([]client.Published{p}, names)}
		if p.Err != nil {
			s.Error = said(problem.Code(p.Err), p.Err.Error())
		}
		shown = append(shown, s)
	}
	if a.format == "json" {
		return a.json(shown)
	}
	var err error
	for i, s := range shown {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		err = errors.Join(err, a.showOneGateway(s))
	}
	return err
}

func (a *app) showOneGateway(s publishedShown) error {
	whose := "shared with others"
	if s.Leased {
		whose = "this contract's alone"
	}
	state := "its node was not asked: " + s.Error
	switch {
	case s.Error != "" && s.Error != "not-permitted":
		state = s.Node + " does not answer: " + s.Error
	case s.Live != nil:
		state = fmt.Sprintf("process %s, public card %s", verdict(s.Live.Process, "answers"), verdict(s.Live.Public, "in place"))
		if s.Live.Version != s.Version {
			state += fmt.Sprintf(", serves version %d of %d", s.Live.Version, s.Version)
		}
	case s.Error == "":
		state = s.Node + " does not have it yet"
	}
	a.fields([][2]string{{"gateway", s.Gateway + " of " + s.Contract}, {"node", s.Node}, {"addresses", strings.Join(s.Addresses, "  ") + ", " + whose}, {"state", state}})
	if s.Live != nil {
		for _, c := range []protocol.Check{s.Live.Process, s.Live.Public} {
			if !c.OK && c.Detail != "" {
				fmt.Fprintf(a.out, "  %s %s\n", a.paint(a.out, bad, "✗"), printable(c.Detail))
			}
		}
	}
	for _, r := range s.Routes {
		if r.Problem != "" && s.Error == "" {
			fmt.Fprintf(a.out, "  %s %s: %s\n", a.paint(a.out, bad, "✗"), printable(r.Published), printable(r.Problem))
		}
	}
	var routes, counts, web, certificates, backends [][]string
	for _, r := range s.Routes {
		to := fmt.Sprintf("port %d in %s", r.Target, r.Network)
		if r.Entry != "" {
			to = "devices into " + r.Network + ", by " + r.Entry
		}
		routes = append(routes, []string{r.Published, r.Mode, to, healthOf(r), r.State})
		if r.Live == nil {
			continue
		}
		c := r.Live.Counters
		counts = append(counts, []string{r.Published, fmt.Sprint(c.Open), fmt.Sprint(c.Connections), fmt.Sprint(c.Failed), fmt.Sprint(c.Refused), traffic(c.Received), traffic(c.Sent)})
		if r.Mode == plan.ModeTerminate {
			web = append(web, []string{r.Published, fmt.Sprint(c.Requests), fmt.Sprint(c.Errors)})
		}
		if cert := r.Live.Certificate; cert != nil {
			renewal := "-"
			if cert.Failing != nil {
				renewal = "fails since " + span(cert.Failing.Seconds) + ": " + client.CertificateTrouble(*cert, r.Published)
			}
			certificates = append(certificates, []string{r.Published, cert.State, orDash(cert.Issuer), day(cert.NotAfter), renewal})
		}
		for _, b := range r.Live.Backends {
			since := "-"
			if b.Since != nil {
				since = span(b.Since.Seconds)
			}
			backends = append(backends, []string{r.Published, b.Name, b.Address, b.State, since, fmt.Sprint(b.Open), orDash(b.Message)})
		}
	}
	return errors.Join(
		a.section([]string{"PUBLISHED", "MODE", "TO", "HEALTHY", "STATE"}, routes),
		a.section([]string{"TRAFFIC OF", "OPEN", "CONNECTIONS", "FAILED", "REFUSED", "RECEIVED", "SENT"}, counts),
		a.section([]string{"REQUESTS OF", "REQUESTS", "ERRORS"}, web),
		a.section([]string{"CERTIFICATE OF", "STATE", "ISSUER", "UNTIL", "RENEWAL"}, certificates),
		a.section([]string{"BACKEND OF", "WORKLOAD", "ADDRESS", "STATE", "SINCE", "OPEN", "LAST ERROR"}, backends),
	)
}

// day is a moment in Unix seconds, as a date.
func day(seconds uint64) string {
	if seconds == 0 {
		return "-"
	}
	return time.Unix(int64(min(seconds, 1<<40)), 0).UTC().Format(time.DateOnly)
}
