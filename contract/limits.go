package contract

import "time"

// Limits of what one statement may hold. docs/reference/statements.cddl says
// the same for people.
//
// The ledger's state grows by what these bound: one account, farm, slot or group
// is at most a few KiB, for ever; each member of a group has at most
// MaxOpenProposals open, and those that expired go when the next one comes; a
// decided proposal leaves a record without its bytes; a contract
// keeps its first approval and the newest within MaxHistory; a slot lists at
// most MaxRuns contracts; a workload has one receipt, a slot one word on its features; a farm has one delegation
// per agent key and one consent per group; a slot has one pool of at most
// MaxRanges ranges; MaxHostNames names count for a group, whoever has them now; a
// contract holds at most MaxLeases addresses, ports and hosts; a slot has at most
// MaxChallenges challenges. How many accounts, groups and farms
// there are is not bounded by these rules: the ledger's operators bound the rate.
const (
	MaxStatement     = 256 << 10 // bytes of an Approval
	MaxPlain         = 16 << 10  // bytes of every other statement
	MaxSignatures    = 64        // per statement
	MaxSigned        = 512 << 10 // bytes of a transaction
	MaxMembers       = 64        // of a group
	MaxWeight        = 1 << 32   // of a member
	MaxOpenProposals = 16        // per group and member who opened them
	MaxHistory       = 1 << 20   // bytes of a contract's kept approvals
	MaxRuns          = 512       // contracts on a slot
	MaxDisks         = 32        // of a slot
	MaxDelegated     = 256       // slots listed in a delegation
	MaxValidators    = 128       // in a genesis
	MaxReleaseKeys   = 32        // in a genesis
	MaxText          = 128       // bytes of a hint, a serial, a release's name
	MaxDetail        = 512       // bytes of a receipt's or a feature's detail
	NonceSize        = 16        // bytes of every nonce
	MaxRanges        = 16        // of a pool
	MaxShared        = 16        // addresses that a pool shares
	MaxURL           = 256       // bytes of a pool's authority
	MaxRoots         = 4         // certificates of a pool
	MaxRoot          = 3072      // bytes of one
	MaxSegment       = 4096      // ranges of pools in one segment
	MaxDomain        = 180       // bytes of the grid's domain
	MaxZoneFarms     = 64        // whose gateways answer for it
	MaxHostNames     = 256       // names that count for a group
	MaxLeases        = 2048      // addresses, ports and hosts of a contract
	MaxChallenges    = 32        // of a slot that have not expired
	MaxChallengesOf  = 8         // of a contract at a slot

	// MinSharedPort is the lowest port of a shared address that can be leased: those
	// below are for names (80, 443), the grid's DNS (53), and what comes later.
	MinSharedPort = 1024

	// MaxProposalLife is how far ahead of block time an approval may expire, in
	// seconds; it bounds how long an open proposal occupies the state.
	MaxProposalLife = uint64(90 * 24 * time.Hour / time.Second)

	// MaxNameLife is how far ahead of block time a name can be reserved, in seconds.
	MaxNameLife = uint64(366 * 24 * time.Hour / time.Second)
	// NameGrace is how long after a name's end nobody but its group can have it, or a
	// look-alike of it, in seconds.
	NameGrace = uint64(30 * 24 * time.Hour / time.Second)

	// MaxChallengeLife is how far ahead of block time a challenge may expire, in seconds.
	MaxChallengeLife = uint64(time.Hour / time.Second)

	// Widest prefixes of a pool's ranges: each range lies in one segment.
	segmentBits4 = 16
	segmentBits6 = 32
)
