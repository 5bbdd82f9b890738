package contract

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// Builders of statements. They fill in the header and bring lists into the
// order that the rules demand; what they return is unsigned and unchecked.

// NewNonce returns NonceSize random bytes. It is the one impure function of
// this package, and no rule calls it.
func NewNonce() []byte {
	n := make([]byte, NonceSize)
	rand.Read(n) // never fails (crypto/rand)
	return n
}

func header(grid canon.Hash, kind string) Header {
	return Header{V: Version, Kind: kind, Grid: grid}
}

// NewAccount makes the statement that founds an account.
func NewAccount(grid canon.Hash, name string, key sign.PublicKey) Account {
	return Account{Header: header(grid, KindAccount), Name: name, Key: key}
}

// NewGroup makes the statement that founds a group.
func NewGroup(grid canon.Hash, name string, founder canon.Hash, threshold uint64, nonce []byte, members ...Member) Group {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Member) int { return bytes.Compare(a.Account[:], b.Account[:]) })
	return Group{Header: header(grid, KindGroup), Name: name, Founder: founder, Members: members, Threshold: threshold, Nonce: nonce}
}

// NewFarm makes the statement that founds a farm.
func NewFarm(grid canon.Hash, name string, key sign.PublicKey) Farm {
	return Farm{Header: header(grid, KindFarm), Name: name, Key: key}
}

// NewSlot makes the statement that founds a slot of a farm.
func NewSlot(grid, farm canon.Hash, name, hint, identity string, disks []string, c Capacity) Slot {
	disks = slices.Sorted(slices.Values(disks))
	return Slot{Header: header(grid, KindSlot), Farm: farm, Name: name, Hint: hint, Disks: disks, Identity: identity, Capacity: c}
}

// NewDelegation makes a farm's delegation to an agent's key. No slots means
// every slot of the farm, count 0 no further bound on their number, a zero
// capacity none on their sum.
func NewDelegation(grid, farm canon.Hash, key sign.PublicKey, actions []string, slots []canon.Hash, count uint64, c Capacity, sequence, expiry uint64) Delegation {
	slots = slices.Clone(slots)
	slices.SortFunc(slots, func(a, b canon.Hash) int { return bytes.Compare(a[:], b[:]) })
	return Delegation{
		Header: header(grid, KindDelegation), Farm: farm, Key: key, Actions: slices.Sorted(slices.Values(actions)),
		Slots: slots, Count: count, Capacity: c, Sequence: sequence, Expiry: expiry,
	}
}

// NewConsent makes a farm's consent to a group.
func NewConsent(grid, farm, group canon.Hash, c Capacity, sequence, expiry uint64) Consent {
	return Consent{Header: header(grid, KindConsent), Farm: farm, Group: group, Capacity: c, Sequence: sequence, Expiry: expiry}
}

// NewNode makes the statement that binds keys to a slot. A zero delegation
// means that the farm itself signs.
func NewNode(grid, slot canon.Hash, epoch uint64, signing sign.PublicKey, sealing []byte, delegation canon.Hash, bootNonce []byte, expiry uint64) Node {
	return Node{
		Header: header(grid, KindNode), Slot: slot, Epoch: epoch, SigningKey: signing, SealingKey: sealing,
		Delegation: delegation, BootNonce: bootNonce, Expiry: expiry,
	}
}

// NewDeploy makes the approval that founds a contract. encoded is what
// plan.Encode gave for p.
func NewDeploy(grid canon.Hash, p plan.Plan, encoded []byte, groupEpoch uint64, nonce []byte, expiry uint64) Approval {
	return Approval{
		Header: header(grid, KindApproval), Group: p.Group, GroupEpoch: groupEpoch, Class: ClassWorkload,
		Action: ActionDeploy, Name: p.Name, Version: 1, Plan: encoded, Nonce: nonce, Expiry: expiry,
	}
}

// NewUpdate makes the approval of a contract's next version; current is its
// version now.
func NewUpdate(grid, contract canon.Hash, current uint64, p plan.Plan, encoded []byte, groupEpoch uint64, nonce []byte, expiry uint64) Approval {
	a := NewDeploy(grid, p, encoded, groupEpoch, nonce, expiry)
	a.Action, a.Contract, a.Version = ActionUpdate, contract, current+1
	return a
}

