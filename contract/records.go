package contract

import (
	"github.com/zero-os/zos/canon"
)

// What the ledger keeps. Every value is the canonical CBOR of one of these
// structs under the key that the Key… functions give. Records keep the signed
// statements themselves, so a reader can verify them again.

// GridRecord is at KeyGrid.
type GridRecord struct {
	ID      canon.Hash `cbor:"id"`
	Genesis []byte     `cbor:"genesis"` // canonical Genesis
}

// AccountRecord is at KeyAccount.
type AccountRecord struct {
	Signed Signed `cbor:"signed"` // Account
	Time   uint64 `cbor:"time"`   // block time of inclusion, Unix seconds; likewise below
}

// KeyRecord is at KeyKey: what a public key speaks for. One key speaks for one
// thing.
type KeyRecord struct {
	Kind  string     `cbor:"kind"`  // KindAccount or KindNode
	Owner canon.Hash `cbor:"owner"` // account or slot id
}

// NameRecord is at KeyName: who came first.
type NameRecord struct {
	ID canon.Hash `cbor:"id"`
}

// GroupRecord is at KeyGroup.
type GroupRecord struct {
	Signed Signed `cbor:"signed"` // Group
	Epoch  uint64 `cbor:"epoch"`  // 1 until groups can change
	Time   uint64 `cbor:"time"`
}

// PendingRecord is at KeyPending: the open proposals of a group, oldest first.
type PendingRecord struct {
	Proposals []Pending `cbor:"proposals"`
}

// Pending is an open proposal, as much of it as is needed to close it.
type Pending struct {
	Proposal canon.Hash `cbor:"proposal"`
	Opener   canon.Hash `cbor:"opener"`   // account that approved first
	Contract canon.Hash `cbor:"contract"` // zero for a deployment
	Name     string     `cbor:"name"`
	Expiry   uint64     `cbor:"expiry"`
}

// FarmRecord is at KeyFarm.
type FarmRecord struct {
	Signed Signed `cbor:"signed"` // Farm
	Time   uint64 `cbor:"time"`
}

// SlotRecord is at KeySlot.
type SlotRecord struct {
	Signed Signed `cbor:"signed"` // Slot
	Time   uint64 `cbor:"time"`
}

// DelegationRecord is at KeyDelegation, until a newer delegation of the same
// farm to the same key takes its place.
type DelegationRecord struct {
	Signed   Signed   `cbor:"signed"` // Delegation
	Admitted uint64   `cbor:"admitted"`
	Used     Capacity `cbor:"used"` // of the slots it admitted
	Time     uint64   `cbor:"time"`
}

// AgentRecord is at KeyAgent: the newest delegation of a farm to a key.
type AgentRecord struct {
	Delegation canon.Hash `cbor:"delegation"`
	Sequence   uint64     `cbor:"sequence"`
}

// ConsentRecord is at KeyConsent: the newest consent of a farm to a group.
type ConsentRecord struct {
	Signed Signed `cbor:"signed"` // Consent
	Time   uint64 `cbor:"time"`
}

// BoundRecord is at KeyBound: the keys that speak for a slot now.
type BoundRecord struct {
	Signed Signed `cbor:"signed"` // Node
	// Delegation is the signed statement under which a delegate signed; without
	// statement bytes if the farm signed itself.
	Delegation Signed `cbor:"delegation"`
	Epoch      uint64 `cbor:"epoch"`
	Time       uint64 `cbor:"time"`
}

// SequenceRecord is at KeySequence: the last receipt of a slot.
type SequenceRecord struct {
	Epoch    uint64 `cbor:"epoch"`
	Sequence uint64 `cbor:"sequence"`
}

// States of a proposal. One whose Expiry is past is expired although its
// record may still say open.
const (
	ProposalOpen     = "open"
	ProposalAccepted = "accepted"
	ProposalStale    = "stale" // another proposal for the same version or name won
)

// ProposalRecord is at KeyProposal.
type ProposalRecord struct {
	// Signed holds the Approval with the signatures so far while the proposal is
	// open. Afterwards it is empty: the contract keeps what was accepted.
	Signed    Signed       `cbor:"signed"`
	Approvers []canon.Hash `cbor:"approvers"` // accounts, in the order of approval
	Weight    uint64       `cbor:"weight"`    // of the approvers
	Threshold uint64       `cbor:"threshold"`
	State     string       `cbor:"state"`
	Group     canon.Hash   `cbor:"group"`
	Action    string       `cbor:"action"`
	Contract  canon.Hash   `cbor:"contract"` // its id; for a deploy equal to the proposal's
	Name      string       `cbor:"name"`
	Version   uint64       `cbor:"version"`
	Expiry    uint64       `cbor:"expiry"`
	Time      uint64       `cbor:"time"`    // opened
	Decided   uint64       `cbor:"decided"` // accepted or stale; 0 while open
}

// States of a contract.
const (
	ContractActive    = "active"
	ContractCancelled = "cancelled"
)

// ContractRecord is at KeyContract.
type ContractRecord struct {
	Group   canon.Hash `cbor:"group"`
	Name    string     `cbor:"name"`
	Version uint64     `cbor:"version"` // of the newest entry of History
	State   string     `cbor:"state"`
	Plan    canon.Hash `cbor:"plan"` // hash of the newest plan
	// History is the accepted approvals in order of version, with the signatures
	// that met the threshold: always the first one and the newest; between them
	// the oldest are dropped when they exceed MaxHistory bytes.
	History []Signed `cbor:"history"`
	Created uint64   `cbor:"created"`
	Changed uint64   `cbor:"changed"`
}

