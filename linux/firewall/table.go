package firewall

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/problem"
)

// Table is all of one nftables table.
type Table struct {
	Family nftables.TableFamily
	Name   string
	Sets   []Set
	Chains []Chain // those that others jump to may stand anywhere
}

// Chain is a chain and its rules. Without a Hook it is one to jump to.
type Chain struct {
	Name     string
	Hook     *nftables.ChainHook
	Type     nftables.ChainType
	Priority nftables.ChainPriority
	Policy   nftables.ChainPolicy
	Rules    []Rule
}

// Rule is one rule, made by When.
type Rule = []expr.Any

// Set is a set of keys or, with Verdicts, a map from keys to chains to jump to.
type Set struct {
	Name     string
	Key      nftables.SetDatatype
	Verdicts bool
	Elements []Element
}

// Element is a key in network byte order, and the chain for it in a map.
type Element struct {
	Key   []byte
	Chain string
}

// Namespace is a network namespace to speak of: an open descriptor; 0 means the
// calling thread's own.
type Namespace int

// bufferSize is what the kernel may queue at the socket: a transaction is sent as
// one message, and has one acknowledgement for each of its parts.
const bufferSize = 32 << 20

func (ns Namespace) conn() (*nftables.Conn, error) {
	opts := []nftables.ConnOption{nftables.WithSockOptions(func(c *mdl.Conn) error {
		return errors.Join(c.SetReadBuffer(bufferSize), c.SetWriteBuffer(bufferSize))
	})}
	if ns != 0 {
		opts = append(opts, nftables.WithNetNSFd(int(ns)))
	}
	return nftables.New(opts...)
}

// chunk is how many elements go into one message, whose length is 16 bits.
const chunk = 512

// Apply puts tables in force, in one transaction that replaces earlier ones of
// their names. It needs CAP_NET_ADMIN in the namespace. Errors have the code
// "firewall-failed"; after one, what stood before still stands.
func (ns Namespace) Apply(tables ...Table) error {
	if err := ns.apply(tables); err != nil {
		return problem.New("firewall-failed", "apply firewall: %w", err).
			WithFix("the kernel needs nf_tables and its modules (firewall.Modules), and the caller CAP_NET_ADMIN")
	}
	return nil
}

func (ns Namespace) apply(tables []Table) error {
	c, err := ns.conn()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if err := add(c, t); err != nil {
			return fmt.Errorf("table %s: %w", t.Name, err)
		}
	}
	return c.Flush()
}

func add(c *nftables.Conn, t Table) error {
	nt := &nftables.Table{Family: t.Family, Name: t.Name}
	// Adding a table that exists is no error, deleting one that doesn't is: so
	// add, delete, add.
	c.AddTable(nt)
	c.DelTable(nt)
	c.AddTable(nt)
	// First what rules and elements refer to.
	chains := make([]*nftables.Chain, len(t.Chains))
	for i, ch := range t.Chains {
		nc := &nftables.Chain{Name: ch.Name, Table: nt}
		if ch.Hook != nil {
			nc.Hooknum, nc.Type, nc.Priority, nc.Policy = ch.Hook, ch.Type, &ch.Priority, &ch.Policy
		}
		chains[i] = c.AddChain(nc)
	}
	for _, s := range t.Sets {
		if err := addSet(c, nt, s); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	for i, ch := range t.Chains {
		for _, r := range ch.Rules {
			c.AddRule(&nftables.Rule{Table: nt, Chain: chains[i], Exprs: r})
		}
	}
	return nil
}

func addSet(c *nftables.Conn, nt *nftables.Table, s Set) error {
	ns := &nftables.Set{Table: nt, Name: s.Name, KeyType: s.Key, IsMap: s.Verdicts, Concatenation: isConcat(s.Key)}
	if s.Verdicts {
		ns.DataType = nftables.TypeVerdict
	}
	if err := c.AddSet(ns, nil); err != nil {
		return err
	}
	for part := range slices.Chunk(s.Elements, chunk) {
		elements := make([]nftables.SetElement, len(part))
		for i, e := range part {
			elements[i].Key = e.Key
			if s.Verdicts {
				elements[i].VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: e.Chain}
			}
		}
		if err := c.SetAddElements(ns, elements); err != nil {
			return err
		}
	}
	return nil
}

func isConcat(t nftables.SetDatatype) bool { return bytes.Contains([]byte(t.Name), []byte(" . ")) }

// Verify reads tables back from the kernel and compares all of them. Errors
// have the codes "firewall-altered" (not, or not exactly, in force) and
// "firewall-failed" (it can't be read).
func (ns Namespace) Verify(tables ...Table) error {
	c, err := ns.conn()
	if err != nil {
		return problem.New("firewall-failed", "verify firewall: %w", err)
	}
	for _, t := range tables {
		found, err := read(c, t)
		if err != nil {
			return problem.New("firewall-failed", "verify firewall: table %s: %w", t.Name, err)
		}
		if err := compare(t, found); err != nil {
			return problem.New("firewall-altered", "verify firewall: table %s: %w", t.Name, err).WithFix("apply the firewall again")
		}
	}
	return nil
}

// inForce is a table as the kernel tells it.
type inForce struct {
	chains map[string]*nftables.Chain
	rules  map[string][]Rule
	sets   map[string]*nftables.Set
	elems  map[string][]nftables.SetElement
}

