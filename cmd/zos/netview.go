package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// netShown is a network for machines, and all that people are shown of it.
type netShown struct {
	Contract   string           `json:"contract"` // group/deployment
	ContractID canon.Hash       `json:"contract_id"`
	Version    uint64           `json:"version"`
	Network    string           `json:"network"`
	IPv4       string           `json:"ipv4"`
	IPv6       string           `json:"ipv6"`
	Exit       string           `json:"exit"`  // node; "" without one
	State      string           `json:"state"` // a client.Network… constant
	Problems   []string         `json:"problems"`
	Nodes      []netNodeShown   `json:"nodes"`
	Workloads  []netMemberShown `json:"workloads"`
}

// netNodeShown is one node of a network: what the plan gives it, and what it says.
type netNodeShown struct {
	Node  string            `json:"node"`
	Slot  canon.Hash        `json:"slot"`
	IPv4  string            `json:"ipv4"`
	IPv6  string            `json:"ipv6"`
	Error string            `json:"error"` // why it says nothing; "" if it does, or was not asked
	Live  *protocol.Network `json:"live"`  // null without its word
	Peers map[string]string `json:"names"` // slots of its peers by their names
}

// netMemberShown is a workload in a network.
type netMemberShown struct {
	Workload  string   `json:"workload"`
	Kind      string   `json:"kind"`
	Node      string   `json:"node"`    // of a device, by which it enters
	Account   string   `json:"account"` // whose device it is; "" of other kinds
	Addresses []string `json:"addresses"`
	Names     []string `json:"names"` // that the resolver answers for
	Open      bool     `json:"open"`
	Allow     []string `json:"allow"` // in the words of a spec
	Egress    string   `json:"egress"`
	Bandwidth uint64   `json:"bandwidth"` // bit/s each way; 0: no limit
}

// netShownOf puts together what the plan and the nodes say.
func netShownOf(k client.Contract, n plan.Network, views map[canon.Hash]client.View, names client.Names) netShown {
	s := netShown{Contract: names.Of(k.Group) + "/" + k.Name, ContractID: k.ID, Version: k.Version, Network: n.Name, IPv4: n.IPv4, IPv6: n.IPv6,
		Nodes: []netNodeShown{}, Workloads: []netMemberShown{}}
	if !n.Exit.IsZero() {
		s.Exit = names.Of(n.Exit)
	}
	s.State, s.Problems = client.NetworkState(&k.Plan, n, views, names)
	for _, node := range n.Nodes {
		shown := netNodeShown{Node: names.Of(node.Slot), Slot: node.Slot, IPv4: node.IPv4, IPv6: node.IPv6, Peers: map[string]string{}}
		v, asked := views[node.Slot]
		switch live, ok := v.Network(n.Name); {
		case !asked:
		case v.Err != nil:
			shown.Error = v.Err.Error()
			if code := problem.Code(v.Err); code != "" {
				shown.Error = code
			}
		case ok:
			shown.Live = &live
			for _, p := range live.Peers {
				shown.Peers[p.Slot.String()] = names.Of(p.Slot)
			}
		}
		s.Nodes = append(s.Nodes, shown)
	}
	slices.SortStableFunc(s.Nodes, func(a, b netNodeShown) int { return strings.Compare(a.Node, b.Node) })
	devices := client.Devices(&k.Plan)
	for _, w := range client.AttachedTo(&k.Plan, n.Name) {
		m := netMemberShown{Workload: w.Workload.Name, Kind: w.Workload.Kind, Node: names.Of(w.Workload.Slot), Addresses: []string{w.IPv4, w.IPv6},
			Names: append([]string{w.Workload.Name}, w.Aliases...), Open: w.Open, Allow: []string{}, Egress: w.Egress, Bandwidth: w.Bandwidth}
		for _, r := range w.Allow {
			m.Allow = append(m.Allow, client.RuleText(r))
		}
		if d, ok := devices[m.Workload]; ok {
			m.Account = names.Of(d.Account)
		}
		s.Workloads = append(s.Workloads, m)
	}
	return s
}

