package node

import (
	"errors"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
)

// A workload that ends in failure is asked for its reason at every look; what its
// flist's objects are read for is its end, not the look.
func TestObjectsAreReadOnceForADeath(t *testing.T) {
	var s scrubs
	reads, finds := 0, 3
	at := func(image byte, begun, now int) int {
		t.Helper()
		damaged, err := s.once(death{canon.Hash{image}, time.Unix(int64(begun), 0)}, time.Unix(int64(now), 0), func() (int, error) {
			reads++
			return finds, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return damaged
	}
	for i, c := range []struct {
		image              byte
		begun, now         int
		damaged, wantReads int
	}{
		{1, 100, 110, 3, 1},
		{1, 100, 500, 3, 1}, // the same death, later
		{1, 111, 120, 3, 1}, // the next one, soon
		{2, 100, 120, 0, 2}, // of another flist
		{1, 115, 171, 0, 3}, // a death after the pause
		{1, 100, 900, 3, 3}, // the first one is still known
	} {
		if i == 3 {
			finds = 0
		}
		if got := at(c.image, c.begun, c.now); got != c.damaged || reads != c.wantReads {
			t.Errorf("%d: %d damaged after %d reads, want %d after %d", i, got, reads, c.damaged, c.wantReads)
		}
	}
	if _, err := s.once(death{canon.Hash{3}, time.Unix(1, 0)}, time.Unix(1, 0), func() (int, error) { return 0, errors.New("no manifest") }); err == nil {
		t.Error("an error is lost")
	}
	for i := range 3 * maxScrubs {
		at(4, i, 10_000+i)
	}
	if len(s.of) > maxScrubs+1 {
		t.Errorf("%d deaths are remembered, the most is %d", len(s.of), maxScrubs+1)
	}
}
