package node

import (
	"context"
	"maps"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/ledger/wire"
	"github.com/zero-os/zos/problem"
)

// fullLister refuses to list one prefix, as a ledger does that has too much.
type fullLister struct {
	lister
	prefix string
}

func (l fullLister) List(ctx context.Context, prefix string) ([]light.KV, light.Head, error) {
	if prefix == l.prefix {
		return nil, light.Head{}, problem.New(wire.ProblemTooLarge, "that is more than one answer holds")
	}
	return l.lister.List(ctx, prefix)
}

func TestHostsAreThoseOfTheirLabelsHolders(t *testing.T) {
	g := newGrid(t)
	us, others := g.group, canon.Sum([]byte("others"))
	one, two, theirs := canon.Sum([]byte("one")), canon.Sum([]byte("two")), canon.Sum([]byte("theirs"))
	hold := func(host string, group, by canon.Hash) {
		b, err := canon.Marshal(contract.HolderRecord{Contract: by})
		if err != nil {
			t.Fatal(err)
		}
		g.book[contract.KeyHost(host, group)] = b
	}
	hold("shop."+gridDomain, us, one)
	hold("www.eu.shop."+gridDomain, us, two)
	hold("old."+gridDomain, us, one)         // not held any more
	hold("api.old."+gridDomain, us, one)     // nor what is below it
	hold("shop."+gridDomain, others, theirs) // held by somebody else now
	hold("x.shop."+gridDomain, others, theirs)
	hold("shop.example", us, one)
	hold("shop."+gridDomain+".example", us, one)
	hold("not"+gridDomain, us, one)
	held := map[string]canon.Hash{"shop": us, "idle": us}
	z := contract.Zone{Domain: gridDomain}
	l := lister{g.book, g.now}

	got, err := publishedHosts(t.Context(), l, z, held)
	want := map[string]canon.Hash{"shop." + gridDomain: one, "www.eu.shop." + gridDomain: two}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	// With more hosts than can be listed, the plan of whoever has the name itself
	// counts; there is none here.
	got, err = publishedHosts(t.Context(), fullLister{l, contract.KeyHostPrefix}, z, held)
	if err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}
