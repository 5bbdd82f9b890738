package node

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/domain"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// maxParents is how many domains a host may be proven by: itself and those above
// it, of two labels at least.
const maxParents = 4

// claim is a host that a contract publishes and that is not under the grid's domain.
type claim struct {
	host string
	e    evidence
}

// ownDomains looks at the text records of domains that are not the grid's, again
// and again. It implements domains.
type ownDomains struct {
	grid  canon.Hash
	watch *domain.Watch
}

// newOwnDomains asks the name servers that the node itself asks. changed is called
// when a domain was found to be proven, or to be no longer.
func newOwnDomains(grid canon.Hash, resolver domain.Resolver, changed func()) *ownDomains {
	return &ownDomains{grid, domain.NewWatch(domain.WatchOptions{Resolver: resolver, Changed: func(domain.Statement, domain.State) { changed() }})}
}

// resolverOf asks name servers.
func resolverOf(servers []netip.AddrPort) domain.Resolver {
	var all []string
	for _, s := range servers {
		all = append(all, s.String())
	}
	return domain.NewClient(all...)
}

// Run implements domains.
func (o *ownDomains) Run(ctx context.Context) error { return o.watch.Run(ctx) }

// Watch implements domains.
func (o *ownDomains) Watch(all []claim) {
	var claims []domain.Claim
	seen := map[domain.Statement]bool{}
	for _, c := range all {
		group, keys, ok := membersOfGroup(o.grid, c.e)
		if !ok {
			continue
		}
		for _, d := range parents(c.host) {
			s := domain.Statement{Grid: o.grid, Group: c.e.Group.ID(), Domain: d}
			if !seen[s] {
				seen[s] = true
				claims = append(claims, domain.Claim{Statement: s, Members: group, Keys: keys})
			}
		}
	}
	o.watch.Set(claims)
}

// membersOfGroup opens a group and its members' keys, which the judge of the
// contract has verified.
func membersOfGroup(grid canon.Hash, e evidence) (contract.Group, map[canon.Hash]sign.PublicKey, bool) {
	g, _, _, err := contract.Open[contract.Group](e.Group, contract.KindGroup, grid)
	if err != nil {
		return g, nil, false
	}
	keys := map[canon.Hash]sign.PublicKey{}
	for _, m := range e.Members {
		a, id, _, err := contract.Open[contract.Account](m, contract.KindAccount, grid)
		if err != nil {
			return g, nil, false
		}
		keys[id] = sign.PublicKey(a.Key)
	}
	return g, keys, true
}

// parents are a host and the domains above it, the nearest first.
func parents(host string) []string {
	var out []string
	for d := host; strings.Contains(d, ".") && plan.ValidHost(d) && len(out) < maxParents; {
		out = append(out, d)
		_, d, _ = strings.Cut(d, ".")
	}
	return out
}

// Proven implements domains.
func (o *ownDomains) Proven(host string, group canon.Hash) error {
	var found domain.State
	for i, d := range parents(host) {
		s := o.watch.State(domain.Statement{Grid: o.grid, Group: group, Domain: d})
		if s.Proven {
			return nil
		}
		if i == 0 || s.Code == "domain-proof-invalid" {
			found = s
		}
	}
	switch {
	case found.Checked.Equal(time.Time{}):
		return problem.New("name-unchecked", "%s: its text record was not looked at yet", host)
	case found.Code != "":
		return problem.New(found.Code, "%s", found.Error)
	}
	return problem.New("domain-unproven", "%s: %s", host, found.Error).
		WithFix("put the text that the group's members signed into a TXT record of %s", domain.RecordName(host))
}
