package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/workload/logs"
	"github.com/zero-os/zos/workload/shim"
)

// engine is a shim.Engine.
type engine struct {
	dir      string
	ring     *logs.Writer
	runtimes []shim.Runtime // the monitor's, the file server's
	monitor  vmm.VMM

	errs *os.File // FIFO of complaints
	done sync.WaitGroup
}

// Open is the shim.Opener of shim.EngineMachine.
func Open(_ context.Context, h shim.Host, s shim.Spec) (shim.Engine, error) {
	e := &engine{dir: h.Dir, ring: h.Ring, runtimes: Runtimes(s.Runtime()), monitor: vmm.QEMU{}}
	path := filepath.Join(h.Dir, errorFIFO)
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make FIFO %s: %w", path, err)
	}
	// Also open for writing, so that there is never an end of file.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open FIFO: %w", err)
	}
	e.errs = f
	e.done.Add(1)
	go e.complaints()
	return e, nil
}

// complaintRate bounds what is kept of complaints, in bytes a second; a guest can
// make a monitor print a lot.
const complaintRate = 16 << 10

// complaintPause is between two looks at what is too much: each costs the node something.
const complaintPause = 100 * time.Millisecond

// complaints copies what monitor and file server print into the ring.
func (e *engine) complaints() {
	defer e.done.Done()
	buf := make([]byte, 4096)
	left, window := complaintRate, time.Now()
	for {
		n, err := e.errs.Read(buf)
		if err != nil {
			return
		}
		if time.Since(window) > time.Second {
			left, window = complaintRate, time.Now()
		}
		n = min(n, left)
		if left -= n; left == 0 {
			// A monitor does not wait for its shim: what finds no room is lost.
			time.Sleep(complaintPause)
		}
		for line := range bytes.Lines(buf[:n]) {
			if !usual(line) {
				_ = e.ring.Write(logs.Node, line)
			}
		}
	}
}

// usual tells whether a line is one that the file server prints at every end of a
// machine, when all is well.
func usual(line []byte) bool {
	return bytes.HasPrefix(line, []byte("fv_remove_watch: TODO!")) || bytes.HasPrefix(line, []byte("virtio_loop: Unexpected poll revents"))
}

// Close implements shim.Engine.
func (e *engine) Close() error {
	err := e.errs.Close()
	e.done.Wait()
	return err
}

