// Package contract is the rules of a grid: who may decide what, and what follows.
//
// It is pure: no I/O, no clock, no engine. The ledger replicates it; every node
// applies the same judgement again to what the ledger hands it.
package contract

import (
	"github.com/zero-os/zos/canon"
)

// Version is the format version of every statement in this package.
const Version = 1

// The kinds of statement. A statement carries its kind, and its signatures use
// the kind as their SSHSIG namespace, so no signature can serve two purposes.
const (
	KindAccount    = "zos-account-v1"
	KindGroup      = "zos-group-v1"
	KindFarm       = "zos-farm-v1"
	KindSlot       = "zos-slot-v1"
	KindDelegation = "zos-delegation-v1"
	KindConsent    = "zos-consent-v1"
	KindNode       = "zos-node-v1"
	KindApproval   = "zos-approval-v1"
	KindReceipt    = "zos-receipt-v1"
	KindRelease    = "zos-release-v1"
	KindTag        = "zos-tag-v1"
	KindRequest    = "zos-request-v1"
	KindReply      = "zos-reply-v1"
	KindHeartbeat  = "zos-heartbeat-v1"
	KindPool       = "zos-pool-v1"
	KindZone       = "zos-zone-v1"
	KindChallenge  = "zos-challenge-v1"
	KindFeatures   = "zos-features-v1"
)

// Header begins every statement. Embedding it in a struct inlines its fields.
type Header struct {
	V    uint64     `cbor:"v"`    // Version
	Kind string     `cbor:"kind"` // one of the kinds above
	Grid canon.Hash `cbor:"grid"` // id of the grid: hash of its Genesis
}

// Genesis founds a grid; the hash of its bytes is the grid's id. It is the one
// statement without a grid id and without a signature.
type Genesis struct {
	V          uint64      `cbor:"v"`
	Kind       string      `cbor:"kind"` // "zos-genesis-v1"
	Name       string      `cbor:"name"`
	Created    uint64      `cbor:"created"` // Unix seconds
	Nonce      []byte      `cbor:"nonce"`   // 16 random bytes
	Validators []Validator `cbor:"validators"`
	// Release keys, SSH wire format; Threshold of them sign a release.
	ReleaseKeys      [][]byte `cbor:"release_keys"`
	ReleaseThreshold uint64   `cbor:"release_threshold"`
}

// Validator is a founding member of the ledger's quorum.
type Validator struct {
	Name  string `cbor:"name"`
	Key   []byte `cbor:"key"` // raw ed25519 public key, 32 bytes
	Power uint64 `cbor:"power"`
}

// Account is a person or an agent: a name and the key that speaks for it. The
// hash of the statement is the account's id; it is signed by its own key.
type Account struct {
	Header
	Name string `cbor:"name"`
	Key  []byte `cbor:"key"` // SSH wire format, ed25519 or sk-ssh-ed25519
}

// Group is a set of accounts that decides together. The hash of the founding
// statement is its id; it is signed by its founder.
type Group struct {
	Header
	Name      string     `cbor:"name"`
	Founder   canon.Hash `cbor:"founder"` // account id
	Members   []Member   `cbor:"members"` // sorted by account, unique
	Threshold uint64     `cbor:"threshold"`
	Nonce     []byte     `cbor:"nonce"` // 16 random bytes
}

// Member is an account in a group and the weight of its approval, at least 1.
type Member struct {
	Account canon.Hash `cbor:"account"`
	Weight  uint64     `cbor:"weight"`
}

// Farm is an owner of hardware. The statement is signed by Key.
type Farm struct {
	Header
	Name string `cbor:"name"`
	Key  []byte `cbor:"key"` // SSH wire format
}

// Slot is a node's place in a farm, signed by the farm. Its hash is its id.
type Slot struct {
	Header
	Farm     canon.Hash `cbor:"farm"`
	Name     string     `cbor:"name"`
	Hint     string     `cbor:"hint"`     // "mac:52:54:00:…" or "smbios:<uuid>"
	Disks    []string   `cbor:"disks"`    // serials that may be formatted, sorted
	Identity string     `cbor:"identity"` // "disk", "tpm" or "none": where its keys live
	Capacity Capacity   `cbor:"capacity"`
}

// Capacity is what a slot offers to contracts.
type Capacity struct {
	CPU    uint64 `cbor:"cpu"`    // thousandths of a core
	Memory uint64 `cbor:"memory"` // bytes
	Disk   uint64 `cbor:"disk"`   // bytes
}

// Delegation lets a farm agent's key act for the farm, within bounds.
type Delegation struct {
	Header
	Farm     canon.Hash   `cbor:"farm"`
	Key      []byte       `cbor:"key"`      // SSH wire format
	Actions  []string     `cbor:"actions"`  // "admit", "rekey"
	Slots    []canon.Hash `cbor:"slots"`    // sorted; empty: every slot of the farm
	Count    uint64       `cbor:"count"`    // how many slots it may admit; 0: as many as Slots
	Capacity Capacity     `cbor:"capacity"` // of all slots that it admits; zero: no bound
	Sequence uint64       `cbor:"sequence"`
	Expiry   uint64       `cbor:"expiry"` // Unix seconds
}

