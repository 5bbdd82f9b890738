package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// program is the one emulator that is used.
const program = "qemu-system-x86_64"

// accelArgs are the options of an accelerator; the probe and the machines use
// the same ones, so that the probe fails where a machine would.
func accelArgs(a Accel) []string {
	if a == KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max"}
}

// probeRuns is what isa-debug-exit makes of the 0x2a that the probe writes.
const probeRuns = 0x2a<<1 | 1

// ProbeAccel finds out whether KVM runs a guest here, by running one: a
// firmware image of a few instructions that writes one byte to a port.
// /dev/kvm exists on machines where no guest can be run, so its presence says
// nothing. It takes well under a second, at most five. The error says why KVM
// was not chosen; it is for the log.
func ProbeAccel(ctx context.Context) (Accel, error) {
	if err := probe(ctx, KVM); err != nil {
		return TCG, fmt.Errorf("KVM cannot run a guest here, falling back to emulation: %w", err)
	}
	return KVM, nil
}

func probe(ctx context.Context, accel Accel) error {
	if accel == KVM {
		f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		f.Close()
	}
	rom, err := os.CreateTemp("", "zos-probe-*.rom")
	if err != nil {
		return err
	}
	defer os.Remove(rom.Name())
	if _, err := rom.Write(probeROM()); err != nil {
		rom.Close()
		return err
	}
	if err := rom.Close(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	args := append(accelArgs(accel), "-machine", "q35", "-m", "64", "-nodefaults", "-no-user-config",
		"-display", "none", "-bios", rom.Name(), "-device", "isa-debug-exit,iobase=0xf4,iosize=1")
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == probeRuns {
		return nil
	}
	if err == nil {
		err = errors.New("the guest ended without a word")
	}
	return fmt.Errorf("probe guest: %w: %s", err, tail(out, 300))
}

// probeROM is a 64 KiB firmware. The processor starts at its last 16 bytes.
func probeROM() []byte {
	rom := make([]byte, 64<<10)
	for i := range rom {
		rom[i] = 0xf4 // hlt
	}
	copy(rom, []byte{
		0xb0, 0x2a, // mov al, 0x2a
		0xe6, 0xf4, // out 0xf4, al
	})
	copy(rom[0xfff0:], []byte{0xea, 0x00, 0x00, 0x00, 0xf0}) // jmp f000:0000
	return rom
}
