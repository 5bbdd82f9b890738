package node

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload/logs"
)

// TestANodeThatLostItsSlotFallsSilent plays what the ledger can say of the
// slot's key while a node of epoch 3 answers on the bus.
func TestANodeThatLostItsSlotFallsSilent(t *testing.T) {
	for name, c := range map[string]struct {
		epoch  uint64
		ours   bool
		voided bool
	}{
		"the ledger is silent":             {0, false, false},
		"it is still ours":                 {3, true, false},
		"another key has the next epoch":   {4, false, true},
		"another key has the same epoch":   {3, false, true},
		"an older record is shown again":   {2, false, false},
		"ours was bound again by the farm": {4, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			looks := 0
			err := whileBound(ctx, 3, time.Millisecond, func(context.Context) (uint64, bool) {
				if looks++; looks == 3 {
					cancel()
				}
				return c.epoch, c.ours
			})
			if voided := problem.Code(err) == "key-voided"; voided != c.voided {
				t.Fatalf("after %d looks: %v", looks, err)
			}
		})
	}
}

// TestAnyTailCanBeAskedFor plays an asker whose wish for records no memory could
// hold: it must not end the daemon.
func TestAnyTailCanBeAskedFor(t *testing.T) {
	for _, n := range []uint64{1, 1 << 40, math.MaxUint64} {
		if next, err := tail(t.Context(), logs.NewReader(t.TempDir()), 1, n); err != nil || next != 1 {
			t.Fatalf("the last %d records of an empty log begin at %d, %v", n, next, err)
		}
	}
}

// TestARequestThatPanicsIsAnswered plays a defect in a handler.
func TestARequestThatPanicsIsAnswered(t *testing.T) {
	h := answer(func(context.Context, bus.Query) (uint64, error) { panic("a defect") })
	if b, err := h(t.Context(), bus.Query{}); err == nil || b != nil {
		t.Fatalf("it answered %x, %v", b, err)
	}
}
