package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/resolver"
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

// Facts are all that Diagnose decides by: the ledger's word and the nodes'.
type Facts struct {
	Contract string // group/deployment
	Standing bool   // not cancelled
	Plan     *plan.Plan
	// Workloads are the receipts by workload, of the contract's newest version.
	Workloads map[string]Workload
	// Views are what the two nodes say. A slot that was not asked is missing.
	Views map[canon.Hash]View
	Names Names
}

// Steps of a diagnosis, in their order.
const (
	StepContract = "contract"
	StepKeys     = "keys"
	StepPath     = "path"
	StepFirewall = "firewall"
	StepResolver = "resolver"
)

// Step is one thing that must hold for two workloads to talk.
type Step struct {
	Name   string `json:"step"` // a Step… constant
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // what was found
	Fix    string `json:"fix"`    // what mends it; empty when OK
}

// Diagnosis is what was found, up to the first step that does not hold.
type Diagnosis struct {
	Contract string   `json:"contract"` // group/deployment
	From     string   `json:"from"`
	To       string   `json:"to"`
	Port     string   `json:"port"`
	Network  string   `json:"network"` // "" when they share none
	OK       bool     `json:"ok"`
	Open     bool     `json:"open"`    // the plan opens every port of To to From
	Reaches  []string `json:"reaches"` // the ports that it opens otherwise
	Steps    []Step   `json:"steps"`
}

// Diagnose explains whether workload from reaches port of workload to, by the
// network of that name or the first that they share. It is a pure function.
func Diagnose(f Facts, from, to, network string, port Port) Diagnosis {
	d := &diagnosis{Facts: f, from: from, to: to, network: network, port: port}
	out := Diagnosis{Contract: f.Contract, From: from, To: to, Port: port.String(), Reaches: []string{}, Steps: []Step{}}
	for _, step := range []struct {
		name  string
		check func() finding
	}{{StepContract, d.contract}, {StepKeys, d.keys}, {StepPath, d.path}, {StepFirewall, d.firewall}, {StepResolver, d.resolver}} {
		got := step.check()
		out.Steps = append(out.Steps, Step{Name: step.name, OK: got.fix == "", Detail: got.detail, Fix: got.fix})
		out.Network = d.network
		if d.network != "" {
			out.Open, out.Reaches = d.opened()
		}
		if got.fix != "" {
			return out
		}
	}
	out.OK = true
	return out
}

// Slots are those whose views a diagnosis of two workloads needs; none if one of
// the workloads is not in the plan.
func (f Facts) Slots(from, to string) []canon.Hash {
	var out []canon.Hash
	for _, w := range f.Plan.Workloads {
		if (w.Name == from || w.Name == to) && !slices.Contains(out, w.Slot) {
			out = append(out, w.Slot)
		}
	}
	return out
}

// finding is what one step found; one without a fix is good.
type finding struct{ detail, fix string }

func good(format string, args ...any) finding { return finding{detail: fmt.Sprintf(format, args...)} }

func broken(fix, format string, args ...any) finding {
	return finding{detail: fmt.Sprintf(format, args...), fix: fix}
}

// diagnosis gathers what the steps find out for those behind them.
type diagnosis struct {
	Facts
	from, to, network string
	port              Port

	a, b         Attached         // the two interfaces
	atA, atB     protocol.Network // as their nodes have it
	toB, toA     protocol.NetworkPeer
	nameA, nameB string // of the nodes
}

// contract: both exist, share a network, and run.
func (d *diagnosis) contract() finding {
	if !d.Standing {
		return broken("deploy it again: zos deploy SPEC", "contract %s is cancelled: nothing of it runs", d.Contract)
	}
	var ends [2]plan.Workload
	for i, name := range []string{d.from, d.to} {
		names := []string{}
		found := false
		for _, w := range d.Plan.Workloads {
			if w.Kind == plan.KindNetwork {
				continue
			}
			if w.Name == name {
				ends[i], found = w, true
			}
			names = append(names, w.Name)
		}
		if !found {
			return broken(suggest(name, names, "list them with: zos ps"), "contract %s has no workload %q", d.Contract, name)
		}
	}
	if d.from == d.to {
		return broken("name two workloads", "%s is one workload; it talks to itself by localhost", d.from)
	}
	if fault := d.share(ends); fault.fix != "" {
		return fault
	}
	d.nameA, d.nameB = d.Names.Of(ends[0].Slot), d.Names.Of(ends[1].Slot)
	for _, w := range ends {
		// The router comes first: no workload starts before its network stands.
		for _, name := range []string{plan.RouterName(d.network, w.Slot), w.Name} {
			if fault := d.runs(name, d.Names.Of(w.Slot)); fault.fix != "" {
				return fault
			}
		}
	}
	return good("%s on %s and %s on %s run, both in network %s", d.from, d.nameA, d.to, d.nameB, d.network)
}

