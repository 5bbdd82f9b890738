package rendezvous_test

import (
	"testing"
	"time"

	"github.com/zero-os/zos/rendezvous/rendezvoustest"
)

// BenchmarkRelay compares the relay with a plain TCP relay of the same packets,
// in one run: go test -run '^$' -bench Relay -benchtime 1x ./rendezvous
func BenchmarkRelay(b *testing.B) {
	for name, relayOnly := range map[string]bool{"TLS": true, "UDP": false} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				relay, plain, err := rendezvoustest.Ratio(b.Context(), 5, 500*time.Millisecond, relayOnly)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(relay.BytesPerSecond/1e6, "relay-MB/s")
				b.ReportMetric(plain.BytesPerSecond/1e6, "plain-MB/s")
				b.ReportMetric(relay.BytesPerSecond/plain.BytesPerSecond, "ratio")
				b.ReportMetric(relay.CPUPerGB, "relay-cpu-s/GB")
				b.ReportMetric(plain.CPUPerGB, "plain-cpu-s/GB")
				b.ReportMetric(float64(relay.Lost), "lost")
			}
		})
	}
}

// TestSendingAllocatesNothing, by TLS and by UDP, once the way is known.
func TestSendingAllocatesNothing(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(t)
	packet := make([]byte, 1000)
	for name, change := range map[string]func(*node) bool{
		"TLS": func(*node) bool { return true },
		"UDP": func(n *node) bool { return n.Links()[0].UDP },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := relayOnly
			if name == "UDP" {
				cfg = nil
			}
			a := connect(t, w, w.Join(t, name+"a"), cfg, s.URL()).up(1)
			b := connect(t, w, w.Join(t, name+"b"), cfg, s.URL()).up(1)
			rendezvoustest.Until(t, "the way is open", func() bool { return change(a) && change(b) })
			a.reach(b, "hello")
			b.reach(a, "hello")
			// What else runs in this process allocates a little meanwhile.
			if n := testing.AllocsPerRun(2000, func() {
				if err := a.Send(b.Slot, packet); err != nil {
					t.Fatal(err)
				}
			}); n >= 1 {
				t.Errorf("%v allocations for a packet", n)
			}
		})
	}
}
