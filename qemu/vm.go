package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/qemu/segment"
)

// How long things may take that are done in milliseconds when all is well.
const (
	startTimeout = 30 * time.Second
	stopTimeout  = 5 * time.Second
)

// VM is a running machine.
type VM struct {
	config  Config
	accel   Accel
	qemu    *child
	tpm     *child // nil without a TPM
	qmp     *Monitor
	output  *ring
	segment *segment.Switch // nil without one
	done    chan struct{}   // closed when everything has been cleaned up
	err     error           // valid once done is closed

	mu       sync.Mutex
	asked    bool // Stop or Kill was called: a signal is no failure
	shutdown string
}

// Start starts the machine and returns when QEMU answers, the guest being about
// to run its first instruction. The context bounds the start only. The caller
// must call Wait, Stop or Kill in the end.
func Start(ctx context.Context, c Config) (*VM, error) {
	vm, err := start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("start machine %s: %w", c.Name, err)
	}
	return vm, nil
}

func start(ctx context.Context, c Config) (_ *VM, err error) {
	if err := c.check(); err != nil {
		return nil, problem.New("machine-invalid", "%w", err)
	}
	if c, err = c.absolute(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	bin, err := exec.LookPath(program)
	if err != nil {
		return nil, problem.New("tool-missing", "%w", err).WithFix("run: sudo make deps")
	}
	vm := &VM{config: c, accel: c.Accel, output: &ring{max: 16 << 10}, done: make(chan struct{})}
	if c.Steady {
		vm.accel = TCG
	}
	if vm.accel == "" {
		vm.accel, _ = ProbeAccel(ctx)
	}
	var undo []func()
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()
	// Only UEFI's variables need a directory; a machine without one leaves no
	// trace even if this process is killed.
	ownDir := c.Dir == "" && c.Firmware == UEFI
	if ownDir {
		if c.Dir, err = os.MkdirTemp("", "zos-qemu-"); err != nil {
			return nil, err
		}
		undo = append(undo, func() { os.RemoveAll(c.Dir) })
	} else if c.Dir != "" {
		if err := os.MkdirAll(c.Dir, 0o700); err != nil {
			return nil, err
		}
	}
	var code, vars string
	if c.Firmware == UEFI {
		var template string
		if code, template, err = ovmf(); err != nil {
			return nil, err
		}
		if vars, err = privateVars(c.Dir, template); err != nil {
			return nil, err
		}
	}

	// What QEMU inherits; our copies are closed once it has its own, so that
	// connections end with it.
	var inherited []*os.File
	defer func() {
		for _, f := range inherited {
			f.Close()
		}
	}()
	inherit := func(f *os.File) int {
		inherited = append(inherited, f)
		return 2 + len(inherited)
	}
	var fd fds
	conn, theirs, err := connPair("qmp")
	if err != nil {
		return nil, err
	}
	fd.qmp = inherit(theirs)
	undo = append(undo, func() { conn.Close() })

	if c.TPM != "" {
		tpm, theirs, err := startTPM(c.TPM, vm.output)
		if err != nil {
			return nil, err
		}
		vm.tpm = tpm
		undo = append(undo, tpm.kill)
		fd.tpm = inherit(theirs)
	}
	if c.Network != nil && c.Network.Segment != "" {
		vm.segment = segment.New()
		undo = append(undo, func() { vm.segment.Close() })
		if fd.nic, err = vm.port(segment.Node, inherit); err != nil {
			return nil, err
		}
		if fd.gateway, err = vm.port(segment.Gateway, inherit); err != nil {
			return nil, err
		}
		// A socket that a killed process left behind would be in the way.
		if err := os.Remove(c.Network.Segment); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("remove old segment socket: %w", err)
		}
		if err := vm.segment.Listen(c.Network.Segment); err != nil {
			return nil, err
		}
	}

	cmd := exec.Command(bin, c.args(vm.accel, code, vars, fd)...)
	cmd.ExtraFiles = inherited
	cmd.Stdout, cmd.Stderr = vm.output, vm.output
	cmd.Dir = "/" // every path is absolute, and no directory of anyone's is held
	if vm.qemu, err = spawn(cmd); err != nil {
		return nil, err
	}
	undo = append(undo, func() { vm.qemu.kill() })
	for _, f := range inherited {
		f.Close()
	}
	inherited = nil

	if vm.qmp, err = OpenMonitor(ctx, conn, vm.event); err != nil {
		select {
		case <-vm.qemu.done: // it died at once: what it said is the reason
			err = fmt.Errorf("%s ended: %v: %s", program, vm.qemu.err, vm.output.tail())
		case <-time.After(time.Second):
			err = fmt.Errorf("%w: %s", err, vm.output.tail())
		}
		return nil, problem.New("machine-start", "%w", err)
	}
	go vm.reap(c, ownDir)
	return vm, nil
}

