package contract

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// holdings are what a plan's gateways take of the world: which addresses they
// have alone, which they share and what of these, and which hosts. Each is sorted
// and there once. They follow from the plan alone, so a contract lets go of
// exactly what it took, whatever has become of pools meanwhile.
type holdings struct {
	leased []string
	shared []string
	ports  []portAt // of shared addresses
	hosts  []string
}

type portAt struct {
	address, proto string
	port           uint16
}

func (p portAt) key() string { return KeyPort(p.address, p.proto, p.port) }

func comparePorts(a, b portAt) int {
	return cmp.Or(strings.Compare(a.address, b.address), strings.Compare(a.proto, b.proto), cmp.Compare(a.port, b.port))
}

// gatewaysOf reads the gateways of a plan, with their slots.
func gatewaysOf(p plan.Plan) (slots []canon.Hash, gateways []plan.Gateway, err error) {
	for _, w := range p.Workloads {
		if w.Kind != plan.KindGateway {
			continue
		}
		g, err := plan.DecodeGateway(w.Config)
		if err != nil {
			return nil, nil, err
		}
		slots, gateways = append(slots, w.Slot), append(gateways, g)
	}
	return slots, gateways, nil
}

func holdingsOf(gateways []plan.Gateway) holdings {
	var h holdings
	for _, g := range gateways {
		if g.Leased {
			h.leased = append(h.leased, g.Addresses...)
		} else {
			h.shared = append(h.shared, g.Addresses...)
		}
		for _, r := range g.Routes {
			if r.Host != "" {
				h.hosts = append(h.hosts, r.Host)
				continue
			}
			for _, a := range g.Addresses {
				if !g.Leased {
					h.ports = append(h.ports, portAt{a, r.Mode, r.Port})
				}
			}
		}
	}
	for _, list := range []*[]string{&h.leased, &h.shared, &h.hosts} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	slices.SortFunc(h.ports, comparePorts)
	h.ports = slices.Compact(h.ports)
	return h
}

func (h holdings) size() int { return len(h.leased) + len(h.shared) + len(h.ports) + len(h.hosts) }

// offers tells whether a slot's pool has what a gateway takes: all its addresses,
// as they are shared or not, and the ports of shared ones. Codes: "no-pool",
// "address-not-offered", "port-not-offered".
func (p Pool) offers(g plan.Gateway) error {
	if !p.Live() {
		return problem.New("no-pool", "slot %s has no public addresses", p.Slot.Short()).
			WithFix("choose another node for the gateway, or ask the farm's owner: zos farm pool set")
	}
	for _, text := range g.Addresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return problem.New("address-not-offered", "%.80q is no address", text)
		}
		in, shared := p.Contains(a)
		switch {
		case !in:
			return problem.New("address-not-offered", "address %s is not in the pool of slot %s", a, p.Slot.Short()).WithFix("plan again")
		case g.Leased && shared:
			return problem.New("address-not-offered", "address %s of slot %s is shared by all: nobody can lease it", a, p.Slot.Short()).
				WithFix("ask for address: own, or for address: shared")
		case !g.Leased && !shared:
			return problem.New("address-not-offered", "address %s of slot %s is not shared: it can only be leased", a, p.Slot.Short()).
				WithFix("ask for address: own")
		}
	}
	if g.Leased {
		return nil
	}
	for _, r := range g.Routes {
		if r.Host == "" && !p.HasPort(r.Port) {
			return problem.New("port-not-offered", "port %d is none of those that slot %s has for shared addresses: %d to %d", r.Port, p.Slot.Short(), p.First, p.Last).
				WithFix("choose one of these, or let the planner choose, or lease an address of your own")
		}
	}
	return nil
}

// JudgeGateway decides whether a node serves a gateway at the addresses that its
// plan names, for those who trust no ledger with that. farm and farmKey are those
// of the node's own slot, pool is what the ledger says of it, and newest the
// highest sequence of a pool of this slot that the node has seen (0: none), so
// that an old one is not taken for the newest. It returns the pool. What others
// hold only the ledger can tell.
//
// Codes: those of OpenPool, "stale-sequence", "no-pool", "address-not-offered",
// "port-not-offered".
func JudgeGateway(grid, farm canon.Hash, farmKey []byte, slot canon.Hash, pool Signed, newest uint64, g plan.Gateway) (Pool, error) {
	p, err := OpenPool(pool, grid, farm, farmKey, slot)
	if err != nil {
		return Pool{}, err
	}
	if p.Sequence < newest {
		return Pool{}, problem.New("stale-sequence", "the pool of slot %s has sequence %d, this node has seen %d", slot.Short(), p.Sequence, newest)
	}
	if err := g.Validate(); err != nil {
		return Pool{}, err
	}
	return p, p.offers(g)
}

// leases is what a proposal would make of the records of addresses, ports and
// hosts, if accepted, sorted by key; without a value the record goes.
type leases []lease

type lease struct {
	key   string
	value any // LeaseRecord, HolderRecord or nil
}

