package client

import (
	"context"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// HostName is a label under the grid's domain and whose it is.
type HostName struct {
	Label string
	contract.HostNameRecord
}

// States of a HostName.
const (
	NameHeld   = "held"   // its group publishes under it
	NameEnded  = "ended"  // only its group can have it, by renewing it
	NameLapsed = "lapsed" // free for who reserves it
)

// State is the name's at a time, in Unix seconds.
func (n HostName) State(now uint64) string {
	switch {
	case now <= n.Until:
		return NameHeld
	case n.Kept(now):
		return NameEnded
	}
	return NameLapsed
}

// HostNames lists the names under the grid's domain, sorted by label.
func (c *Client) HostNames(ctx context.Context) ([]HostName, error) {
	records, err := List[contract.HostNameRecord](ctx, c, contract.KeyHostNamePrefix)
	if err != nil {
		return nil, err
	}
	out := make([]HostName, 0, len(records))
	for _, r := range records {
		out = append(out, HostName{r.Name, r.Value})
	}
	return out, nil
}

// HostName reads one name under the grid's domain. Code: "name-unreserved".
func (c *Client) HostName(ctx context.Context, label string) (HostName, error) {
	rec, ok, err := Get[contract.HostNameRecord](ctx, c, contract.KeyHostName(label))
	if err == nil && !ok {
		err = problem.New("name-unreserved", "nobody has reserved the name %.63q", label).WithFix("reserve it: zos name reserve LABEL")
	}
	return HostName{label, rec}, err
}

// NameProposal is what a group would do with a name.
type NameProposal struct {
	Group  canon.Hash
	Action string // contract.ActionReserve and so on
	Label  string
	To     canon.Hash    // of a transfer
	Span   time.Duration // of a reservation, from now; of a renewal, from its end
	Life   time.Duration // of the proposal; 0: ProposalLife
}

// ProposeName proposes an action on a name with the proposer's own approval and
// returns the proposal's id. Others approve it like any other.
func (c *Client) ProposeName(ctx context.Context, p NameProposal, by sign.Signer) (canon.Hash, error) {
	var standing contract.HostNameRecord
	n := plan.Name{V: plan.Version, Label: p.Label, To: p.To}
	now, err := c.blockTime(ctx)
	if err != nil {
		return canon.Hash{}, err
	}
	if p.Action == contract.ActionReserve {
		n.Until = uint64(now.Add(p.Span).Unix())
	} else {
		name, err := c.HostName(ctx, p.Label)
		if err != nil {
			return canon.Hash{}, err
		}
		standing, n.Until = name.HostNameRecord, name.Until
	}
	if p.Action == contract.ActionRenew {
		from := max(int64(standing.Until), now.Unix())
		most := now.Unix() + int64(contract.MaxNameLife)
		n.Until = uint64(min(from+int64(p.Span/time.Second), most))
	}
	_, epoch, err := c.Group(ctx, p.Group)
	if err != nil {
		return canon.Hash{}, err
	}
	a, err := contract.NewNameApproval(c.Grid(), p.Group, p.Action, n, standing, epoch, nonce(), 0)
	if err != nil {
		return canon.Hash{}, err
	}
	if _, err := a.ValidateName(); err != nil {
		return canon.Hash{}, err
	}
	return c.propose(ctx, a, p.Life, by)
}

// blockTime is the ledger's time, which judges what ends when.
func (c *Client) blockTime(ctx context.Context) (time.Time, error) {
	l, err := c.Ledger(ctx)
	if err != nil {
		return time.Time{}, err
	}
	head, err := l.Head(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return head.Time, nil
}

// NewZone begins the next statement of the grid's domain, signed by as many
// release keys as are given.
func (c *Client) NewZone(ctx context.Context, domain string, farms []canon.Hash, by ...sign.Signer) (contract.Signed, error) {
	rec, _, err := Get[contract.ZoneRecord](ctx, c, contract.KeyZone)
	if err != nil {
		return contract.Signed{}, err
	}
	return contract.Sign(ctx, contract.NewZone(c.Grid(), domain, rec.Sequence+1, farms...), contract.KindZone, by...)
}
