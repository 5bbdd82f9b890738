//go:build soak

package grid

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/qemu"
)

var (
	soakSeed = flag.Uint64("soak.seed", 1, "seed of the faults")
	soakFor  = flag.Duration("soak.for", time.Hour, "how long to go on")
)

// TestSoak cuts the power of nodes at random moments, alone and together, also
// while they boot, and asserts after each round that every workload runs again,
// and that its network has come back between all nodes.
func TestSoak(t *testing.T) {
	w := startWorld(t, Options{Nodes: 3, Identity: "disk,tpm,none", Firmware: qemu.BIOS})
	random := rand.New(rand.NewPCG(*soakSeed, 0))
	id := w.deploy(trio)
	for _, name := range []string{"a", "b", "c"} {
		w.running(id, name, actTime)
	}
	end := time.Now().Add(*soakFor)
	rounds, cuts := 0, 0
	for ; time.Now().Before(end); rounds++ {
		var before [3]bus.Heartbeat
		for i := range before {
			before[i] = w.heartbeat(i + 1)
		}
		hit := map[int]bool{}
		for range 1 + random.IntN(4) {
			i := random.IntN(3)
			hit[i] = true
			cuts++
			if err := w.g.machines[i].powerOff(); err != nil {
				t.Fatal(err)
			}
			w.g.machines[i].powerOn()
			// Up to half a boot: the next cut may come at any step of it.
			time.Sleep(time.Duration(random.IntN(20_000)) * time.Millisecond)
		}
		for i, name := range []string{"a", "b", "c"} {
			if !hit[i] {
				continue
			}
			w.rebooted(i+1, before[i])
			epoch := w.heartbeat(i + 1).Epoch
			w.workload(id, name, bootTime, "runs again", func(r client.Workload) bool {
				return r.State == contract.StateRunning && r.Epoch == epoch
			})
		}
		w.meshUp(id)
		t.Logf("round %d: %d cuts so far, everything runs", rounds+1, cuts)
	}
	t.Logf("soak: seed %d, %d rounds, %d power cuts, all workloads and networks returned", *soakSeed, rounds, cuts)
}