// leases works out the records and refuses what is another contract's, what no
// pool offers, and what the group has no name for. What the standing version has
// counts as free. A cancellation is never refused here: it only frees.
func (l *ledger) leases(a Approval, p plan.Plan, now standing) (leases, error) {
	_, before, err := gatewaysOf(now.plan)
	if err != nil {
		return nil, err
	}
	where, after, err := gatewaysOf(p)
	if err != nil {
		return nil, err
	}
	for i, g := range after {
		pool, known, err := l.loadPool(where[i])
		if err != nil {
			return nil, err
		}
		if !known {
			pool.Slot = where[i]
		}
		if err := pool.offers(g); err != nil {
			return nil, err
		}
	}
	old, next := holdingsOf(before), holdingsOf(after)
	if n := next.size(); n > MaxLeases {
		return nil, problem.New("too-large", "the plan publishes %d addresses, ports and hosts, at most %d are allowed", n, MaxLeases).
			WithFix("split the deployment")
	}
	if both := overlapping(next.leased, next.shared); both != "" {
		return nil, problem.New("address-not-offered", "address %s is both leased and shared by the plan", both)
	}
	if err := l.ownHosts(a.Group, next.hosts); err != nil {
		return nil, err
	}
	var out leases
	addresses := slices.Concat(old.leased, old.shared, next.leased, next.shared)
	slices.Sort(addresses)
	for _, address := range slices.Compact(addresses) {
		one, err := l.address(now.id, address, old, next)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	ports := slices.Concat(old.ports, next.ports)
	slices.SortFunc(ports, comparePorts)
	for _, at := range slices.Compact(ports) {
		_, takes := slices.BinarySearchFunc(next.ports, at, comparePorts)
		one, err := l.hold(now.id, at.key(), takes, func(holder string) error {
			return problem.New("port-taken", "port %d/%s of %s is published by %s", at.port, at.proto, at.address, holder).
				WithFix("choose another port, or let the planner choose")
		})
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	hosts := slices.Concat(old.hosts, next.hosts)
	slices.Sort(hosts)
	for _, host := range slices.Compact(hosts) {
		_, takes := slices.BinarySearch(next.hosts, host)
		one, err := l.hold(now.id, KeyHost(host, a.Group), takes, func(holder string) error {
			return problem.New("host-taken", "host %s is published by %s", host, holder).WithFix("publish it in one deployment only")
		})
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// overlapping returns the first that both sorted lists have.
func overlapping(a, b []string) string {
	for _, s := range a {
		if _, found := slices.BinarySearch(b, s); found {
			return s
		}
	}
	return ""
}

// ownHosts refuses hosts under the grid's domain whose names the group does not
// hold. Hosts outside are left to DNS, which the ledger can't ask.
func (l *ledger) ownHosts(group canon.Hash, hosts []string) error {
	z, err := l.loadZone()
	if err != nil {
		return err
	}
	for _, host := range hosts {
		var rec HostNameRecord
		if label, _ := z.Label(host); label != "" {
			if rec, _, err = Load[HostNameRecord](l.st, KeyHostName(label)); err != nil {
				return err
			}
			if !rec.Group.IsZero() && rec.Group != group && rec.Kept(l.now) {
				return fmt.Errorf("host %s: %w", host, l.nameTaken(label, rec, group))
			}
			if rec.Group != group {
				rec = HostNameRecord{} // lapsed: free for who reserves it
			}
		}
		if _, err := JudgeHost(z, host, rec, group, l.now); err != nil {
			return err
		}
	}
	return nil
}

// address works out the record of one address, for a contract that goes from old
// to next.
func (l *ledger) address(contract canon.Hash, address string, old, next holdings) (lease, error) {
	key := KeyLease(address)
	rec, _, err := Load[LeaseRecord](l.st, key)
	if err != nil {
		return lease{}, err
	}
	has := func(list []string) bool { _, found := slices.BinarySearch(list, address); return found }
	damaged := func() (lease, error) {
		return lease{}, problem.New("state-damaged", "ledger record %s does not hold what its contract frees", key)
	}
	if has(old.leased) {
		if rec.Contract != contract {
			return damaged()
		}
		rec.Contract = canon.Hash{}
	}
	if has(old.shared) {
		if rec.Sharers == 0 {
			return damaged()
		}
		rec.Sharers--
	}
	leased, shared := has(next.leased), has(next.shared)
	switch {
	case (leased || shared) && !rec.Contract.IsZero():
		return lease{}, problem.New("address-taken", "address %s is leased by %s", address, l.holder(rec.Contract)).
			WithFix("choose another address, or let the planner choose")
	case leased && rec.Sharers > 0:
		return lease{}, problem.New("address-taken", "address %s was shared, and %d contracts still use it", address, rec.Sharers).
			WithFix("choose another address, or let the planner choose")
	case leased:
		rec.Contract = contract
	case shared:
		rec.Sharers++
	}
	if rec == (LeaseRecord{}) {
		return lease{key, nil}, nil
	}
	return lease{key, rec}, nil
}

// hold works out the record of a port or host that contract takes or lets go;
// taken says that another one has it.
func (l *ledger) hold(contract canon.Hash, key string, takes bool, taken func(holder string) error) (lease, error) {
	rec, known, err := Load[HolderRecord](l.st, key)
	if err != nil {
		return lease{}, err
	}
	if known && rec.Contract != contract {
		if !takes {
			return lease{}, problem.New("state-damaged", "ledger record %s is another contract's than the one that frees it", key)
		}
		return lease{}, taken(l.holder(rec.Contract))
	}
	if !takes {
		return lease{key, nil}, nil
	}
	return lease{key, HolderRecord{Contract: contract}}, nil
}

// holder names a contract for people: its group and name.
func (l *ledger) holder(contract canon.Hash) string {
	rec, ok, err := Load[ContractRecord](l.st, KeyContract(contract))
	if err != nil || !ok {
		return "contract " + contract.Short()
	}
	return l.groupName(rec.Group) + "/" + rec.Name
}

// let writes the records.
func (l *ledger) let(all leases) error {
	for _, one := range all {
		if one.value == nil {
			l.st.Delete(one.key)
		} else if err := store(l.st, one.key, one.value); err != nil {
			return err
		}
	}
	return nil
}
