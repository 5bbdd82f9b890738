package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// DeviceKeyPath is where this machine's key for a network lies: below the
// configuration directory, by grid, contract, network and device.
func (c *Client) DeviceKeyPath(contractID canon.Hash, network, device string) string {
	return filepath.Join(c.config.Dir, "devices", c.Grid().String()[:16], contractID.String()[:16], network, device+".key")
}

// DeviceKey reads this machine's key for a network, or makes it at its first use.
// The file is its owner's alone; one that others could read is refused: code
// "key-invalid".
func (c *Client) DeviceKey(contractID canon.Hash, network, device string) (wireguard.Key, error) {
	path := c.DeviceKeyPath(contractID, network, device)
	key, err := readDeviceKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return key, fmt.Errorf("make the directory of device keys: %w", err)
	}
	key = wireguard.NewPrivateKey()
	// Two that begin at once must not end with two keys: the first file stays.
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return wireguard.Key{}, fmt.Errorf("save the device's key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(key.String() + "\n") // CreateTemp makes it 0600
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), path)
	}
	if errors.Is(err, fs.ErrExist) {
		return readDeviceKey(path)
	}
	if err != nil {
		return wireguard.Key{}, fmt.Errorf("save the device's key: %w", err)
	}
	return key, c.config.give(path)
}

