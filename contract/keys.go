package contract

import (
	"net/netip"
	"strconv"

	"github.com/zero-os/zos/canon"
)

// Keys of the ledger's state. Ids are 64 hex digits. A reader lists a kind by
// the part of the key before the last slash.
const (
	KeyGrid         = "grid"
	KeyReleaseFloor = "release/floor"
	KeyZone         = "zone"
)

// Beginnings of keys that readers list by.
const (
	KeyPoolPrefix     = "pool/"     // of all PoolRecords
	KeyHostNamePrefix = "hostname/" // of all HostNameRecords
	KeyHostPrefix     = "host/"     // of all HolderRecords of host names
	KeyFeaturesPrefix = "features/" // of all FeaturesRecords
	// KeyChallengePrefix begins the keys of all ChallengeRecords.
	KeyChallengePrefix = "challenge/"
)

// KeyAccount is where account id's AccountRecord lies.
func KeyAccount(id canon.Hash) string { return "account/" + id.String() }

// KeyKey is where the KeyRecord of a public key in SSH wire format lies.
func KeyKey(wire []byte) string { return "key/" + canon.Sum(wire).String() }

// KeyGroup is where group id's GroupRecord lies.
func KeyGroup(id canon.Hash) string { return "group/" + id.String() }

// KeyPending is where a group's PendingRecord lies.
func KeyPending(group canon.Hash) string { return "pending/" + group.String() }

// KeyFarm is where farm id's FarmRecord lies.
func KeyFarm(id canon.Hash) string { return "farm/" + id.String() }

// KeySlot is where slot id's SlotRecord lies.
func KeySlot(id canon.Hash) string { return "slot/" + id.String() }

// KeyDelegation is where delegation id's DelegationRecord lies.
func KeyDelegation(id canon.Hash) string { return "delegation/" + id.String() }

// KeyAgent is where the AgentRecord of a farm's delegate lies.
func KeyAgent(farm canon.Hash, key []byte) string {
	return "agent/" + farm.String() + "/" + canon.Sum(key).String()
}

// KeyConsent is where a farm's ConsentRecord for a group lies.
func KeyConsent(farm, group canon.Hash) string {
	return "consent/" + farm.String() + "/" + group.String()
}

// KeyAccountName is where the NameRecord of an account lies.
func KeyAccountName(name string) string { return "name/account/" + name }

// KeyGroupName is where the NameRecord of a group lies.
func KeyGroupName(name string) string { return "name/group/" + name }

// KeyFarmName is where the NameRecord of a farm lies.
func KeyFarmName(name string) string { return "name/farm/" + name }

// KeySlotName is where the NameRecord of a slot lies: its name within its farm.
func KeySlotName(farm canon.Hash, name string) string {
	return "name/slot/" + farm.String() + "/" + name
}

// KeyContractName is where the NameRecord of an active contract lies: its name
// within its group.
func KeyContractName(group canon.Hash, name string) string {
	return "name/contract/" + group.String() + "/" + name
}

// KeyProposal is where proposal id's ProposalRecord lies.
func KeyProposal(id canon.Hash) string { return "proposal/" + id.String() }

// KeyContract is where contract id's ContractRecord lies.
func KeyContract(id canon.Hash) string { return "contract/" + id.String() }

// KeyBound is where a slot's BoundRecord lies.
func KeyBound(slot canon.Hash) string { return "bound/" + slot.String() }

// KeySequence is where a slot's SequenceRecord lies.
func KeySequence(slot canon.Hash) string { return "sequence/" + slot.String() }

// KeyRun is where the RunRecord of a contract on a slot lies.
func KeyRun(slot, contract canon.Hash) string {
	return KeyRunPrefix(slot) + contract.String()
}

// KeyRunPrefix begins the keys of all RunRecords of a slot.
func KeyRunPrefix(slot canon.Hash) string { return "run/" + slot.String() + "/" }

// KeyRuns is where a slot's RunsRecord lies.
func KeyRuns(slot canon.Hash) string { return "runs/" + slot.String() }

// KeyNode is where a slot's NodeRecord lies.
func KeyNode(slot canon.Hash) string { return "node/" + slot.String() }

// KeyUsed is where a slot's UsedRecord lies.
func KeyUsed(slot canon.Hash) string { return "used/" + slot.String() }

// KeyUsedBy is where the UsedRecord of a group in a farm lies.
func KeyUsedBy(farm, group canon.Hash) string {
	return "used/" + farm.String() + "/" + group.String()
}

// KeyReceipt is where the ReceiptRecord of a workload lies.
func KeyReceipt(contract canon.Hash, workload string) string {
	return KeyReceiptPrefix(contract) + workload
}

// KeyReceiptPrefix begins the keys of all receipts of a contract.
func KeyReceiptPrefix(contract canon.Hash) string { return "receipt/" + contract.String() + "/" }

// KeyFeatures is where a slot's FeaturesRecord lies.
func KeyFeatures(slot canon.Hash) string { return KeyFeaturesPrefix + slot.String() }

// KeyPool is where a slot's PoolRecord lies.
func KeyPool(slot canon.Hash) string { return KeyPoolPrefix + slot.String() }

// KeySegment is where the SegmentRecord lies that an address belongs to: one for
// each /16 of IPv4 and /32 of IPv6.
func KeySegment(a netip.Addr) string {
	bits := segmentBits4
	if a.Is6() {
		bits = segmentBits6
	}
	return "segment/" + netip.PrefixFrom(a, bits).Masked().String()
}

// KeyHostName is where the HostNameRecord of a label under the grid's domain lies.
func KeyHostName(label string) string { return KeyHostNamePrefix + label }

// KeyHostNames is where the HostNamesRecord of a group lies.
func KeyHostNames(group canon.Hash) string { return "hostnames/" + group.String() }

// KeyLookalike is where the LookalikeRecord of a skeleton lies.
func KeyLookalike(skeleton string) string { return "lookalike/" + skeleton }

// KeyLease is where the LeaseRecord of a public address lies, in canonical text.
func KeyLease(address string) string { return "lease/" + address }

// KeyPort is where the HolderRecord of a port of a shared address lies; proto is
// "tcp" or "udp".
func KeyPort(address, proto string, port uint16) string {
	return "port/" + address + "/" + proto + "/" + strconv.Itoa(int(port))
}

// KeyHost is where the HolderRecord of a host name that a group publishes lies.
func KeyHost(host string, group canon.Hash) string {
	return KeyHostPrefix + host + "/" + group.String()
}

// KeyChallenge is where the ChallengeRecord of a host at a slot lies.
func KeyChallenge(host string, slot canon.Hash) string {
	return KeyChallengePrefix + host + "/" + slot.String()
}

// KeyChallenges is where the ChallengesRecord of a slot lies.
func KeyChallenges(slot canon.Hash) string { return "challenges/" + slot.String() }
