//go:build !invm

package vmm

import (
	"context"
	"testing"
	"time"
	"unsafe"

	"github.com/zero-os/zos/qemu"
)

func TestProbeSaysWhatQEMUFinds(t *testing.T) {
	began := time.Now()
	a := Probe(context.Background())
	t.Logf("measured: probe took %s: %v; %v; %v", time.Since(began), a.KVM, a.Vsock, a.VhostNet)
	accel, err := qemu.ProbeAccel(context.Background())
	if (accel == qemu.KVM) != (a.KVM == nil) {
		t.Errorf("QEMU runs with %s (%v), the probe says %v", accel, err, a.KVM)
	}
}

func TestStructsAreAsLargeAsTheKernels(t *testing.T) {
	if n := unsafe.Sizeof(kvmSregs{}); n != 312 {
		t.Errorf("%d", n)
	}
	if n := unsafe.Sizeof(kvmRegs{}); n != 144 {
		t.Errorf("%d", n)
	}
	if n := unsafe.Sizeof(kvmMemoryRegion{}); n != 32 {
		t.Errorf("%d", n)
	}
}