func read(c *nftables.Conn, t Table) (inForce, error) {
	f := inForce{map[string]*nftables.Chain{}, map[string][]Rule{}, map[string]*nftables.Set{}, map[string][]nftables.SetElement{}}
	chains, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return f, fmt.Errorf("list chains: %w", err)
	}
	nt := &nftables.Table{Family: t.Family, Name: t.Name}
	for _, ch := range chains {
		if ch.Table.Name != t.Name {
			continue
		}
		f.chains[ch.Name] = ch
		rules, err := c.GetRules(nt, ch)
		if err != nil {
			return f, fmt.Errorf("list rules of %s: %w", ch.Name, err)
		}
		for _, r := range rules {
			f.rules[ch.Name] = append(f.rules[ch.Name], r.Exprs)
		}
	}
	if len(f.chains) == 0 {
		return f, nil // of a table that isn't there sets can't be asked
	}
	sets, err := c.GetSets(nt)
	if err != nil {
		return f, fmt.Errorf("list sets: %w", err)
	}
	for _, s := range sets {
		f.sets[s.Name] = s
		if f.elems[s.Name], err = c.GetSetElements(s); err != nil {
			return f, fmt.Errorf("list elements of %s: %w", s.Name, err)
		}
	}
	return f, nil
}

func compare(want Table, found inForce) error {
	if len(found.chains) != len(want.Chains) {
		return fmt.Errorf("it has %d chains, want %d", len(found.chains), len(want.Chains))
	}
	for _, w := range want.Chains {
		if err := compareChain(w, found.chains[w.Name], found.rules[w.Name]); err != nil {
			return err
		}
	}
	if len(found.sets) != len(want.Sets) {
		return fmt.Errorf("it has %d sets, want %d", len(found.sets), len(want.Sets))
	}
	for _, w := range want.Sets {
		if err := compareSet(w, found.sets[w.Name], found.elems[w.Name]); err != nil {
			return err
		}
	}
	return nil
}

func compareChain(w Chain, ch *nftables.Chain, rules []Rule) error {
	switch {
	case ch == nil:
		return fmt.Errorf("chain %s is missing", w.Name)
	case w.Hook == nil && ch.Type != "":
		return fmt.Errorf("chain %s is at a hook", w.Name)
	case w.Hook == nil:
	case ch.Hooknum == nil || *ch.Hooknum != *w.Hook || ch.Type != w.Type:
		return fmt.Errorf("chain %s is not at its hook", w.Name)
	case ch.Policy == nil || *ch.Policy != w.Policy:
		return fmt.Errorf("chain %s has another policy", w.Name)
	case ch.Priority == nil || *ch.Priority != w.Priority:
		return fmt.Errorf("chain %s has another priority", w.Name)
	}
	if len(rules) != len(w.Rules) {
		return fmt.Errorf("chain %s has %d rules, want %d", w.Name, len(rules), len(w.Rules))
	}
	for i := range rules {
		if !reflect.DeepEqual(rules[i], w.Rules[i]) {
			return fmt.Errorf("rule %d of chain %s differs", i+1, w.Name)
		}
	}
	return nil
}

func compareSet(w Set, s *nftables.Set, elements []nftables.SetElement) error {
	// Of a map the library loses the type of the keys; the elements have them.
	if s == nil || s.IsMap != w.Verdicts || !w.Verdicts && s.KeyType.Bytes != w.Key.Bytes || s.Interval || s.HasTimeout {
		return fmt.Errorf("set %s is missing or another one", w.Name)
	}
	have := make([]Element, len(elements))
	for i, e := range elements {
		have[i].Key = e.Key
		if w.Verdicts {
			kind, chain, err := verdict(e.Val)
			if err != nil || kind != expr.VerdictJump {
				return fmt.Errorf("set %s has an element with another verdict", w.Name)
			}
			have[i].Chain = chain
		}
	}
	want := slices.Clone(w.Elements)
	for _, list := range [][]Element{have, want} {
		slices.SortFunc(list, func(a, b Element) int { return cmp.Or(bytes.Compare(a.Key, b.Key), cmp.Compare(a.Chain, b.Chain)) })
	}
	same := func(a, b Element) bool { return bytes.Equal(a.Key, b.Key) && a.Chain == b.Chain }
	if !slices.EqualFunc(have, want, same) {
		return fmt.Errorf("set %s has other elements", w.Name)
	}
	return nil
}

// verdict reads the attributes of a verdict, which the library leaves as bytes.
func verdict(b []byte) (kind expr.VerdictKind, chain string, err error) {
	ad, err := mdl.NewAttributeDecoder(b)
	if err != nil {
		return 0, "", err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			if v := ad.Bytes(); len(v) == 4 {
				kind = expr.VerdictKind(int32(uint32(v[0])<<24 | uint32(v[1])<<16 | uint32(v[2])<<8 | uint32(v[3])))
			}
		case unix.NFTA_VERDICT_CHAIN:
			chain = ad.String()
		}
	}
	return kind, chain, ad.Err()
}

// Remove takes tables away; those that aren't there are no error.
func (ns Namespace) Remove(tables ...Table) error {
	c, err := ns.conn()
	if err != nil {
		return fmt.Errorf("remove firewall: %w", err)
	}
	for _, t := range tables {
		nt := &nftables.Table{Family: t.Family, Name: t.Name}
		c.AddTable(nt)
		c.DelTable(nt)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove firewall: %w", err)
	}
	return nil
}
