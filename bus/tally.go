package bus

// tally counts what each caller has under way. Who has nothing is not in it, so
// it is as bounded as what it counts.
type tally[K comparable] map[K]int

// less takes one away.
func (t tally[K]) less(caller K) {
	if t[caller]--; t[caller] == 0 {
		delete(t, caller)
	}
}