// NewCancel makes the approval that ends a contract, named name, of a group;
// current is its version now.
func NewCancel(grid, contract, group canon.Hash, name string, current, groupEpoch uint64, nonce []byte, expiry uint64) (Approval, error) {
	p := plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: group, Name: name}
	encoded, err := plan.Encode(p)
	if err != nil {
		return Approval{}, err
	}
	a := NewUpdate(grid, contract, current, p, encoded, groupEpoch, nonce, expiry)
	a.Action = ActionCancel
	return a, nil
}

// NewReceipt makes a node's word on a workload: the caller's r with a header,
// and with what can't be printed taken out of its detail.
func NewReceipt(grid canon.Hash, r Receipt) Receipt {
	r.Header, r.Detail = header(grid, KindReceipt), plain(r.Detail)
	return r
}

// NewFeatures makes a node's word on what it can do: the caller's f with a header,
// its classes in order, and with what can't be printed taken out of its detail.
func NewFeatures(grid canon.Hash, f Features) Features {
	f.Header, f.Detail = header(grid, KindFeatures), plain(f.Detail)
	f.Isolation = slices.Sorted(slices.Values(f.Isolation))
	return f
}

// plain makes any text a detail.
func plain(text string) string {
	detail := []byte(text)
	for i, c := range detail {
		if c < 0x20 || c > 0x7e {
			detail[i] = '?'
		}
	}
	return string(detail[:min(len(detail), MaxDetail)])
}

// NewRelease makes the statement of an OS release.
func NewRelease(grid canon.Hash, sequence uint64, name string, os canon.Hash, expiry uint64, c Checkpoint) Release {
	return Release{Header: header(grid, KindRelease), Sequence: sequence, Name: name, OS: os, Expiry: expiry, Checkpoint: c}
}

// NewTag makes the statement that names an image.
func NewTag(grid, publisher canon.Hash, name, tag string, digest canon.Hash, sequence, expiry uint64) Tag {
	return Tag{Header: header(grid, KindTag), Publisher: publisher, Name: name, Tag: tag, Digest: digest, Sequence: sequence, Expiry: expiry}
}

// NewPool makes the statement that gives a slot public addresses, or without
// ranges takes them back. The caller's p is brought into order and gets a header.
func NewPool(grid canon.Hash, p Pool) Pool {
	p.Header = header(grid, KindPool)
	p.Ranges = slices.Clone(p.Ranges)
	slices.SortFunc(p.Ranges, func(a, b Range) int {
		x, _ := netip.ParsePrefix(a.Prefix)
		y, _ := netip.ParsePrefix(b.Prefix)
		return x.Addr().Compare(y.Addr())
	})
	p.Shared = slices.Sorted(slices.Values(p.Shared))
	return p
}

// NewZone makes the statement of the grid's domain, for which gateways of the farms
// answer.
func NewZone(grid canon.Hash, domain string, sequence uint64, farms ...canon.Hash) Zone {
	farms = append([]canon.Hash{}, farms...)
	slices.SortFunc(farms, func(a, b canon.Hash) int { return bytes.Compare(a[:], b[:]) })
	return Zone{Header: header(grid, KindZone), Domain: domain, Farms: slices.Compact(farms), Sequence: sequence}
}

// NewChallenge makes the answer to an authority's challenge: the caller's c with a
// header.
func NewChallenge(grid canon.Hash, c Challenge) Challenge {
	c.Header = header(grid, KindChallenge)
	return c
}

// NewNameApproval makes the approval of an action on a name. now is the name's
// record, a zero one to reserve it.
func NewNameApproval(grid, group canon.Hash, action string, n plan.Name, now HostNameRecord, groupEpoch uint64, nonce []byte, expiry uint64) (Approval, error) {
	encoded, err := plan.EncodeName(n)
	if err != nil {
		return Approval{}, err
	}
	return Approval{
		Header: header(grid, KindApproval), Group: group, GroupEpoch: groupEpoch, Class: ClassName, Action: action,
		Contract: now.ID, Name: n.Label, Version: now.Version + 1, Plan: encoded, Nonce: nonce, Expiry: expiry,
	}, nil
}