// RunRecord is at KeyRun: a contract that has workloads on a slot.
type RunRecord struct {
	Version uint64     `cbor:"version"`
	Plan    canon.Hash `cbor:"plan"` // plan hash
}

// RunEntry is a RunRecord with its contract.
type RunEntry struct {
	Contract canon.Hash `cbor:"contract"`
	Version  uint64     `cbor:"version"`
	Plan     canon.Hash `cbor:"plan"`
}

// RunsRecord is at KeyRuns: all contracts of a slot, sorted by contract. It is
// what the root of a NodeRecord is made of.
type RunsRecord struct {
	Entries []RunEntry `cbor:"entries"`
}

// NodeRecord is at KeyNode: all that a node must prove to know everything that
// it has to run.
type NodeRecord struct {
	Count   uint64     `cbor:"count"`   // contracts on the slot
	Version uint64     `cbor:"version"` // rises with every change
	Root    canon.Hash `cbor:"root"`    // Root of the slot's entries
}

// UsedRecord is at KeyUsed and KeyUsedBy: capacity that active contracts hold.
type UsedRecord struct {
	Capacity Capacity `cbor:"capacity"`
}

// ReceiptRecord is at KeyReceipt: the latest word on a workload.
type ReceiptRecord struct {
	Signed Signed `cbor:"signed"` // Receipt
	Time   uint64 `cbor:"time"`
}

// FeaturesRecord is at KeyFeatures: what the slot's node said last that it can do.
type FeaturesRecord struct {
	Signed Signed `cbor:"signed"` // Features
	Time   uint64 `cbor:"time"`
}

// ReleaseRecord is at KeyReleaseFloor: the newest release on the ledger.
type ReleaseRecord struct {
	Signed   Signed `cbor:"signed"` // Release
	Sequence uint64 `cbor:"sequence"`
	Time     uint64 `cbor:"time"`
}

// PoolRecord is at KeyPool: the newest pool of a slot. One whose pool has no
// ranges says that the slot has no public addresses any more.
type PoolRecord struct {
	Signed Signed `cbor:"signed"` // Pool
	Time   uint64 `cbor:"time"`
}

// SegmentRecord is at KeySegment: the ranges of all live pools in one segment,
// sorted by their first address and disjoint, so that an address is in one pool.
type SegmentRecord struct {
	Ranges []SegmentRange `cbor:"ranges"`
}

// SegmentRange is one range of a slot's pool.
type SegmentRange struct {
	First []byte     `cbor:"first"` // 4 or 16 bytes
	Last  []byte     `cbor:"last"`  // inclusive
	Slot  canon.Hash `cbor:"slot"`
}

// ZoneRecord is at KeyZone: the grid's domain.
type ZoneRecord struct {
	Signed   Signed `cbor:"signed"` // Zone
	Sequence uint64 `cbor:"sequence"`
	Time     uint64 `cbor:"time"`
}

// HostNameRecord is at KeyHostName: whose a label under the grid's domain is. It
// stays when the reservation has ended, until it is released, or another group
// reserves it or a look-alike of it.
type HostNameRecord struct {
	ID       canon.Hash `cbor:"id"`       // of the reservation: hash of the approval that began it
	Group    canon.Hash `cbor:"group"`    // whose it is
	Until    uint64     `cbor:"until"`    // block time to which it is held, inclusive; Unix seconds
	Version  uint64     `cbor:"version"`  // 1, and one more with each renewal and transfer
	Skeleton string     `cbor:"skeleton"` // Skeleton of the label
	Counts   canon.Hash `cbor:"counts"`   // in which group's HostNamesRecord it counts: who last reserved or renewed it
	Signed   Signed     `cbor:"signed"`   // Approval that made it so, with the signatures of a quorum
	Time     uint64     `cbor:"time"`
}

// HostNamesRecord is at KeyHostNames: how many names count for a group, at most
// MaxHostNames.
type HostNamesRecord struct {
	Count uint64 `cbor:"count"`
}

// LookalikeRecord is at KeyLookalike: the labels that have one skeleton, sorted.
// Those that are held are one group's.
type LookalikeRecord struct {
	Labels []string `cbor:"labels"`
}

// LeaseRecord is at KeyLease while contracts use a public address.
type LeaseRecord struct {
	Contract canon.Hash `cbor:"contract"` // that has it alone; zero: it is shared
	Sharers  uint64     `cbor:"sharers"`  // contracts that share it
}

// HolderRecord is at KeyPort and KeyHost: the contract that has a port of a
// shared address, or that publishes a host name.
type HolderRecord struct {
	Contract canon.Hash `cbor:"contract"`
}

// ChallengeRecord is at KeyChallenge until its challenge is taken back, or the slot
// has another one after it has expired.
type ChallengeRecord struct {
	Signed Signed `cbor:"signed"` // Challenge
	Time   uint64 `cbor:"time"`
}

// ChallengesRecord is at KeyChallenges: the last challenge of a slot, and those that
// have a ChallengeRecord, sorted by host.
type ChallengesRecord struct {
	Epoch    uint64          `cbor:"epoch"`
	Sequence uint64          `cbor:"sequence"`
	Open     []OpenChallenge `cbor:"open"`
}

// OpenChallenge is a challenge of a slot.
type OpenChallenge struct {
	Host     string     `cbor:"host"`
	Contract canon.Hash `cbor:"contract"`
	Expiry   uint64     `cbor:"expiry"`
}

// Root returns the digest over the entries of a slot, which must be sorted by
// contract, as the ledger keeps it in the slot's NodeRecord.
func Root(entries []RunEntry) (canon.Hash, error) {
	b, err := canon.Marshal(RunsRecord{Entries: entries})
	if err != nil {
		return canon.Hash{}, err
	}
	return canon.Sum(b), nil
}
