package farm

import (
	"bytes"
	"slices"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
)

// Outcomes of a Decision.
const (
	OutcomeAdmit  = "admit"  // bind the first keys: epoch 1
	OutcomeRekey  = "rekey"  // bind new keys: epoch + 1
	OutcomeBound  = "bound"  // these keys are bound already
	OutcomeWait   = "wait"   // not yet: the old key may be alive
	OutcomeRefuse = "refuse" // Code says why
)

// SilenceFor is how long a bound key must have been silent before the agent
// re-keys its slot by itself: two heartbeats missed, and a little.
const SilenceFor = 25 * time.Second

// Facts are everything that a decision rests on.
type Facts struct {
	Now  uint64     // Unix seconds
	Farm canon.Hash // the agent's

	// What the farm declared.
	Declared bool // the slot is one of the farm's
	SlotID   canon.Hash
	Slot     contract.Slot

	// Under which delegation the agent acts.
	Delegation contract.Delegation
	Stands     bool              // it is on the ledger and not replaced
	Admitted   uint64            // slots that it has admitted
	Used       contract.Capacity // their capacity

	// Who asks.
	SigningKey []byte
	SealingKey []byte
	Hints      []string

	// What the ledger binds to the slot.
	Bound        bool
	Epoch        uint64
	BoundSigning []byte
	BoundSealing []byte

	// Silent is how long nothing proved the bound key alive: since its last
	// verified heartbeat, since its epoch was first seen, and since the agent
	// began to listen, whichever is the latest.
	Silent     time.Duration
	SilenceFor time.Duration
	// AllowRekey is the farm's choice to have slots with identity disk or tpm
	// re-keyed like those with none.
	AllowRekey bool
}

// Decision is what to do with a node that asks.
type Decision struct {
	Outcome string
	Epoch   uint64        // to bind, or bound
	Wait    time.Duration // for OutcomeWait
	Code    string        // problem code, for OutcomeRefuse
	Message string        // for people, one line
}

// Decide is the whole judgement of the agent. The first row that holds decides:
//
//	slot not declared by this farm               refuse slot-unknown
//	both keys are the bound ones                 bound
//	one key is the bound one, the other not      refuse key-conflict
//	hint is not the declared one                 refuse hint-mismatch
//	delegation gone, foreign, or not for slot    refuse delegation-refused
//	delegation expired                           refuse delegation-expired
//	no key bound, action admit missing           refuse delegation-refused
//	no key bound, count or capacity used up      refuse delegation-exhausted
//	no key bound                                 admit, epoch 1
//	identity disk or tpm, farm has not allowed   refuse rekey-needs-farm
//	action rekey missing                         refuse delegation-refused
//	old key heard within SilenceFor              wait
//	otherwise                                    rekey, epoch + 1
func Decide(f Facts) Decision {
	sameSigning := f.Bound && bytes.Equal(f.SigningKey, f.BoundSigning)
	sameSealing := f.Bound && bytes.Equal(f.SealingKey, f.BoundSealing)
	d := f.Delegation
	switch {
	case !f.Declared || f.Slot.Farm != f.Farm:
		return refuse("slot-unknown", "the farm declared no such slot")
	case sameSigning && sameSealing:
		return Decision{Outcome: OutcomeBound, Epoch: f.Epoch}
	case sameSigning || sameSealing:
		return refuse("key-conflict", "one of the two keys is bound already, the other is not")
	case f.Slot.Hint == "" || !slices.Contains(f.Hints, f.Slot.Hint):
		return refuse("hint-mismatch", "the machine is not the one that the farm declared for this slot")
	case !f.Stands || d.Farm != f.Farm:
		return refuse("delegation-refused", "the agent's delegation is not on the ledger, or was replaced")
	case d.Expiry <= f.Now:
		return refuse("delegation-expired", "the agent's delegation has expired")
	case len(d.Slots) > 0 && !slices.Contains(d.Slots, f.SlotID):
		return refuse("delegation-refused", "the agent's delegation does not name this slot")
	}
	if !f.Bound {
		return admit(f)
	}
	if f.Slot.Identity != contract.IdentityNone && !f.AllowRekey {
		return refuse("rekey-needs-farm", "the slot keeps its keys on "+f.Slot.Identity+", and this machine has others: the farm itself must sign the new ones")
	}
	if !slices.Contains(d.Actions, contract.MayRekey) {
		return refuse("delegation-refused", "the agent's delegation does not allow to re-key")
	}
	if left := f.SilenceFor - f.Silent; left > 0 {
		return Decision{Outcome: OutcomeWait, Wait: left, Message: "the slot's present key may still be in use"}
	}
	return Decision{Outcome: OutcomeRekey, Epoch: f.Epoch + 1}
}

func admit(f Facts) Decision {
	d := f.Delegation
	if !slices.Contains(d.Actions, contract.MayAdmit) {
		return refuse("delegation-refused", "the agent's delegation does not allow to admit")
	}
	if d.Count > 0 && f.Admitted >= d.Count {
		return refuse("delegation-exhausted", "the agent's delegation has admitted as many slots as it may")
	}
	if d.Capacity != (contract.Capacity{}) && !fits(d.Capacity, f.Used, f.Slot.Capacity) {
		return refuse("delegation-exhausted", "with this slot the agent would admit more capacity than it may")
	}
	return Decision{Outcome: OutcomeAdmit, Epoch: 1}
}

// fits tells whether used and more together stay within limit, without overflow.
func fits(limit, used, more contract.Capacity) bool {
	within := func(limit, used, more uint64) bool { return used <= limit && more <= limit-used }
	return within(limit.CPU, used.CPU, more.CPU) && within(limit.Memory, used.Memory, more.Memory) &&
		within(limit.Disk, used.Disk, more.Disk)
}

func refuse(code, message string) Decision {
	return Decision{Outcome: OutcomeRefuse, Code: code, Message: message}
}
