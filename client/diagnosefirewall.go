package client

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// Port is what one workload wants to reach at another. The zero Port is any.
type Port struct {
	Protocol string // plan.ProtocolTCP, plan.ProtocolUDP or plan.ProtocolICMP
	Number   uint16 // 0 for icmp
}

// ParsePort reads "5432/tcp", "5432" (tcp) or "icmp".
func ParsePort(s string) (Port, error) {
	invalid := problem.New("option-invalid", "%q is no port", s).WithFix("write 5432/tcp, 53/udp or icmp")
	if s == plan.ProtocolICMP {
		return Port{Protocol: s}, nil
	}
	number, protocol, both := strings.Cut(s, "/")
	if !both {
		protocol = plan.ProtocolTCP
	}
	at, err := netip.ParseAddrPort("[::]:" + number)
	if err != nil || at.Port() == 0 || protocol != plan.ProtocolTCP && protocol != plan.ProtocolUDP {
		return Port{}, invalid
	}
	return Port{Protocol: protocol, Number: at.Port()}, nil
}

// String is the form that ParsePort reads; "any port" for the zero Port.
func (p Port) String() string {
	switch p.Protocol {
	case "":
		return "any port"
	case plan.ProtocolICMP:
		return p.Protocol
	}
	return fmt.Sprintf("%d/%s", p.Number, p.Protocol)
}

func portOf(p Port) string {
	if p.Protocol == "" {
		return ""
	}
	return p.String()
}

// firewall: the plan lets it through, and the rules in the kernel are the plan's.
func (d *diagnosis) firewall() finding {
	if unreached := d.unreached(); unreached.fix != "" {
		return unreached
	}
	by, allowed := Allows(d.b.Attachment, d.from, d.to, d.port)
	switch {
	case d.a.Workload.Kind == plan.KindGateway:
		if by, allowed = d.published(); !allowed {
			return broken(d.publish(), "gateway %s reaches what it publishes, and that is not %s of %s (%s)", d.from, d.port, d.to, by)
		}
	case !allowed:
		return broken(fmt.Sprintf("add it to the spec, at workload %s, network %s: allow: [{ports: %s, from: [%s]}]", d.to, d.network, orElse(portOf(d.port), "PORT/tcp"), d.from),
			"the plan does not let %s reach %s of %s (%s)", d.from, d.port, d.to, by)
	}
	for _, side := range []struct {
		node string
		at   protocol.Network
	}{{d.nameA, d.atA}, {d.nameB, d.atB}} {
		if !side.at.Firewall.OK {
			return broken("the node sets its rules again by itself; if it stays so: zos node show "+side.node,
				"the rules on %s are not in force: %s", side.node, orElse(side.at.Firewall.Detail, "no reason is given"))
		}
	}
	where := d.nameA
	if d.nameB != d.nameA {
		where += " and " + d.nameB
	}
	return good("%s; the rules are in force on %s", by, where)
}

// unreached tells whether To is of a kind that nobody reaches.
func (d *diagnosis) unreached() finding {
	if kind := d.b.Workload.Kind; kind == plan.KindGateway || kind == plan.KindDevice {
		return broken("let "+d.to+" begin the connection: answers pass", "%s is a %s: nobody begins a connection to it", d.to, kind)
	}
	return finding{}
}

// publish is what lets a gateway reach a workload.
func (d *diagnosis) publish() string {
	return fmt.Sprintf("add it to the spec, at a workload of kind gateway: publish: [{port: PORT/tcp, to: %s:PORT}]", d.to)
}

// gated lists the ports of To that From, a gateway, publishes.
func (d *diagnosis) gated() []string {
	ports := []string{}
	gates, err := network.GatesOf(d.Plan, d.network)
	if err != nil {
		return ports // a plan of a contract is valid
	}
	for _, g := range gates {
		for _, t := range g.Targets {
			if g.Workload == d.from && t.Workload == d.to {
				ports = append(ports, Port{t.Protocol, t.Port}.String())
			}
		}
	}
	return ports
}

// published is Allows for a gateway.
func (d *diagnosis) published() (why string, ok bool) {
	ports := d.gated()
	if d.port.Protocol != "" && slices.Contains(ports, d.port.String()) {
		return "published by " + d.from, true
	}
	return reaches(d.from, d.to, ports), d.port.Protocol == "" && len(ports) > 0
}

// opened are the ports of To that the plan opens to From: all of them, or these.
func (d *diagnosis) opened() (every bool, ports []string) {
	switch {
	case d.unreached().fix != "":
		return false, []string{}
	case d.a.Workload.Kind == plan.KindGateway:
		return false, d.gated()
	}
	return d.b.Open, reached(d.b.Attachment, d.from)
}

// Allows tells whether a plan lets workload from reach a port of an attachment of
// workload name, and by which words.
func Allows(to plan.Attachment, from, name string, port Port) (why string, ok bool) {
	if to.Open {
		return "open to every workload of the network", true
	}
	for _, r := range to.Allow {
		if letsIn(r, from) && r.Protocol == port.Protocol && (port.Protocol == plan.ProtocolICMP || r.First <= port.Number && port.Number <= r.Last) {
			return "allowed by " + RuleText(r), true
		}
	}
	ports := reached(to, from)
	return reaches(from, name, ports), port.Protocol == "" && len(ports) > 0
}

func letsIn(r plan.Rule, from string) bool {
	return len(r.Peers) == 0 || slices.Contains(r.Peers, from)
}

// reached lists the ports of an attachment that its rules open to a workload.
func reached(to plan.Attachment, from string) []string {
	ports := []string{}
	for _, r := range to.Allow {
		text := RuleText(plan.Rule{Protocol: r.Protocol, First: r.First, Last: r.Last})
		if letsIn(r, from) && !slices.Contains(ports, text) {
			ports = append(ports, text)
		}
	}
	return ports
}

// reaches says which ports one workload reaches at another.
func reaches(from, to string, ports []string) string {
	switch last := len(ports) - 1; last {
	case -1:
		return from + " reaches nothing of " + to
	case 0:
		return fmt.Sprintf("%s reaches %s of %s, and nothing else there", from, ports[0], to)
	default:
		return fmt.Sprintf("%s reaches %s and %s of %s, and nothing else there", from, strings.Join(ports[:last], ", "), ports[last], to)
	}
}

// RuleText is a rule in the words of a spec.
func RuleText(r plan.Rule) string {
	s := r.Protocol
	switch {
	case r.Protocol == plan.ProtocolICMP:
	case r.First == r.Last:
		s = fmt.Sprintf("%d/%s", r.First, r.Protocol)
	default:
		s = fmt.Sprintf("%d-%d/%s", r.First, r.Last, r.Protocol)
	}
	if len(r.Peers) > 0 {
		s += " from " + strings.Join(r.Peers, ", ")
	}
	return s
}