// share finds the network that both are in.
func (d *diagnosis) share(ends [2]plan.Workload) finding {
	left, right := AttachmentsOf(ends[0]), AttachmentsOf(ends[1])
	for _, l := range left {
		for _, r := range right {
			if l.Network == r.Network && (d.network == "" || d.network == l.Network) {
				d.network, d.a, d.b = l.Network, Attached{ends[0], l}, Attached{ends[1], r}
				return finding{}
			}
		}
	}
	in := func(list []plan.Attachment) string {
		names := []string{}
		for _, a := range list {
			names = append(names, a.Network)
		}
		if len(names) == 0 {
			return "none"
		}
		return strings.Join(names, ", ")
	}
	fix := "put both into one network in the spec, and deploy it again"
	if d.network != "" {
		known := []string{}
		for _, n := range d.Plan.Networks {
			known = append(known, n.Name)
		}
		if !slices.Contains(known, d.network) {
			fix = suggest(d.network, known, fix)
		}
		what := d.network
		d.network = ""
		return broken(fix, "they are not both in network %q (%s: %s; %s: %s)", what, d.from, in(left), d.to, in(right))
	}
	return broken(fix, "they share no network (%s: %s; %s: %s)", d.from, in(left), d.to, in(right))
}

// runs tells whether a workload's receipt says that it runs.
func (d *diagnosis) runs(name, node string) finding {
	w, ok := d.Workloads[name]
	router := name != d.from && name != d.to
	what := name
	if router {
		what = "the router of " + d.network
	}
	switch {
	case !ok:
		return finding{} // a plan without this router would not have been accepted
	case w.State == contract.StateRunning:
		return finding{}
	case w.State == contract.StatePending && w.Reason == "":
		return broken("wait: zos ps --wait running; if it stays so: zos node show "+node, "%s has not been started on %s yet", what, node)
	}
	state := w.State
	if w.State == contract.StateExited {
		state = fmt.Sprintf("exited with %d", w.ExitCode)
	}
	detail := what + " on " + node + " is " + state
	for _, more := range []string{w.Reason, w.Detail} {
		if more != "" {
			detail += ": " + more
		}
	}
	if router {
		return broken("the node tries again by itself; if it stays so: zos node show "+node, "%s", detail)
	}
	return broken("see why: zos logs "+d.Contract+"/"+name, "%s", detail)
}

// keys: both nodes know each other's newest key, and agreed a post-quantum one.
func (d *diagnosis) keys() finding {
	slotA, slotB := d.a.Workload.Slot, d.b.Workload.Slot
	for _, end := range []struct {
		slot canon.Hash
		at   *protocol.Network
	}{{slotA, &d.atA}, {slotB, &d.atB}} {
		node := d.Names.Of(end.slot)
		v, asked := d.Views[end.slot]
		switch {
		case !asked:
			return broken("ask as a member of the contract's group: --as NAME", "node %s was not asked", node)
		case v.Err != nil:
			return broken(orElse(problem.Fix(v.Err), "see how it is: zos node show "+node), "node %s does not answer%s", node, silence(end.slot, v.Err))
		}
		at, ok := v.Network(d.network)
		if !ok || len(at.Keys) == 0 {
			return broken("wait a moment; if it stays so: zos node show "+node, "node %s has no device for network %s yet", node, d.network)
		}
		*end.at = at
	}
	if slotA == slotB {
		return good("both are on %s: their packets do not leave it, no key is needed", d.nameA)
	}
	if edges, err := network.EdgesOf(d.Plan, d.network); err == nil && !edges.Meet(slotA, slotB) {
		if unreached := d.unreached(); unreached.fix != "" {
			return unreached
		}
		return broken(d.publish(), "%s and %s do not know each other: one carries nothing but gateways, and none of their routes leads to the other", d.nameA, d.nameB)
	}
	for _, side := range []struct {
		self, other  string
		slot         canon.Hash // of the other
		mine, theirs protocol.Network
		peer         *protocol.NetworkPeer
	}{{d.nameA, d.nameB, slotB, d.atA, d.atB, &d.toB}, {d.nameB, d.nameA, slotA, d.atB, d.atA, &d.toA}} {
		peer, ok := peerOf(side.mine, side.slot)
		*side.peer = peer
		if fault := knows(side.self, side.other, peer, ok, side.theirs.Keys); fault.fix != "" {
			return fault
		}
	}
	quantum := "of an earlier run of the daemon"
	if d.toB.PSK != nil {
		quantum = "of " + span(d.toB.PSK) + " ago"
	}
	return good("each knows the other's: %s epoch %d, %s epoch %d; post-quantum key %s",
		d.nameA, newest(d.atA).Epoch, d.nameB, newest(d.atB).Epoch, quantum)
}

