package grid

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/zero-os/zos/qemu"
)

// Sizes of a grid's machines.
const (
	diskSize       = 8 << 30 // bytes, sparse
	memoryWithDisk = 512     // MiB; what a node with a disk needs
	memoryDiskless = 1024    // MiB; the store lives in it too
)

// powerOnPause keeps a machine that dies at once from being started in a loop.
const powerOnPause = 500 * time.Millisecond

// machine is a node's hardware: a QEMU machine that is powered on again
// whenever it goes off, as a farmer's would be.
type machine struct {
	name   string
	config qemu.Config
	public *Public // nil: it has none
	log    *slog.Logger
	change func() // called when pid or boots have changed

	mu    sync.Mutex
	vm    *qemu.VM
	boots int
	held  chan struct{} // not nil: stay off until it is closed
}

// newMachine lays out the hardware of node number i in the grid's directory.
func newMachine(d dir, name string, i int, o Options, bootFile string, log *slog.Logger) (*machine, error) {
	home := d.node(name)
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, fmt.Errorf("make the machine %s: %w", name, err)
	}
	c := qemu.Config{
		Name: name, MemoryMB: memoryWithDisk, CPUs: 1, Firmware: o.Firmware, Dir: filepath.Join(home, "qemu"),
		Console: filepath.Join(home, "console.log"),
		Network: &qemu.Network{MAC: macOf(i), BootFile: bootFile, Segment: filepath.Join(home, "segment")},
	}
	if o.Underlay != nil {
		c.Network, c.Extra = nil, o.Underlay.Wire(i, macOf(i), bootFile)
	}
	if o.Memory != 0 {
		c.MemoryMB = o.Memory
	}
	switch identity := o.identity(i); identity {
	case IdentityDisk, IdentityTPM:
		disk := filepath.Join(home, "disk.img")
		if err := makeDisk(disk); err != nil {
			return nil, fmt.Errorf("make the disk of %s: %w", name, err)
		}
		c.Disks = []qemu.Disk{{Path: disk, Serial: serialOf(name)}}
		if identity == IdentityTPM {
			c.TPM = filepath.Join(home, "tpm")
		}
	case IdentityNone:
		if o.Memory == 0 {
			c.MemoryMB = memoryDiskless
		}
	}
	m := &machine{name: name, config: c, log: log, change: func() {}}
	if i <= o.Nodes-o.Gateways {
		return m, nil
	}
	side := loopbackPublic
	if o.Underlay != nil {
		side = o.Underlay.Public
	}
	public, err := side(i)
	if err != nil {
		return nil, fmt.Errorf("make the public side of %s: %w", name, err)
	}
	m.public = &public
	m.config.Extra = append(m.config.Extra, public.Args...)
	return m, nil
}

// macOf is the hardware address of node number i, by which its slot knows it.
func macOf(i int) string {
	return fmt.Sprintf("52:54:00:5a:%02x:%02x", i>>8&0xff, i&0xff)
}

func serialOf(name string) string { return "zos-" + name }

// makeDisk makes a blank sparse disk unless there is one.
func makeDisk(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(diskSize), f.Close())
}

// run keeps the machine powered on until ctx ends.
func (m *machine) run(ctx context.Context) error {
	for {
		vm, err := qemu.Start(ctx, m.config)
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), kill(vm))
		}
		if err != nil {
			return fmt.Errorf("power on %s: %w", m.name, err)
		}
		m.mu.Lock()
		m.vm = vm
		m.boots++
		m.mu.Unlock()
		m.change()
		select {
		case <-ctx.Done():
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			err := vm.Stop(stop)
			cancel()
			if err != nil {
				err = kill(vm)
			}
			return errors.Join(ctx.Err(), err)
		case <-vm.Done():
			m.log.Warn("the machine went off, powering it on again", "node", m.name)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.released():
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(powerOnPause):
		}
	}
}

// released is closed when the machine may be powered on.
func (m *machine) released() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held != nil {
		return m.held
	}
	free := make(chan struct{})
	close(free)
	return free
}

// powerOff cuts the power, as pulling the plug would, until powerOn.
func (m *machine) powerOff() error {
	m.mu.Lock()
	vm := m.vm
	if m.held == nil {
		m.held = make(chan struct{})
	}
	m.mu.Unlock()
	return kill(vm)
}

// powerOn gives power again.
func (m *machine) powerOn() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held != nil {
		close(m.held)
		m.held = nil
	}
}

func kill(vm *qemu.VM) error {
	if vm == nil {
		return nil
	}
	return vm.Kill()
}

// state is what others are told of the machine.
func (m *machine) state() NodeState {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := NodeState{Name: m.name, Boots: m.boots, Console: m.config.Console, TPM: m.config.TPM}
	if m.config.Network != nil {
		s.Segment = m.config.Network.Segment
	}
	if m.vm != nil {
		s.PID = m.vm.PID()
	}
	if m.public != nil {
		s.Public = m.public.Forwards
	}
	if len(m.config.Disks) > 0 {
		s.Disk = m.config.Disks[0].Path
	}
	return s
}
