package node

import (
	"slices"
	"testing"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/rendezvous"
	tenant "github.com/zero-os/zos/workload/network"
)

// A device sends no probe that could be taken for a message of WireGuard's. What
// asks a rendezvous for the device's outside address must be one.
func TestObservationLeavesFromADevice(t *testing.T) {
	if err := wireguard.CheckProbe(rendezvous.ObserveProbe([16]byte{1})); err != nil {
		t.Error(err)
	}
}

// The kernel is sealed against modules before the first workload: what networks
// need must be in the image.
func TestImageCarriesWhatNetworksNeed(t *testing.T) {
	k, err := boot.OpenKernel("../build/kernel")
	if err != nil {
		t.Fatalf("%v (run: make deps)", err)
	}
	carried, err := k.Modules(t.Context(), boot.NodeModules()...)
	if err != nil {
		t.Fatal(err)
	}
	needed, err := k.Modules(t.Context(), slices.Concat(firewall.Modules(), tenant.Modules())...)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range needed {
		if !slices.ContainsFunc(carried, func(c boot.Module) bool { return c.Name == m.Name }) {
			t.Errorf("module %s is loaded and not carried: add it to boot.NodeModules", m.Name)
		}
	}
}