func readDeviceKey(path string) (wireguard.Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return wireguard.Key{}, fmt.Errorf("read the device's key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 || info.Size() > 128 {
		return wireguard.Key{}, problem.New("key-invalid", "%s can be read by others, or is no key", path).
			WithFix("if nobody else could read it: chmod 600 %s; otherwise revoke the device and join as another", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return wireguard.Key{}, fmt.Errorf("read the device's key: %w", err)
	}
	key, err := wireguard.ParseKey(strings.TrimSpace(string(b)))
	if err != nil || key.IsZero() { // the error shows the key
		return wireguard.Key{}, problem.New("key-invalid", "%s is no WireGuard key", path).
			WithFix("remove the file, and join under another name")
	}
	return key, nil
}

// give makes what root made below a person's configuration directory that
// person's: under sudo it would be root's, and the next command could not read it.
func (c Config) give(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	owner, err := ownerOf(c.Dir)
	if err != nil {
		return err
	}
	for ; path != c.Dir && len(path) > len(c.Dir); path = filepath.Dir(path) {
		if err := os.Lchown(path, owner.uid, owner.gid); err != nil {
			return fmt.Errorf("give %s to the owner of %s: %w", path, c.Dir, err)
		}
	}
	return nil
}

// PlanChange makes an update of a standing contract out of its plan: edit returns
// the new one. If nothing changes, Planned.Bytes is nil.
func (c *Client) PlanChange(ctx context.Context, k Contract, edit func(plan.Plan) (plan.Plan, error)) (Planned, error) {
	p := Planned{Contract: k.ID, Version: k.Version + 1, Standing: &k.Plan}
	if k.State != contract.ContractActive {
		return p, problem.New("contract-cancelled", "contract %s is cancelled", k.Name).WithFix("deploy it again")
	}
	var err error
	if p.Group, p.Epoch, err = c.Group(ctx, k.Group); err != nil {
		return p, err
	}
	if p.Plan, err = edit(k.Plan); err != nil {
		return p, err
	}
	before, err := plan.Encode(k.Plan)
	if err != nil {
		return p, err
	}
	after, err := plan.Encode(p.Plan)
	if err != nil || slices.Equal(before, after) {
		return p, err
	}
	p.Bytes, p.Hash = after, canon.Sum(after)
	// What people are shown is decoded from the bytes that they sign.
	p.Plan, err = plan.Decode(after)
	return p, err
}

// OpenProposal finds what is proposed already for the next version of a contract
// and matches. Of several it is the one with the most approvals.
func (c *Client) OpenProposal(ctx context.Context, k Contract, match func(plan.Plan) bool) (Proposal, bool, error) {
	all, err := c.Proposals(ctx, false)
	if err != nil {
		return Proposal{}, false, err
	}
	var best Proposal
	found := false
	for _, p := range all {
		if p.Record.Contract != k.ID || p.Record.Action != contract.ActionUpdate || p.Record.Version != k.Version+1 || !match(p.Plan) {
			continue
		}
		if !found || p.Record.Weight > best.Record.Weight {
			best, found = p, true
		}
	}
	return best, found, nil
}

// NetworkOfMine finds a network by what a person wrote: NETWORK, DEPLOYMENT/NETWORK
// or GROUP/DEPLOYMENT/NETWORK; for a deployment with one network also
// GROUP/DEPLOYMENT. Without a group it is looked for in the groups of the keys at
// hand. Code "network-unknown", also if several are meant.
func (c *Client) NetworkOfMine(ctx context.Context, ref string) (Contract, plan.Network, error) {
	all, err := c.Networked(ctx)
	if err != nil {
		return Contract{}, plan.Network{}, err
	}
	names, err := c.Names(ctx)
	if err != nil {
		return Contract{}, plan.Network{}, err
	}
	mine := map[canon.Hash]bool{}
	for _, k := range all {
		if _, seen := mine[k.Group]; !seen {
			mine[k.Group] = c.isMember(ctx, k.Group)
		}
	}
	return findNetwork(ref, all, names, mine)
}

// isMember tells whether a key at hand is of a member of a group.
func (c *Client) isMember(ctx context.Context, group canon.Hash) bool {
	keys, err := c.MemberKeys(ctx, group)
	if err != nil {
		return false
	}
	_, err = c.keyAmong("", func(key sign.PublicKey) bool {
		return slices.ContainsFunc(keys, func(m sign.PublicKey) bool { return m.Equal(key) })
	})
	return err == nil
}

func findNetwork(ref string, all []Contract, names Names, mine map[canon.Hash]bool) (Contract, plan.Network, error) {
	type one struct {
		k Contract
		n plan.Network
	}
	var found []one
	var full, known []string
	parts := strings.Split(ref, "/")
	for _, k := range all {
		for _, n := range k.Plan.Networks {
			is := []string{names.Of(k.Group), k.Name, n.Name}
			suffix := len(parts) <= 3 && slices.Equal(parts, is[3-len(parts):])
			only := len(parts) == 2 && len(k.Plan.Networks) == 1 && slices.Equal(parts, is[:2])
			if mine[k.Group] {
				known = append(known, strings.Join(is, "/"))
			}
			if suffix && (mine[k.Group] || len(parts) == 3) || only && (mine[k.Group] || len(parts) == 2) {
				found, full = append(found, one{k, n}), append(full, strings.Join(is, "/"))
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0].k, found[0].n, nil
	case 0:
		return Contract{}, plan.Network{}, problem.New("network-unknown", "no network %q in the deployments of your groups", ref).
			WithFix("%s", suggestFull(ref, known, "list them with: zos net ls"))
	}
	return Contract{}, plan.Network{}, problem.New("network-unknown", "%d networks are named %s", len(found), ref).
		WithFix("say which: %s", strings.Join(full, " or "))
}

// suggestFull is suggest for names of which only the end may have been written.
func suggestFull(ref string, known []string, otherwise string) string {
	short := make([]string, len(known))
	by := map[string]string{}
	for i, k := range known {
		parts := strings.Split(k, "/")
		short[i] = strings.Join(parts[max(0, len(parts)-1-strings.Count(ref, "/")):], "/")
		by[short[i]] = k
	}
	s := suggest(ref, short, otherwise)
	for have, full := range by {
		if s == fmt.Sprintf("did you mean %q?", have) {
			return fmt.Sprintf("did you mean %q?", full)
		}
	}
	return s
}

// WhoMustApprove are the members of a proposal's group that have not approved it.
func (c *Client) WhoMustApprove(ctx context.Context, p Proposal) ([]canon.Hash, error) {
	g, _, err := c.Group(ctx, p.Record.Group)
	if err != nil {
		return nil, err
	}
	var out []canon.Hash
	for _, m := range g.Members {
		if !slices.Contains(p.Record.Approvers, m.Account) {
			out = append(out, m.Account)
		}
	}
	return out, nil
}