// silence is why a node does not answer, for behind just these words; nothing if all
// there is to say is that no answer came in time.
func silence(slot canon.Hash, err error) string {
	why := strings.TrimPrefix(err.Error(), "node "+slot.Short()+" does not answer: ")
	if problem.Code(err) == "node-silent" && errors.Is(err, context.DeadlineExceeded) && !strings.Contains(why, "last refused") {
		return ""
	}
	return ": " + why
}

func newest(n protocol.Network) protocol.NetworkKey { return n.Keys[len(n.Keys)-1] }

// maxPSKAge is past the time at which a node overwrites a key that it could not
// renew.
const maxPSKAge = 35 * time.Minute

// knows tells whether one node has a key that the other uses.
func knows(self, other string, peer protocol.NetworkPeer, ok bool, keys []protocol.NetworkKey) finding {
	why := ""
	if peer.Message != "" {
		why = ": " + peer.Message
	}
	const exchange = "keys are exchanged over the bus: check that both nodes reach it with zos node show"
	if peer.Code == "psk-expired" {
		return broken(exchange, "the post-quantum key of %s and %s could not be renewed and is void%s", self, other, why)
	}
	// A daemon that has just started again finds sessions in the kernel, and learns
	// their keys and ages a moment later.
	session := peer.State == protocol.PeerUp
	if session && peer.Epoch == 0 {
		return finding{}
	}
	if !ok || peer.Epoch == 0 {
		return broken(exchange, "%s has no key of %s yet%s", self, other, why)
	}
	used := slices.IndexFunc(keys, func(k protocol.NetworkKey) bool { return bytes.Equal(k.PublicKey, peer.PublicKey) })
	switch {
	case used < 0:
		return broken(exchange, "%s has a key of %s of epoch %d, and %s uses epoch %d%s", self, other, peer.Epoch, other, keys[len(keys)-1].Epoch, why)
	case keys[used].Epoch != peer.Epoch:
		return broken("report this: the two nodes disagree about one key", "%s takes the key of %s for epoch %d, and it is of epoch %d", self, other, peer.Epoch, keys[used].Epoch)
	case peer.PSK == nil && session:
		return finding{}
	case peer.PSK == nil:
		return broken(exchange, "%s and %s have not agreed a post-quantum key yet%s", self, other, why)
	case peer.PSK.Seconds > uint64(maxPSKAge/time.Second):
		return broken(exchange, "the post-quantum key of %s and %s is %s old, and none that old is used%s", self, other, span(peer.PSK), why)
	}
	return finding{}
}

