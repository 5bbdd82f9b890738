package farm

import (
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
)

func TestDecisionTruthTable(t *testing.T) {
	farm, slotID := canon.Sum([]byte("farm")), canon.Sum([]byte("slot"))
	base := func() Facts {
		return Facts{
			Now: 1000, Farm: farm, Declared: true, SlotID: slotID,
			Slot: contract.Slot{
				Farm: farm, Name: "n1", Hint: "mac:52:54:00:00:00:01", Identity: contract.IdentityNone,
				Capacity: contract.Capacity{CPU: 10, Memory: 20, Disk: 30},
			},
			Delegation: contract.Delegation{Farm: farm, Actions: []string{"admit", "rekey"}, Expiry: 1001},
			Stands:     true,
			SigningKey: []byte("new"), SealingKey: []byte("new seal"),
			Hints:      []string{"smbios:x", "mac:52:54:00:00:00:01"},
			SilenceFor: 25 * time.Second,
		}
	}
	bound := func(f *Facts) {
		f.Bound, f.Epoch, f.BoundSigning, f.BoundSealing = true, 4, []byte("old"), []byte("old seal")
		f.Silent = 25 * time.Second
	}
	big := ^uint64(0)
	for name, tc := range map[string]struct {
		change func(f *Facts)
		want   Decision
	}{
		// First keys.
		"declared, first keys":     {func(f *Facts) {}, Decision{Outcome: OutcomeAdmit, Epoch: 1}},
		"any identity is admitted": {func(f *Facts) { f.Slot.Identity = contract.IdentityTPM }, Decision{Outcome: OutcomeAdmit, Epoch: 1}},
		"not declared":             {func(f *Facts) { f.Declared = false }, Decision{Code: "slot-unknown"}},
		"slot of another farm":     {func(f *Facts) { f.Slot.Farm = slotID }, Decision{Code: "slot-unknown"}},
		"other hardware":           {func(f *Facts) { f.Hints = []string{"mac:52:54:00:00:00:02"} }, Decision{Code: "hint-mismatch"}},
		"no hints":                 {func(f *Facts) { f.Hints = nil }, Decision{Code: "hint-mismatch"}},
		"empty hint":               {func(f *Facts) { f.Slot.Hint, f.Hints = "", []string{""} }, Decision{Code: "hint-mismatch"}},
		"delegation gone":          {func(f *Facts) { f.Stands = false }, Decision{Code: "delegation-refused"}},
		"delegation of another":    {func(f *Facts) { f.Delegation.Farm = slotID }, Decision{Code: "delegation-refused"}},
		"delegation expired":       {func(f *Facts) { f.Now = 1001 }, Decision{Code: "delegation-expired"}},
		"delegation names it":      {func(f *Facts) { f.Delegation.Slots = []canon.Hash{farm, slotID} }, Decision{Outcome: OutcomeAdmit, Epoch: 1}},
		"delegation names others":  {func(f *Facts) { f.Delegation.Slots = []canon.Hash{farm} }, Decision{Code: "delegation-refused"}},
		"may not admit":            {func(f *Facts) { f.Delegation.Actions = []string{"rekey"} }, Decision{Code: "delegation-refused"}},
		"may do nothing":           {func(f *Facts) { f.Delegation.Actions = nil }, Decision{Code: "delegation-refused"}},
		"count left":               {func(f *Facts) { f.Delegation.Count, f.Admitted = 2, 1 }, Decision{Outcome: OutcomeAdmit, Epoch: 1}},
		"count used up":            {func(f *Facts) { f.Delegation.Count, f.Admitted = 2, 2 }, Decision{Code: "delegation-exhausted"}},
		"capacity just fits": {func(f *Facts) {
			f.Delegation.Capacity, f.Used = contract.Capacity{CPU: 11, Memory: 21, Disk: 31}, contract.Capacity{CPU: 1, Memory: 1, Disk: 1}
		}, Decision{Outcome: OutcomeAdmit, Epoch: 1}},
		"too much CPU": {func(f *Facts) {
			f.Delegation.Capacity, f.Used = contract.Capacity{CPU: 10, Memory: 99, Disk: 99}, contract.Capacity{CPU: 1}
		}, Decision{Code: "delegation-exhausted"}},
		"too much memory": {func(f *Facts) { f.Delegation.Capacity = contract.Capacity{CPU: 99, Memory: 19, Disk: 99} }, Decision{Code: "delegation-exhausted"}},
		"too much disk":   {func(f *Facts) { f.Delegation.Capacity = contract.Capacity{CPU: 99, Memory: 99, Disk: 29} }, Decision{Code: "delegation-exhausted"}},
		"capacity overflows": {func(f *Facts) {
			f.Delegation.Capacity, f.Used = contract.Capacity{CPU: big, Memory: big, Disk: big}, contract.Capacity{CPU: big}
		}, Decision{Code: "delegation-exhausted"}},

		// The same keys again.
		"same keys": {func(f *Facts) {
			bound(f)
			f.SigningKey, f.SealingKey = f.BoundSigning, f.BoundSealing
		}, Decision{Outcome: OutcomeBound, Epoch: 4}},
		"same keys need no hint, no delegation, no silence": {func(f *Facts) {
			bound(f)
			f.SigningKey, f.SealingKey, f.Hints, f.Stands, f.Silent, f.Slot.Identity = f.BoundSigning, f.BoundSealing, nil, false, 0, contract.IdentityTPM
		}, Decision{Outcome: OutcomeBound, Epoch: 4}},
		"only the signing key is the same": {func(f *Facts) { bound(f); f.SigningKey = f.BoundSigning }, Decision{Code: "key-conflict"}},
		"only the sealing key is the same": {func(f *Facts) { bound(f); f.SealingKey = f.BoundSealing }, Decision{Code: "key-conflict"}},
		"empty keys of no binding are not the same": {func(f *Facts) { f.SigningKey, f.SealingKey, f.BoundSigning, f.BoundSealing = nil, nil, nil, nil },
			Decision{Outcome: OutcomeAdmit, Epoch: 1}},

		// New keys for a slot that has some.
		"silent":                 {bound, Decision{Outcome: OutcomeRekey, Epoch: 5}},
		"not silent long enough": {func(f *Facts) { bound(f); f.Silent -= time.Millisecond }, Decision{Outcome: OutcomeWait, Wait: time.Millisecond}},
		"heard now":              {func(f *Facts) { bound(f); f.Silent = 0 }, Decision{Outcome: OutcomeWait, Wait: 25 * time.Second}},
		"clock ran back":         {func(f *Facts) { bound(f); f.Silent = -time.Second }, Decision{Outcome: OutcomeWait, Wait: 26 * time.Second}},
		"other hardware, silent": {func(f *Facts) { bound(f); f.Hints = nil }, Decision{Code: "hint-mismatch"}},
		"not declared, silent":   {func(f *Facts) { bound(f); f.Declared = false }, Decision{Code: "slot-unknown"}},
		"keeps keys on disk":     {func(f *Facts) { bound(f); f.Slot.Identity = contract.IdentityDisk }, Decision{Code: "rekey-needs-farm"}},
		"keeps keys in a TPM":    {func(f *Facts) { bound(f); f.Slot.Identity = contract.IdentityTPM }, Decision{Code: "rekey-needs-farm"}},
		"unknown identity":       {func(f *Facts) { bound(f); f.Slot.Identity = "" }, Decision{Code: "rekey-needs-farm"}},
		"disk, farm allows":      {func(f *Facts) { bound(f); f.Slot.Identity, f.AllowRekey = contract.IdentityDisk, true }, Decision{Outcome: OutcomeRekey, Epoch: 5}},
		"disk, farm allows, heard": {func(f *Facts) { bound(f); f.Slot.Identity, f.AllowRekey, f.Silent = contract.IdentityDisk, true, 0 },
			Decision{Outcome: OutcomeWait, Wait: 25 * time.Second}},
		"may not re-key":          {func(f *Facts) { bound(f); f.Delegation.Actions = []string{"admit"} }, Decision{Code: "delegation-refused"}},
		"re-key, expired":         {func(f *Facts) { bound(f); f.Now = 2000 }, Decision{Code: "delegation-expired"}},
		"re-key, names others":    {func(f *Facts) { bound(f); f.Delegation.Slots = []canon.Hash{farm} }, Decision{Code: "delegation-refused"}},
		"re-key needs no count":   {func(f *Facts) { bound(f); f.Delegation.Count, f.Admitted = 1, 1 }, Decision{Outcome: OutcomeRekey, Epoch: 5}},
		"re-key, delegation gone": {func(f *Facts) { bound(f); f.Stands = false }, Decision{Code: "delegation-refused"}},
	} {
		f := base()
		tc.change(&f)
		if tc.want.Code != "" {
			tc.want.Outcome = OutcomeRefuse
		}
		got := Decide(f)
		if tc.want.Code != "" && got.Message == "" {
			t.Errorf("%s: refused without a word", name)
		}
		got.Message = ""
		if got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}
