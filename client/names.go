package client

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec"
)

// minPrefix is how many hex digits of an id stand for it.
const minPrefix = 8

// suggest is the advice for a name that nothing has.
func suggest(name string, known []string, otherwise string) string {
	if near := spec.Nearest(name, known); len(near) > 0 {
		return fmt.Sprintf("did you mean %q?", near[0])
	}
	if len(known) > 0 && len(known) <= 8 {
		return "known: " + strings.Join(known, ", ")
	}
	return otherwise
}

// moreDigits mends a prefix of several ids.
const moreDigits = "write more digits"

// find resolves what a person wrote (a name, or at least 8 hex digits of an id)
// among named ids.
func find(kind, ref string, ids map[string]canon.Hash) (canon.Hash, error) {
	if id, ok := ids[ref]; ok {
		return id, nil
	}
	var found []canon.Hash
	if _, err := hex.DecodeString(ref[:len(ref)&^1]); err == nil && len(ref) >= minPrefix {
		for _, id := range ids {
			if strings.HasPrefix(id.String(), ref) {
				found = append(found, id)
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		names := make([]string, 0, len(ids))
		for n := range ids {
			names = append(names, n)
		}
		return canon.Hash{}, problem.New(kind+"-unknown", "no %s %q", kind, ref).
			WithFix("%s", suggest(ref, names, "list them with: zos "+plural(kind)))
	}
	return canon.Hash{}, problem.New(kind+"-unknown", "%d %ss begin with %s", len(found), kind, ref).WithFix(moreDigits)
}

// plural is the command that lists what a kind of name stands for.
func plural(kind string) string {
	if kind == "proposal" {
		return "proposals"
	}
	return kind + " ls"
}

// named reads all names of one kind from the ledger.
func (c *Client) named(ctx context.Context, prefix string) (map[string]canon.Hash, error) {
	records, err := List[contract.NameRecord](ctx, c, prefix)
	if err != nil {
		return nil, err
	}
	ids := make(map[string]canon.Hash, len(records))
	for _, r := range records {
		ids[r.Name] = r.Value.ID
	}
	return ids, nil
}

// AccountID resolves an account.
func (c *Client) AccountID(ctx context.Context, ref string) (canon.Hash, error) {
	return c.resolve(ctx, "account", contract.KeyAccountName(""), ref)
}

// GroupID resolves a group.
func (c *Client) GroupID(ctx context.Context, ref string) (canon.Hash, error) {
	return c.resolve(ctx, "group", contract.KeyGroupName(""), ref)
}

// FarmID resolves a farm.
func (c *Client) FarmID(ctx context.Context, ref string) (canon.Hash, error) {
	return c.resolve(ctx, "farm", contract.KeyFarmName(""), ref)
}

func (c *Client) resolve(ctx context.Context, kind, prefix, ref string) (canon.Hash, error) {
	// The name itself is one small proof, however many names the grid has.
	if contract.ValidName(ref) {
		rec, ok, err := Get[contract.NameRecord](ctx, c, prefix+ref)
		if err != nil || ok {
			return rec.ID, err
		}
	}
	ids, err := c.named(ctx, prefix)
	if err != nil {
		return canon.Hash{}, err
	}
	return find(kind, ref, ids)
}

// Names are the display names of accounts, groups, farms and slots by id.
type Names map[canon.Hash]string

// Of returns the name of an id, or its first digits.
func (n Names) Of(id canon.Hash) string {
	if name, ok := n[id]; ok {
		return name
	}
	return id.Short()
}

// Names reads the display names of everything.
func (c *Client) Names(ctx context.Context) (Names, error) {
	records, err := List[contract.NameRecord](ctx, c, "name/")
	if err != nil {
		return nil, err
	}
	names := Names{}
	for _, r := range records {
		kind, name, _ := strings.Cut(r.Name, "/")
		if kind == "slot" || kind == "contract" {
			_, name, _ = strings.Cut(name, "/")
		}
		if contract.ValidName(name) { // it is shown to people
			names[r.Value.ID] = name
		}
	}
	return names, nil
}

// Account reads an account's founding statement.
func (c *Client) Account(ctx context.Context, id canon.Hash) (contract.Account, error) {
	rec, ok, err := Get[contract.AccountRecord](ctx, c, contract.KeyAccount(id))
	if err != nil {
		return contract.Account{}, err
	}
	if !ok {
		return contract.Account{}, problem.New("account-unknown", "no account %s", id.Short())
	}
	a, got, _, err := contract.Open[contract.Account](rec.Signed, contract.KindAccount, c.Grid())
	if err == nil {
		err = sameID("account", got, id)
	}
	return a, err
}

// sameID refuses a founding statement that is not the one asked for: an id is
// its statement's hash, whatever a ledger shows under it.
func sameID(kind string, got, want canon.Hash) error {
	if got == want {
		return nil
	}
	return problem.New("record-mismatch", "the ledger shows another %s under the id %s", kind, want.Short()).
		WithFix("do not trust this ledger; its validators have been changed or collude")
}

// Group reads a group's founding statement and its epoch.
func (c *Client) Group(ctx context.Context, id canon.Hash) (contract.Group, uint64, error) {
	rec, ok, err := Get[contract.GroupRecord](ctx, c, contract.KeyGroup(id))
	if err != nil {
		return contract.Group{}, 0, err
	}
	if !ok {
		return contract.Group{}, 0, problem.New("group-unknown", "no group %s", id.Short())
	}
	g, got, _, err := contract.Open[contract.Group](rec.Signed, contract.KindGroup, c.Grid())
	if err == nil {
		err = sameID("group", got, id)
	}
	return g, rec.Epoch, err
}