// path: packets get through in both directions.
func (d *diagnosis) path() finding {
	if d.a.Workload.Slot == d.b.Workload.Slot {
		return good("both are on %s, behind one router", d.nameA)
	}
	for _, side := range []struct {
		self, other string
		peer        protocol.NetworkPeer
	}{{d.nameA, d.nameB, d.toB}, {d.nameB, d.nameA, d.toA}} {
		if side.peer.State == protocol.PeerUp && side.peer.Path != "" {
			continue
		}
		detail := fmt.Sprintf("%s has had no handshake with %s", side.self, side.other)
		if h := side.peer.Handshake; h != nil {
			detail += fmt.Sprintf(" for %s", span(h))
		}
		if side.peer.Path != "" {
			detail += ", path: " + side.peer.Path
		} else {
			detail += ", and no path to it: no relay on which both are"
		}
		if side.peer.Message != "" {
			detail += ": " + side.peer.Message
		}
		return finding{detail, fmt.Sprintf("check that both reach the rendezvous servers: zos node show %s, zos node show %s", d.nameA, d.nameB)}
	}
	return good("%s to %s: %s, handshake %s ago; back: %s", d.nameA, d.nameB, d.toB.Path, span(d.toB.Handshake), d.toA.Path)
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

func portOf(p Port) string {
	if p.Protocol == "" {
		return ""
	}
	return p.String()
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

// Summary says in a sentence what From reaches at To when all is well.
func (d Diagnosis) Summary() string {
	switch {
	case d.Port != Port{}.String():
		return fmt.Sprintf("Nothing keeps %s from %s of %s", d.From, d.Port, d.To)
	case d.Open:
		return fmt.Sprintf("%s reaches every port of %s", d.From, d.To)
	}
	return reaches(d.From, d.To, d.Reaches)
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

// resolver: the name is answered where it is asked.
func (d *diagnosis) resolver() finding {
	name := d.to + "." + resolver.Domain(d.network)
	addrs := resolver.ZoneOf(d.Plan, d.network).Lookup(name)
	if len(addrs) == 0 {
		return broken("report this: a valid plan has an address for every workload", "%s has no address in the plan", name)
	}
	if d.a.Workload.Kind == plan.KindGateway {
		return good("%s asks no resolver: the plan tells it the addresses", d.from)
	}
	if !d.atA.Resolver.OK {
		return broken(fmt.Sprintf("the node starts it again by itself; meanwhile use the address %s", addrs[0]),
			"the resolver on %s does not answer: %s", d.nameA, orElse(d.atA.Resolver.Detail, "no reason is given"))
	}
	texts := []string{}
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return good("%s is %s", name, strings.Join(texts, ", "))
}

// span shows an age for people.
func span(a *protocol.Age) string {
	if a == nil {
		return "an unknown time" // a node may say anything
	}
	return (time.Duration(min(a.Seconds, 1<<31)) * time.Second).String()
}

// endOf finds the workload that a person means by its name or by an alias of it.
func endOf(p *plan.Plan, contract, network, name string) (string, error) {
	names, aliased := []string{}, []string{}
	for _, w := range p.Workloads {
		if w.Kind == plan.KindNetwork {
			continue
		}
		if w.Name == name {
			return name, nil
		}
		names = append(names, w.Name)
		if slices.ContainsFunc(AttachmentsOf(w), func(a plan.Attachment) bool {
			return (network == "" || a.Network == network) && slices.Contains(a.Aliases, name)
		}) {
			aliased = append(aliased, w.Name)
		}
	}
	switch len(aliased) {
	case 0:
		return "", problem.New("workload-unknown", "contract %s has no workload %q", contract, name).
			WithFix("%s", suggest(name, names, "list them with: zos ps"))
	case 1:
		return aliased[0], nil
	}
	return "", problem.New("workload-unknown", "%q stands for %d workloads of contract %s", name, len(aliased), contract).
		WithFix("name one of: %s", strings.Join(aliased, ", "))
}

// Diagnose gathers the facts about two workloads of a contract, each named by its
// name or an alias, and explains whether they can talk. as names the key to ask with; empty: any that may.
func (c *Client) Diagnose(ctx context.Context, ref, from, to, network string, port Port, as string) (Diagnosis, error) {
	k, err := c.FindContract(ctx, ref)
	if err != nil {
		return Diagnosis{}, err
	}
	f := Facts{Standing: k.State == contract.ContractActive, Plan: &k.Plan, Workloads: map[string]Workload{}, Views: map[canon.Hash]View{}}
	if f.Names, err = c.Names(ctx); err != nil {
		return Diagnosis{}, err
	}
	f.Contract = f.Names.Of(k.Group) + "/" + k.Name
	rows, err := c.Workloads(ctx)
	if err != nil {
		return Diagnosis{}, err
	}
	for _, w := range rows {
		if w.ContractID == k.ID {
			f.Workloads[w.Name] = w
		}
	}
	if f.Standing { // the plan of a cancelled contract is empty
		for _, end := range []*string{&from, &to} {
			if *end, err = endOf(f.Plan, f.Contract, network, *end); err != nil {
				return Diagnosis{}, err
			}
		}
	}
	// What the ledger alone tells needs no key.
	if d := Diagnose(f, from, to, network, port); !d.Steps[0].OK {
		return d, nil
	}
	by, err := c.MemberSigner(ctx, k, as)
	if err != nil {
		return Diagnosis{}, err
	}
	f.Views = c.Views(ctx, k, f.Slots(from, to), by)
	return Diagnose(f, from, to, network, port), nil
}
