package wire

import (
	"testing"

	"pgregory.net/rapid"
)

// TestWindowTakesEachCounterOnce compares the ring with a plain set.
func TestWindowTakesEachCounterOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w window
		seen := map[uint64]bool{}
		var highest uint64
		for range 400 {
			var n uint64
			switch rapid.IntRange(0, 3).Draw(t, "how") {
			case 0:
				n = highest + uint64(rapid.IntRange(0, 3).Draw(t, "step"))
			case 1:
				n = highest + uint64(rapid.IntRange(0, 3*windowSize).Draw(t, "jump"))
			case 2:
				n = highest - min(highest, uint64(rapid.IntRange(0, windowSize+70).Draw(t, "back")))
			case 3:
				n = rapid.Uint64Range(0, 1<<13).Draw(t, "any")
			}
			want := n != 0 && !seen[n] && (n > highest || highest-n < windowSize)
			newestWant := want && n > highest
			got, newest := w.mark(n)
			if got != want || newest != newestWant {
				t.Fatalf("counter %d after %d: %v %v, want %v %v", n, highest, got, newest, want, newestWant)
			}
			seen[n] = true
			if want {
				highest = max(highest, n)
			}
		}
	})
}