// showNetwork prints a network; why says why its nodes were not asked.
func (a *app) showNetwork(s netShown, why error) error {
	if a.format == "json" {
		return a.json(s)
	}
	exit := "none"
	if s.Exit != "" {
		exit = s.Exit
	}
	a.fields([][2]string{{"network", s.Network + " of " + s.Contract}, {"state", s.State}, {"subnet", s.IPv4 + "  " + s.IPv6}, {"exit", exit}})
	for _, p := range s.Problems {
		fmt.Fprintf(a.out, "  %s %s\n", a.paint(a.out, bad, "✗"), printable(p))
	}
	if why != nil {
		fmt.Fprintf(a.out, "  its nodes were not asked: %s\n", printable(why.Error()))
	}
	var nodes, members, devices, gateways, peers [][]string
	for _, n := range s.Nodes {
		nodes = append(nodes, nodeLine(n))
		if n.Live == nil {
			continue
		}
		for _, p := range n.Live.Peers {
			peers = append(peers, []string{n.Node, n.Peers[p.Slot.String()], p.State, orDash(p.Path), ago(p.Handshake), ago(p.PSK), traffic(p.Received), traffic(p.Sent)})
		}
	}
	for _, m := range s.Workloads {
		switch m.Kind {
		case plan.KindDevice:
			devices = append(devices, []string{m.Workload, m.Account, m.Node, m.Addresses[0], m.Addresses[1]})
			continue
		case plan.KindGateway:
			gateways = append(gateways, []string{m.Workload, m.Node, m.Addresses[0]})
			continue
		}
		reach := []string{"all"}
		if !m.Open {
			reach = m.Allow
		}
		first := []string{m.Workload, m.Node, m.Addresses[0], orDash(strings.Join(m.Names[1:], ", ")), "", m.Egress, rate(m.Bandwidth)}
		for i, r := range reach {
			line := first
			if i > 0 {
				line = make([]string, len(first)) // a rule on each line
			}
			line[4] = r
			members = append(members, slices.Clone(line))
		}
		if len(reach) == 0 {
			first[4] = "nobody"
			members = append(members, first)
		}
	}
	headings := []string{"NODE", "SUBNET", "KEY", "KEY AGE", "ENGINE", "PORT", "FIREWALL", "RESOLVER", "ATTACHED"}
	if why != nil { // then there is nothing in the others
		headings = headings[:2]
	}
	return errors.Join(
		a.section(headings, nodes),
		a.section([]string{"WORKLOAD", "NODE", "ADDRESS", "ALSO NAMED", "REACHED BY", "EGRESS", "LIMIT"}, members),
		a.section([]string{"DEVICE", "OF", "ENTERS BY", "ADDRESS", "IPV6"}, devices),
		a.section([]string{"GATEWAY", "NODE", "ADDRESS"}, gateways),
		a.section([]string{"FROM", "TO", "STATE", "PATH", "HANDSHAKE", "PQ KEY", "RECEIVED", "SENT"}, peers),
	)
}

// section prints one of several tables, if it has rows: as many columns of them
// as it has headings.
func (a *app) section(headings []string, rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range append([][]string{headings}, rows...) {
		line := make([]string, len(headings))
		for i := range line {
			line[i] = printable(r[i])
		}
		fmt.Fprintln(w, strings.Join(line, "\t"))
	}
	err := w.Flush()
	fmt.Fprintln(a.out)
	for line := range strings.Lines(b.String()) {
		_, e := fmt.Fprintln(a.out, strings.TrimRight(line, " \n"))
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

func nodeLine(n netNodeShown) []string {
	line := []string{n.Node, n.IPv4, "-", "-", "-", "-", "-", "-", "-"}
	if n.Error != "" {
		line[2] = n.Error
	}
	if n.Live == nil {
		return line
	}
	if keys := n.Live.Keys; len(keys) > 0 {
		k := keys[len(keys)-1]
		line[2], line[3], line[4] = fmt.Sprintf("epoch %d", k.Epoch), span(k.Age), k.Engine
		if k.Port > 0 {
			line[5] = fmt.Sprint(k.Port)
		}
		if len(keys) > 1 {
			line[2] += fmt.Sprintf(" (and %d)", keys[0].Epoch)
		}
	}
	line[6], line[7], line[8] = verdict(n.Live.Firewall, "in force"), verdict(n.Live.Resolver, "answers"), fmt.Sprint(len(n.Live.Workloads))
	return line
}

// verdict is a check in a word; what was found instead stands among the problems.
func verdict(c protocol.Check, ok string) string {
	if c.OK {
		return ok
	}
	return "broken"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// span shows seconds in their largest unit or two.
func span(seconds uint64) string {
	d := time.Duration(min(seconds, 1<<33)) * time.Second
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

func ago(a *protocol.Age) string {
	if a == nil {
		return "never"
	}
	return span(a.Seconds) + " ago"
}

// traffic shows bytes for people.
func traffic(bytes uint64) string {
	for _, u := range units {
		if bytes >= 1<<u.shift {
			return fmt.Sprintf("%.1f %s", float64(bytes)/float64(uint64(1)<<u.shift), u.name)
		}
	}
	return fmt.Sprintf("%d B", bytes)
}

// rate shows bit/s as specs write them.
func rate(bits uint64) string {
	for _, u := range []struct {
		name string
		per  uint64
	}{{"Gbit", 1e9}, {"Mbit", 1e6}, {"kbit", 1e3}} {
		if bits >= u.per && bits%u.per == 0 {
			return fmt.Sprintf("%d%s", bits/u.per, u.name)
		}
	}
	return "-"
}
