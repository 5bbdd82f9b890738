package device

import (
	"net/netip"
	"testing"
	"time"
)

var (
	one = netip.MustParseAddrPort("198.51.100.10:7000")
	two = netip.MustParseAddrPort("198.51.100.11:7000")
)

// at is a moment, in milliseconds.
func at(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }

func TestASilentEndpointIsLeftForTheNext(t *testing.T) {
	type event struct {
		at   int
		rx   uint64
		want step
	}
	for name, events := range map[string][]event{
		"never answers":        {{100, 0, stay}, {1400, 0, stay}, {1500, 0, next}, {2900, 0, stay}, {3000, 0, next}, {8000, 0, stay}, {9000, 0, next}},
		"answers, then idle":   {{100, 92, stay}, {3000, 92, stay}, {3100, 92, ask}, {3200, 192, stay}, {6100, 192, stay}, {6200, 192, ask}},
		"falls silent":         {{100, 92, stay}, {3100, 92, ask}, {3150, 192, stay}, {6150, 192, ask}, {6650, 192, stay}, {7150, 192, ask}, {8150, 192, ask}, {9150, 192, next}, {9250, 0, stay}},
		"answers no questions": {{100, 92, stay}, {3100, 92, ask}, {9200, 92, ask}, {13500, 184, stay}, {16500, 184, ask}, {29400, 184, ask}, {29500, 184, next}},
		"is busy":              {{100, 92, stay}, {3000, 1000, stay}, {5900, 2000, stay}, {8800, 3000, stay}},
	} {
		w := way{endpoints: []netip.AddrPort{one, two}}
		w.take(at(0))
		for i, e := range events {
			w.see(at(e.at), e.rx)
			if got := w.step(at(e.at)); got != e.want {
				t.Fatalf("%s: event %d, after %d ms: %d, want %d", name, i, e.at, got, e.want)
			} else if got == next {
				before := w.endpoint()
				if w.take(at(e.at)); w.endpoint() == before {
					t.Fatalf("%s: event %d: %s is taken again", name, i, before)
				}
			}
		}
	}
}

func TestWhoMovesAsksAtOnce(t *testing.T) {
	w := way{endpoints: []netip.AddrPort{one}}
	w.take(at(0))
	w.see(at(100), 92)
	w.moved(at(200))
	if got := w.step(at(200)); got != ask {
		t.Fatalf("after a move: %d, want a question", got)
	}
	w.see(at(250), 192)
	if got := w.step(at(250)); got != stay || !w.answered {
		t.Fatalf("after its answer: %d, answered %v", got, w.answered)
	}
	w.moved(at(300))
	w.step(at(1300))
	w.moved(at(2000)) // one more move does not begin the wait anew
	if got := w.step(at(5400)); got != next {
		t.Fatalf("silent since the move: %d, want the next endpoint", got)
	}
	w = way{endpoints: []netip.AddrPort{one}}
	w.take(at(0))
	w.moved(at(100)) // before anything came
	if got := w.step(at(200)); got != stay {
		t.Fatalf("before the first handshake: %d", got)
	}
}
