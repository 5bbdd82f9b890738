//go:build soak

package grid

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/qemu"
)

var (
	soakSeed = flag.Uint64("soak.seed", 1, "seed of the faults")
	soakFor  = flag.Duration("soak.for", time.Hour, "how long to go on")
)

// meshed is trio in one network.
var meshed = strings.ReplaceAll(strings.Replace(trio, "workloads:", "networks: [{name: mesh}]\nworkloads:", 1), "resources:", "networks: [mesh], resources:")

// TestSoak cuts the power of nodes at random moments, alone and together, also
// while they boot, and asserts after each round that every workload runs again,
// and that its network has come back between all nodes.
func TestSoak(t *testing.T) {
	w := startWorld(t, qemu.BIOS, "disk,tpm,none", 3)
	random := rand.New(rand.NewPCG(*soakSeed, 0))
	id := w.deploy(meshed)
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

// meshUp waits until every node of a contract's network has shaken hands with
// every other one, by keys that both hold now.
func (w *world) meshUp(id canon.Hash) {
	w.Helper()
	slots := w.g.founding.slotIDs
	w.eventually(actTime, "the network is up between all nodes", func(ctx context.Context) (bool, string, error) {
		keys, up, seen := map[canon.Hash][]byte{}, 0, ""
		var all []protocol.NetworkStatus
		for _, slot := range slots {
			s, err := w.c.NetworkStatus(ctx, slot, id, w.keys["red"])
			if err != nil {
				return false, err.Error(), transient(err)
			}
			all = append(all, s)
			for _, n := range s.Networks {
				for _, k := range n.Keys {
					keys[slot] = k.PublicKey // the newest comes last
				}
			}
		}
		for _, s := range all {
			for _, n := range s.Networks {
				for _, p := range n.Peers {
					seen += fmt.Sprintf("%s→%s %s %s; ", s.Slot.Short(), p.Slot.Short(), p.State, p.Code)
					if p.State == protocol.PeerUp && bytes.Equal(p.PublicKey, keys[p.Slot]) {
						up++
					}
				}
			}
		}
		return up == len(slots)*(len(slots)-1), seen, nil
	})
}