// Clean implements shim.Engine.
func (e *engine) Clean(ctx context.Context) error {
	var errs []error
	for _, r := range e.runtimes {
		errs = append(errs, r.Clean(ctx))
	}
	for _, name := range []string{qmpSocket, agentSocket, consSocket, fsSocket, stallFile} {
		if err := os.Remove(filepath.Join(e.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Start implements shim.Engine.
func (e *engine) Start(ctx context.Context, s shim.Spec) (shim.Instance, error) {
	c, err := readConfig(s)
	if err != nil {
		return nil, err
	}
	if err := prepareGroup(s); err != nil {
		return nil, err
	}
	// One of its own, that never blocks: a monitor must not wait for its shim.
	fd, err := unix.Open(filepath.Join(e.dir, errorFIFO), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open FIFO: %w", err)
	}
	out := os.NewFile(uintptr(fd), errorFIFO)
	defer out.Close()
	turn, err := takeTurn(ctx, e.dir)
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	i := newInstance(e, s, c, true)
	if err := e.start(ctx, i, out); err != nil {
		i.Release()
		return nil, err
	}
	return i, nil
}

func (e *engine) start(ctx context.Context, i *instance, out *os.File) error {
	if i.config.Share {
		l, err := listen(filepath.Join(e.dir, fsSocket))
		if err != nil {
			return fmt.Errorf("start file server: %w", err)
		}
		ref, err := e.runtimes[1].Start(ctx, shim.Bundle{
			Dir: filepath.Join(e.dir, FileServerDir), Work: e.dir, Name: "fs-", Stdout: out, Stderr: out, Extra: []*os.File{l},
		})
		l.Close()
		if err != nil {
			return fmt.Errorf("start file server: %w", err)
		}
		if i.files, err = ref.Open(); err != nil {
			return fmt.Errorf("start file server: %w", err)
		}
	}
	files, err := i.config.open(ctx, e.dir)
	if err != nil {
		return err
	}
	ref, err := e.runtimes[0].Start(ctx, shim.Bundle{
		Dir: filepath.Join(e.dir, shim.BundleDir), Work: e.dir, Stdout: out, Stderr: out, Extra: files,
	})
	files.Close()
	if err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	if i.vm, err = ref.Open(); err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	if err := shim.CheckSecurity(ctx, ref, true); err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	if err := i.take(ctx, false); err != nil {
		return err
	}
	// Not before: the guest's kernel would start at the program's pace.
	return setCPU(i.spec)
}

// Adopt implements shim.Engine.
func (e *engine) Adopt(ctx context.Context, s shim.Spec, known process.Ref) (shim.Instance, error) {
	c, err := readConfig(s)
	if err != nil {
		return nil, err
	}
	i := newInstance(e, s, c, false)
	if err := e.adopt(ctx, i, known); err != nil {
		i.Release()
		_ = e.ring.Write(logs.Node, fmt.Appendf(nil, "a machine that runs can't be taken over: %v\n", err))
		return nil, nil
	}
	if i.vm == nil {
		return nil, nil
	}
	return i, nil
}

func (e *engine) adopt(ctx context.Context, i *instance, known process.Ref) error {
	find := func(r shim.Runtime) (*process.Handle, error) {
		status, pid, err := r.State(ctx)
		if err != nil || status != "running" {
			return nil, err
		}
		ref, err := process.Of(pid)
		if err != nil {
			return nil, nil //nolint:nilerr // it has just ended
		}
		if r.ID == e.runtimes[0].ID && !known.IsZero() && known != ref {
			return nil, errors.New("it is another one")
		}
		return ref.Open()
	}
	vm, err := find(e.runtimes[0])
	if err != nil || vm == nil {
		return err
	}
	i.vm = vm
	if i.config.Share {
		if i.files, err = find(e.runtimes[1]); err != nil {
			return err
		}
		if i.files == nil {
			return errors.New("its file server is gone")
		}
	}
	if err := shim.CheckSecurity(ctx, i.vm.Ref(), true); err != nil {
		return err
	}
	return i.take(ctx, true)
}

// Missed implements shim.Engine.
func (e *engine) Missed(_ context.Context, s shim.Spec, known process.Ref) shim.Ended {
	c, err := readConfig(s)
	f := facts{agent: err == nil && c.Agent, begun: true, monitor: shim.OrphanExit(s.Exits, known), hostOOM: oomKilled(s)}
	return verdict(f)
}

func oomKilled(s shim.Spec) bool {
	return cgroup.Group(s.Cgroup).Event("memory.events", "oom_kill") > 0
}

// prepareGroup makes the workload's cgroup, which limits monitor and file server
// together.
func prepareGroup(s shim.Spec) error {
	if err := os.MkdirAll(s.Cgroup, 0o755); err != nil {
		return fmt.Errorf("make the machine's cgroup: %w", err)
	}
	// Controllers are handed down from the root, one level after the other.
	var levels []string
	for g := filepath.Clean(s.Cgroup); g != "/" && g != filepath.Dir(cgroup.Root); g = filepath.Dir(g) {
		levels = append(levels, g)
	}
	slices.Reverse(levels)
	for _, g := range levels {
		for _, controller := range []string{"+cpu", "+memory", "+pids", "+io"} {
			if err := os.WriteFile(filepath.Join(g, "cgroup.subtree_control"), []byte(controller), 0); err != nil && controller != "+io" {
				return fmt.Errorf("make the machine's cgroup: %w", err)
			}
		}
	}
	for file, value := range map[string]uint64{"memory.max": s.Limits.Memory, "memory.swap.max": 0} {
		if file == "memory.max" && value == 0 {
			continue
		}
		err := os.WriteFile(filepath.Join(s.Cgroup, file), []byte(strconv.FormatUint(value, 10)), 0)
		if err != nil && (file == "memory.max" || !errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("limit the machine's memory: %w", err)
		}
	}
	return nil
}

// setCPU limits processor time, once what runc itself does is over.
func setCPU(s shim.Spec) error {
	if err := os.WriteFile(filepath.Join(s.Cgroup, "cpu.max"), []byte(cgroup.CPUMax(s.Limits.CPU)), 0); err != nil {
		return fmt.Errorf("limit the machine's processor time: %w", err)
	}
	return nil
}
