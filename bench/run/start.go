package main

import (
	"context"
	"fmt"

	"github.com/zero-os/zos/bench/table"
)

// start compares how long it takes until the agent of a micro-VM answers with how long
// the least machine takes to print a line.
func (b *bench) start(ctx context.Context) error {
	ready, hello := map[bool][]float64{}, []float64{}
	for range b.times {
		for _, erofs := range []bool{false, true} {
			disk, err := b.parts.newDisk("upper")
			if err != nil {
				return err
			}
			m, err := b.parts.startMicroVM(ctx, microVMOptions{disk: disk, erofs: erofs})
			if err != nil {
				return err
			}
			m.stop()
			ready[erofs] = append(ready[erofs], m.ready.Seconds()*1000)
		}
		m, err := b.parts.startPlain(ctx, plainOptions{initrd: b.parts.hello})
		if err != nil {
			return err
		}
		m.stop()
		hello = append(hello, m.hello.Seconds()*1000)
	}
	for erofs, name := range map[bool]string{false: "virtiofs, file server's start included", true: "block image"} {
		r, h := table.Median(ready[erofs]), table.Median(hello)
		b.Add("micro-VM until its agent answers, emulated, q35, root by "+name,
			fmt.Sprintf("%.2fx, median %.0f of %.0f ms (%d turns)", r/h, r, h, b.times), "≤ 1.2x of a plain QEMU line whose init prints, ≤ 4 s", r <= 1.2*h && r <= 4000)
	}
	return nil
}
