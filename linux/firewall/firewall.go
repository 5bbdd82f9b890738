package firewall

import (
	"fmt"
	"reflect"

	"github.com/google/nftables"

	"github.com/zero-os/zos/problem"
)

// Modules returns the kernel modules that the rules need, in load order, for a
// kernel that has them as modules and no modprobe helper (Debian's 6.12). Those
// that are built in need not be there.
func Modules() []string {
	return []string{
		"libcrc32c", "nfnetlink", "nf_tables",
		"nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "nft_ct",
	}
}

// Host is the network namespace to guard.
type Host struct {
	// NetNS is an open file descriptor of the namespace; 0 means the caller's own.
	NetNS int
}

func (h Host) conn() (*nftables.Conn, error) {
	var opts []nftables.ConnOption
	if h.NetNS != 0 {
		opts = append(opts, nftables.WithNetNSFd(h.NetNS))
	}
	return nftables.New(opts...)
}

// Apply puts the table in force, in one transaction that replaces an earlier one.
// It needs CAP_NET_ADMIN in the namespace. Errors have the code
// "firewall-failed"; after one, what stood before still stands.
func (h Host) Apply() error {
	c, err := h.conn()
	if err != nil {
		return problem.New("firewall-failed", "apply firewall: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
	// Adding a table that exists is no error, deleting one that doesn't is: so
	// add, delete, add.
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	for _, ch := range ruleset() {
		nc := c.AddChain(&nftables.Chain{
			Name: ch.name, Table: t, Type: nftables.ChainTypeFilter,
			Hooknum: ch.hook, Priority: nftables.ChainPriorityFilter, Policy: &ch.policy,
		})
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: nc, Exprs: r})
		}
	}
	if err := c.Flush(); err != nil {
		return problem.New("firewall-failed", "apply firewall: %w", err).
			WithFix("the kernel needs nf_tables and nft_ct, and the caller CAP_NET_ADMIN")
	}
	return nil
}

// Verify reads the table back from the kernel and compares all of it. Errors
// have the codes "firewall-altered" (it is not, or not exactly, in force) and
// "firewall-failed" (it can't be read).
func (h Host) Verify() error {
	c, err := h.conn()
	if err != nil {
		return problem.New("firewall-failed", "verify firewall: %w", err)
	}
	altered := func(format string, args ...any) error {
		return problem.New("firewall-altered", "verify firewall: "+format, args...).WithFix("apply the firewall again")
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return problem.New("firewall-failed", "verify firewall: list chains: %w", err)
	}
	found := map[string]*nftables.Chain{}
	for _, ch := range chains {
		if ch.Table.Name == TableName {
			found[ch.Name] = ch
		}
	}
	want := ruleset()
	if len(found) != len(want) {
		return altered("table %s has %d chains, want %d", TableName, len(found), len(want))
	}
	for _, w := range want {
		ch := found[w.name]
		switch {
		case ch == nil:
			return altered("chain %s is missing", w.name)
		case ch.Hooknum == nil || *ch.Hooknum != *w.hook || ch.Type != nftables.ChainTypeFilter:
			return altered("chain %s is not at its hook", w.name)
		case ch.Policy == nil || *ch.Policy != w.policy:
			return altered("chain %s has another policy", w.name)
		case ch.Priority == nil || *ch.Priority != *nftables.ChainPriorityFilter:
			return altered("chain %s has another priority", w.name)
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return problem.New("firewall-failed", "verify firewall: list rules of %s: %w", w.name, err)
		}
		if len(rules) != len(w.rules) {
			return altered("chain %s has %d rules, want %d", w.name, len(rules), len(w.rules))
		}
		for i, r := range rules {
			if !reflect.DeepEqual(r.Exprs, w.rules[i]) {
				return altered("rule %d of chain %s differs", i+1, w.name)
			}
		}
	}
	return nil
}

// Remove takes the table away; for tests. Without one it does nothing.
func (h Host) Remove() error {
	c, err := h.conn()
	if err != nil {
		return fmt.Errorf("remove firewall: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
	c.AddTable(t)
	c.DelTable(t)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove firewall: %w", err)
	}
	return nil
}
