package rendezvous

import "time"

// candidate is a way to a peer when one is chosen.
type candidate struct {
	up      bool  // there is a link
	present bool  // the peer answered, or spoke, on it lately
	bad     bool  // it lost packets lately
	udp     bool  // as datagrams
	rtt     int64 // to the peer and back, nanoseconds; 0: not measured
}

// A way in use is left for a faster one only if that is faster by this much.
const (
	fasterBy    = int64(2 * time.Millisecond)
	fasterShare = 4 // and by a quarter
)

// best chooses among the ways to a peer: up and with the peer present, rather one
// that loses nothing, rather UDP than TLS, then the shortest round trip; and
// rather the present one than one that is hardly better. -1: none is known.
func best(now int, ways []candidate) int {
	pick := -1
	for i, w := range ways {
		if w.up && w.present && (pick < 0 || better(w, ways[pick])) {
			pick = i
		}
	}
	if pick < 0 || now < 0 || now >= len(ways) || now == pick {
		return pick
	}
	had, found := ways[now], ways[pick]
	if !had.up || !had.present || had.bad != found.bad || had.udp != found.udp {
		return pick
	}
	if found.rtt+max(fasterBy, had.rtt/fasterShare) < had.rtt {
		return pick
	}
	return now
}

// better tells whether a is to be preferred to b.
func better(a, b candidate) bool {
	switch {
	case a.bad != b.bad:
		return !a.bad
	case a.udp != b.udp:
		return a.udp
	case (a.rtt == 0) != (b.rtt == 0):
		return a.rtt != 0
	}
	return a.rtt < b.rtt
}