// Consent is a farm's word that a group may use its nodes, signed by the farm.
// The newest sequence per (farm, group) counts; a zero Capacity withdraws it.
type Consent struct {
	Header
	Farm     canon.Hash `cbor:"farm"`
	Group    canon.Hash `cbor:"group"`
	Capacity Capacity   `cbor:"capacity"`
	Sequence uint64     `cbor:"sequence"`
	Expiry   uint64     `cbor:"expiry"`
}

// Pool makes a slot a gateway: which public addresses of the farm are at its
// public network card, signed by the farm. The newest sequence per slot counts;
// one without ranges takes the addresses back.
type Pool struct {
	Header
	Farm canon.Hash `cbor:"farm"`
	Slot canon.Hash `cbor:"slot"`
	// MAC of the card on which the addresses live, "52:54:00:…". It is another one
	// than the node's own uplink, and in a namespace of its own.
	MAC    string  `cbor:"mac"`
	Ranges []Range `cbor:"ranges"` // sorted by prefix, disjoint
	// Shared are the addresses of the ranges that all tenants share, sorted, each
	// once; the others are leased whole. By host name they serve 80 and 443; First
	// to Last are their ports that contracts lease; 0 and 0: none.
	Shared []string `cbor:"shared"`
	First  uint16   `cbor:"first"`
	Last   uint16   `cbor:"last"`
	// ACME is the directory URL of the authority that certifies the hosts whose
	// TLS ends at this gateway, https; empty: none does. Roots are the DER
	// certificates by which its own certificate is checked; empty: the public ones.
	ACME     string   `cbor:"acme"`
	Roots    [][]byte `cbor:"roots"`
	Sequence uint64   `cbor:"sequence"`
}

// Range is the public addresses of one prefix.
type Range struct {
	Prefix string `cbor:"prefix"` // of the segment, in canonical text
	Router string `cbor:"router"` // default router in the prefix
	First  string `cbor:"first"`  // first address of the pool
	Last   string `cbor:"last"`   // last one, inclusive
}

// Zone is the domain under which a grid's groups reserve names, signed by the
// release quorum. The newest sequence counts.
type Zone struct {
	Header
	Domain string `cbor:"domain"` // a host name, at most 180 bytes
	// Farms are those whose gateways are the domain's name servers, sorted, each
	// once: anybody may found a farm, but who answers for all names is appointed.
	Farms    []canon.Hash `cbor:"farms"`
	Sequence uint64       `cbor:"sequence"`
}

// Challenge is the answer to an authority that wants to see that a host under the
// grid's domain is its group's: a text record that the grid's name servers have
// for a while. It is signed by the key of the slot at which the host's TLS ends.
type Challenge struct {
	Header
	Slot     canon.Hash `cbor:"slot"`
	Epoch    uint64     `cbor:"epoch"`
	Contract canon.Hash `cbor:"contract"` // whose gateway on the slot ends the host's TLS
	Host     string     `cbor:"host"`     // without ChallengeLabel
	Value    string     `cbor:"value"`    // 43 characters of base64url; empty: the answer is taken back
	Sequence uint64     `cbor:"sequence"` // per (slot, epoch), rising, of challenges alone
	Expiry   uint64     `cbor:"expiry"`   // Unix seconds of block time
}

// Node binds keys to a slot: admission (epoch 1) or re-keying (epoch + 1). It
// is signed by the node's own new key and by the farm key or a delegate.
type Node struct {
	Header
	Slot       canon.Hash `cbor:"slot"`
	Epoch      uint64     `cbor:"epoch"`
	SigningKey []byte     `cbor:"signing_key"` // SSH wire format, ed25519
	SealingKey []byte     `cbor:"sealing_key"` // package seal's public key
	Delegation canon.Hash `cbor:"delegation"`  // zero: signed by the farm key itself
	BootNonce  []byte     `cbor:"boot_nonce"`  // 16 random bytes of the boot that asked
	Expiry     uint64     `cbor:"expiry"`      // for inclusion, not for the key
}

// Features is what a node says that it can do, signed by the node's key and written
// on change only. A node finds it out by doing it: microvm is there if a micro-VM
// ran on it.
type Features struct {
	Header
	Slot     canon.Hash `cbor:"slot"`
	Epoch    uint64     `cbor:"epoch"`
	Sequence uint64     `cbor:"sequence"` // per (slot, epoch), rising, of features alone
	// Isolation is the classes that it runs containers in, as package plan names
	// them; sorted, each once. Machines of kind "vm" want microvm.
	Isolation []string `cbor:"isolation"`
	Reason    string   `cbor:"reason"` // problem code why a class is missing, "" if none is
	Detail    string   `cbor:"detail"` // the same in one line for people, at most 512 bytes
	Arch      string   `cbor:"arch"`   // of its CPU, as Go names it: amd64, arm64
	Time      uint64   `cbor:"time"`   // node's clock, Unix seconds
}

