package rendezvous

import (
	"testing"

	"github.com/zero-os/zos/rendezvous/wire"
)

// TestWaitingDatagramsAreBounded: those of one size by their bytes, those of
// sizes that alternate by the memory that they hold. The oldest go.
func TestWaitingDatagramsAreBounded(t *testing.T) {
	for name, size := range map[string]func(i int) int{
		"one size":    func(int) int { return 1400 },
		"alternating": func(i int) int { return 100 + i%2*100 },
		"rising":      func(i int) int { return 10 + i%1000 },
	} {
		t.Run(name, func(t *testing.T) {
			u := &udp{session: &session{client: &Client{}}}
			u.wake.L = &u.mu
			var err error
			if u.sealer, err = wire.NewSealer([wire.SessionSize]byte{1}, wire.Key{}); err != nil {
				t.Fatal(err)
			}
			const count = 5000
			for i := range count {
				if !u.write(wire.Send, make([]byte, size(i)), nil, 0) {
					t.Fatalf("datagram %d is refused", i)
				}
				total := 0
				for _, g := range u.waiting {
					total += g.Size()
				}
				if len(u.waiting) > waitingMost || total > queueSize || total != u.size {
					t.Fatalf("after %d: %d gathers hold %d bytes, said to be %d", i+1, len(u.waiting), total, u.size)
				}
			}
			if u.size < 256*100 {
				t.Errorf("only %d bytes wait", u.size)
			}
		})
	}
}
