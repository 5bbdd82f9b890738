package node

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/ledger/wire"
	"github.com/zero-os/zos/problem"
)

// smallLister answers with few records at a time, as a ledger does in the large.
type smallLister struct{ lister }

func (l smallLister) List(ctx context.Context, prefix string) ([]light.KV, light.Head, error) {
	all, head, err := l.lister.List(ctx, prefix)
	if len(all) > 50 {
		return nil, light.Head{}, problem.New(wire.ProblemTooLarge, "that is more than one answer holds")
	}
	return all, head, err
}

func TestManyReservedNamesKeepNoOtherFromBeingAnswered(t *testing.T) {
	us := canon.Sum([]byte("us"))
	b, err := canon.Marshal(contract.HostNameRecord{Group: us, Until: 100})
	if err != nil {
		t.Fatal(err)
	}
	l := smallLister{lister{book: book{}, now: 50}}
	want := map[string]bool{}
	// Labels of which one begins as another does, too.
	for i := range 600 {
		for _, label := range []string{fmt.Sprint("spam-", i), fmt.Sprint("a", i), strings.Repeat("z", i%60+1)} {
			l.book[contract.KeyHostName(label)] = b
			want[label] = true
		}
	}
	held, err := heldNames(t.Context(), l, 50)
	if err != nil {
		t.Fatal(err)
	}
	for label := range want {
		if held[label] != us {
			t.Fatalf("%s is not among the %d that are held", label, len(held))
		}
	}
	if len(held) != len(want) {
		t.Errorf("%d names, want %d", len(held), len(want))
	}
}

func TestListingEndsWithALedgerThatAlwaysHasMore(t *testing.T) {
	if _, err := listAll(t.Context(), endless{lister{book: book{}}}, "hostname/"); problem.Code(err) != wire.ProblemTooLarge {
		t.Errorf("%v", err)
	}
}

// endless never has few enough.
type endless struct{ lister }

func (endless) List(context.Context, string) ([]light.KV, light.Head, error) {
	return nil, light.Head{}, problem.New(wire.ProblemTooLarge, "that is more than one answer holds")
}
