package node

import (
	"math"
	"testing"

	"github.com/zero-os/zos/workload/logs"
)

// TestAnyTailCanBeAskedFor plays an asker whose wish for records no memory could
// hold: it must not end the daemon.
func TestAnyTailCanBeAskedFor(t *testing.T) {
	for _, n := range []uint64{1, 1 << 40, math.MaxUint64} {
		if next, err := tail(t.Context(), logs.NewReader(t.TempDir()), 1, n); err != nil || next != 1 {
			t.Fatalf("the last %d records of an empty log begin at %d, %v", n, next, err)
		}
	}
}
