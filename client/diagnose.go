package client

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/network/resolver"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

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
