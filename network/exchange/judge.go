package exchange

import (
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Expected is what a binding of a peer must fit.
type Expected struct {
	Network  canon.Hash
	Slot     canon.Hash // who sent it, as the messenger proved
	KeyEpoch uint64
	// What the ledger says of Slot.
	SlotEpoch uint64
	Key       sign.PublicKey
	// The newest binding known of this slot, slot epoch, network and key epoch;
	// zero: none.
	KnownSequence uint64
	KnownID       canon.Hash
	Now           time.Time
}

// Judge decides whether a binding with a good signature counts. It is the one
// place where this is decided. Codes: "binding-refused" (it is not of whom, or
// not for what, it must be), "binding-expired" (or not yet valid), "binding-old"
// (a newer one is known).
func Judge(b Theirs, e Expected) error {
	of := e.Slot.Short()
	now, skew, life := unix(e.Now), uint64(MaxSkew/time.Second), uint64(MaxLife/time.Second)
	switch {
	case b.Network != e.Network:
		return problem.New("binding-refused", "binding of slot %s: it is for another network", of)
	case b.Slot != e.Slot:
		return problem.New("binding-refused", "binding of slot %s: it names another slot", of)
	case b.SlotEpoch != e.SlotEpoch:
		return problem.New("binding-refused", "binding of slot %s: it is of another epoch of the slot", of)
	case !b.Signer.Equal(e.Key):
		return problem.New("binding-refused", "binding of slot %s: another key than the slot's signed it", of)
	case b.KeyEpoch != e.KeyEpoch:
		return problem.New("binding-refused", "binding of slot %s: it is for another key epoch", of)
	case b.Expiry <= b.Issued || b.Expiry-b.Issued > life:
		return problem.New("binding-refused", "binding of slot %s: it would last longer than allowed", of)
	case b.Issued > now+skew:
		return problem.New("binding-expired", "binding of slot %s: it begins in the future: a clock is wrong", of)
	case b.Expiry <= now:
		return problem.New("binding-expired", "binding of slot %s: it has expired", of)
	case b.Sequence < e.KnownSequence:
		return problem.New("binding-old", "binding of slot %s: a newer one is known", of)
	case b.Sequence == e.KnownSequence && b.ID != e.KnownID:
		return problem.New("binding-refused", "binding of slot %s: two different ones have one sequence", of)
	}
	return nil
}

// JudgeSequence decides whether a request is new: its sequence is the
// microsecond of the asking node's clock, higher than last, the highest
// accepted from it (0: none). Code "exchange-stale".
func JudgeSequence(sequence, last uint64, now time.Time) error {
	at, skew := uint64(max(now.UnixMicro(), 0)), uint64(MaxSkew/time.Microsecond)
	switch {
	case sequence <= last:
		return problem.New("exchange-stale", "exchange of keys: a request this new or newer was answered already")
	case sequence+skew < at, sequence > at+skew:
		return problem.New("exchange-stale", "exchange of keys: the request was made at another time than now").
			WithFix("check the clocks of both nodes")
	}
	return nil
}

func unix(t time.Time) uint64 { return uint64(max(t.Unix(), 0)) }
