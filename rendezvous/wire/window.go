package wire

// windowSize is how far behind the highest counter one may come, as in
// WireGuard (RFC 6479 has the idea).
const windowSize = 2048

// window remembers which of the last counters came. The ring has a word more
// than the window, since the newest word is only partly in use.
type window struct {
	highest uint64
	bits    [windowSize/64 + 1]uint64
}

// fresh tells whether a counter may still come. 0 is never used.
func (w *window) fresh(n uint64) bool {
	switch {
	case n == 0:
		return false
	case n > w.highest:
		return true
	case w.highest-n >= windowSize:
		return false
	}
	return w.bits[n/64%uint64(len(w.bits))]&(1<<(n%64)) == 0
}

// mark notes that n came; newest tells that it is the highest so far.
func (w *window) mark(n uint64) (fresh, newest bool) {
	if !w.fresh(n) {
		return false, false
	}
	if n > w.highest {
		words := uint64(len(w.bits))
		from, to := w.highest/64, n/64
		for i := from + 1; i <= to && i <= from+words; i++ {
			w.bits[i%words] = 0
		}
		w.highest = n
		newest = true
	}
	w.bits[n/64%uint64(len(w.bits))] |= 1 << (n % 64)
	return true, newest
}