// reap waits for QEMU's end and clears everything away.
func (vm *VM) reap(c Config, removeDir bool) {
	<-vm.qemu.done
	vm.qmp.Close()
	if vm.tpm != nil {
		// It ends by itself when QEMU's end of the connection closes, having
		// written its state; only then is it safe to start the machine again.
		select {
		case <-vm.tpm.done:
		case <-time.After(stopTimeout):
			vm.tpm.kill()
		}
	}
	var errs []error
	if vm.segment != nil {
		errs = append(errs, vm.segment.Close())
	}
	if removeDir {
		errs = append(errs, os.RemoveAll(c.Dir))
	}
	vm.mu.Lock()
	asked := vm.asked
	vm.mu.Unlock()
	if vm.qemu.err != nil && !asked {
		errs = append(errs, problem.New("machine-died", "machine %s: %s: %w: %s", c.Name, program, vm.qemu.err, vm.output.tail()))
	}
	vm.err = errors.Join(errs...)
	close(vm.done)
}

// port attaches a port of the segment and returns the descriptor under which
// QEMU inherits the other end.
func (vm *VM) port(kind segment.Kind, inherit func(*os.File) int) (int, error) {
	ours, theirs, err := connPair("segment")
	if err != nil {
		return 0, err
	}
	fd := inherit(theirs)
	return fd, vm.segment.Attach(ours, kind)
}

func (vm *VM) event(e Event) {
	if e.Name != "SHUTDOWN" {
		return
	}
	var d struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(e.Data, &d) == nil {
		vm.mu.Lock()
		vm.shutdown = d.Reason
		vm.mu.Unlock()
	}
}

// PID is QEMU's process id.
func (vm *VM) PID() int { return vm.qemu.cmd.Process.Pid }

// Accel is the accelerator that the machine runs with.
func (vm *VM) Accel() Accel { return vm.accel }

// Config is what the machine was started with, paths made absolute.
func (vm *VM) Config() Config { return vm.config }

// Done is closed when the machine has ended and is cleared away.
func (vm *VM) Done() <-chan struct{} { return vm.done }

// Wait waits for the machine's end. It returns nil if the guest powered off or
// Stop or Kill was called, else what QEMU said.
func (vm *VM) Wait(ctx context.Context) error {
	select {
	case <-vm.done:
		return vm.err
	case <-ctx.Done():
		return fmt.Errorf("wait for machine %s: %w", vm.config.Name, ctx.Err())
	}
}

// Stop pulls the plug in an orderly way: QEMU writes out what it holds (disk
// images, TPM state) and ends. The guest is not asked.
func (vm *VM) Stop(ctx context.Context) error {
	vm.expectEnd()
	quit, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	_, quitErr := vm.qmp.Run(quit, "quit", nil)
	select {
	case <-vm.done:
		return vm.err
	case <-quit.Done():
		_ = vm.qemu.cmd.Process.Kill()
		<-vm.done
		return errors.Join(fmt.Errorf("machine %s did not stop and was killed: %w", vm.config.Name, quitErr), vm.err)
	}
}

// Kill ends QEMU with SIGKILL, as a power failure would end the machine, and
// returns when everything is cleared away.
func (vm *VM) Kill() error {
	vm.expectEnd()
	_ = vm.qemu.cmd.Process.Kill()
	<-vm.done
	return vm.err
}

func (vm *VM) expectEnd() {
	vm.mu.Lock()
	vm.asked = true
	vm.mu.Unlock()
}

// Reset restarts the machine as its reset button would.
func (vm *VM) Reset(ctx context.Context) error {
	_, err := vm.Command(ctx, "system_reset", nil)
	return err
}

// Command runs any QMP command.
func (vm *VM) Command(ctx context.Context, name string, arguments any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return vm.qmp.Run(ctx, name, arguments)
}

// socketPair makes a connected pair: no path, so nothing to clean up and no
// limit on its length.
func socketPair(name string) (ours, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s socket pair: %w", name, err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}

// connPair is socketPair with our end as a connection.
func connPair(name string) (net.Conn, *os.File, error) {
	ours, theirs, err := socketPair(name)
	if err != nil {
		return nil, nil, err
	}
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("open %s: %w", name, err)
	}
	return conn, theirs, nil
}

// ring keeps the last max bytes written to it.
type ring struct {
	mu  sync.Mutex
	b   []byte
	max int
}

func (r *ring) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.b = append(r.b, b...)
	if over := len(r.b) - r.max; over > 0 {
		r.b = append(r.b[:0], r.b[over:]...)
	}
	return len(b), nil
}

func (r *ring) tail() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return tail(r.b, r.max)
}

// tail is the end of b as one readable line.
func tail(b []byte, n int) string {
	b = bytes.TrimSpace(b)
	if len(b) > n {
		b = b[len(b)-n:]
	}
	return string(bytes.ReplaceAll(b, []byte("\n"), []byte("; ")))
}
