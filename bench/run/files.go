package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/zero-os/zos/bench/table"
)

// hostMeasure runs the meter here.
func (p *parts) hostMeasure(ctx context.Context, args ...string) (float64, error) {
	cmd := exec.CommandContext(ctx, p.meter, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("meter: %w: %s", err, out)
	}
	return result(string(out))
}

// pair is a micro-VM and its peer, each with a disk of its own.
func (b *bench) pair(ctx context.Context, erofs bool) (*microVM, *plainMachine, error) {
	ours, err := b.parts.newDisk("ours")
	if err != nil {
		return nil, nil, err
	}
	theirs, err := b.parts.newDisk("theirs")
	if err != nil {
		return nil, nil, err
	}
	m, err := b.parts.startMicroVM(ctx, microVMOptions{disk: ours, erofs: erofs})
	if err != nil {
		return nil, nil, err
	}
	p, err := b.parts.startPlain(ctx, plainOptions{initrd: b.parts.plain, disks: []string{theirs}, erofs: b.parts.imageEROFS})
	if err != nil {
		m.stop()
		return nil, nil, err
	}
	return m, p, nil
}

// files reads a file of the image that is in the page cache: on the host, in a micro-VM
// by either way, and in the peer from an EROFS without anything above it. The processor
// inside is emulated and the host's is not, so it is the last that shows what the file
// system costs.
func (b *bench) files(ctx context.Context) error {
	ms := fmt.Sprint(b.length.Milliseconds())
	for _, erofs := range []bool{false, true} {
		name := map[bool]string{false: "virtiofs", true: "a block image"}[erofs]
		m, p, err := b.pair(ctx, erofs)
		if err != nil {
			return err
		}
		for _, how := range []string{"seq", "rand"} {
			var inside, host, plain []float64
			for range b.times {
				i, err := m.measure(ctx, nil, how, "/blob", ms)
				if err == nil {
					var h, q float64
					if h, err = b.parts.hostMeasure(ctx, how, filepath.Join(b.parts.image, "blob"), ms); err == nil {
						q, err = p.measure(nil, how, "/run/blob", ms)
					}
					inside, host, plain = append(inside, i), append(host, h), append(plain, q)
				}
				if err != nil {
					m.stop()
					p.stop()
					return err
				}
			}
			what := map[string]string{"seq": "sequential", "rand": "random 4 KiB"}[how]
			b.Add(fmt.Sprintf("warm %s reads of the root by %s, emulated, beside the host's mount (not emulated)", what, name),
				fmt.Sprintf("%.2fx, %.0f of %.0f MB/s", table.Median(inside)/table.Median(host), table.Median(inside), table.Median(host)), "", true)
			b.addRatio(fmt.Sprintf("warm %s reads of the root by %s, both emulated", what, name), inside, plain, "an EROFS mounted in a plain machine", 0.7)
		}
		m.stop()
		p.stop()
	}
	return nil
}

// disk writes and reads the writable layer, and the same disk of a plain machine.
func (b *bench) disk(ctx context.Context) error {
	m, p, err := b.pair(ctx, false)
	if err != nil {
		return err
	}
	defer m.stop()
	defer p.stop()
	ms := fmt.Sprint(b.length.Milliseconds())
	for _, how := range []struct {
		name string
		args []string
	}{
		{"written and synchronised, 96 MiB", []string{"write", "/data/file", "96"}},
		{"read past the guest's page cache", []string{"direct", "/data/file", ms}},
	} {
		var inside, plain []float64
		for range b.times {
			i, err := m.measure(ctx, nil, how.args...)
			if err != nil {
				return err
			}
			q, err := p.measure(nil, how.args...)
			if err != nil {
				return err
			}
			inside, plain = append(inside, i), append(plain, q)
		}
		b.addRatio("the writable layer's disk, "+how.name, inside, plain, "virtio-blk in plain QEMU", 0.8)
	}
	return nil
}