// Classes of action.
const (
	ClassWorkload = "workload" // contracts
	ClassName     = "name"     // labels under the grid's domain
)

// Actions of an Approval.
const (
	ActionDeploy = "deploy" // version 1 of a contract
	ActionUpdate = "update" // a further version
	ActionCancel = "cancel" // the end; Plan has no workloads

	ActionReserve  = "reserve"  // a free label
	ActionRenew    = "renew"    // a later end
	ActionTransfer = "transfer" // to another group
	ActionRelease  = "release"  // it is free again
)

// Approval is what the members of a group sign. A proposal is an Approval with
// fewer signatures than its group's threshold. Its hash is the proposal's id;
// the hash of a contract's version-1 Approval is the contract's id.
type Approval struct {
	Header
	Group      canon.Hash `cbor:"group"`
	GroupEpoch uint64     `cbor:"group_epoch"` // 1 until groups can change
	Class      string     `cbor:"class"`       // ClassWorkload or ClassName
	Action     string     `cbor:"action"`
	// Contract is the contract, or the reservation of a name: zero for ActionDeploy
	// and ActionReserve, whose own hash it becomes.
	Contract canon.Hash `cbor:"contract"`
	Name     string     `cbor:"name"`    // the plan's: of a deployment, or a label
	Version  uint64     `cbor:"version"` // 1 for ActionDeploy and ActionReserve
	Plan     []byte     `cbor:"plan"`    // canonical bytes of a plan.Plan, or plan.Name
	Nonce    []byte     `cbor:"nonce"`   // 16 random bytes
	Expiry   uint64     `cbor:"expiry"`  // Unix seconds of block time
}

// States of a workload in a Receipt.
const (
	StatePending = "pending"
	StateRunning = "running"
	StateExited  = "exited"
	StateFailed  = "failed" // will be tried again; Reason says why
	StateGone    = "gone"   // removed after cancellation
)

// Receipt is what a node says of a workload, signed by the node's key and
// written on change only.
type Receipt struct {
	Header
	Contract canon.Hash `cbor:"contract"`
	Version  uint64     `cbor:"version"`
	Workload string     `cbor:"workload"`
	Slot     canon.Hash `cbor:"slot"`
	Epoch    uint64     `cbor:"epoch"`
	Sequence uint64     `cbor:"sequence"` // per (slot, epoch), rising
	State    string     `cbor:"state"`
	Reason   string     `cbor:"reason"` // problem code, empty when running
	Detail   string     `cbor:"detail"` // one line for people, at most 512 bytes
	ExitCode int64      `cbor:"exit_code"`
	Verity   bool       `cbor:"verity"` // the kernel checks every page-in
	// Ready says that it runs and is healthy; without a health check, that it has run
	// for a while. A job is ready when it has exited with 0.
	Ready bool `cbor:"ready"`
	// Isolation is what stands between it and the node: a class of package plan's, or
	// its KindVM for a whole machine; "" of what is no program, or has not started.
	Isolation string `cbor:"isolation"`
	Restarts  uint64 `cbor:"restarts"` // since this version started; a change of it alone writes no receipt
	Time      uint64 `cbor:"time"`     // node's clock, Unix seconds
}

// Release is one version of the OS for one grid, signed k-of-n by the release
// keys.
type Release struct {
	Header
	Sequence uint64     `cbor:"sequence"` // rising
	Name     string     `cbor:"name"`     // for people, e.g. "2026.11.1"
	OS       canon.Hash `cbor:"os"`       // digest of the OS flist
	Expiry   uint64     `cbor:"expiry"`   // Unix seconds
	// Checkpoint is where a light client starts to trust the ledger.
	Checkpoint Checkpoint `cbor:"checkpoint"`
}

// Checkpoint is a block header of the ledger.
type Checkpoint struct {
	Height uint64     `cbor:"height"`
	Hash   canon.Hash `cbor:"hash"`
	Time   uint64     `cbor:"time"` // Unix seconds
}

// Tag names an image for people, signed by its publisher.
type Tag struct {
	Header
	Publisher canon.Hash `cbor:"publisher"` // account id
	Name      string     `cbor:"name"`
	Tag       string     `cbor:"tag"`
	Digest    canon.Hash `cbor:"digest"`
	Sequence  uint64     `cbor:"sequence"`
	Expiry    uint64     `cbor:"expiry"`
}

// Signed is a statement with its signatures: the one envelope for everything
// that is published, and the one form of a ledger transaction. Sending an
// Approval again with another signature adds that approval.
type Signed struct {
	Statement  []byte      `cbor:"statement"`
	Signatures []Signature `cbor:"signatures"`
}

// Signature is one SSHSIG signature over Signed.Statement.
type Signature struct {
	Key []byte `cbor:"key"` // SSH wire format
	Sig []byte `cbor:"sig"` // SSHSIG blob, not armored
}
