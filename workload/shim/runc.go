package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/linux/reap"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/logs"
)

// runcEngine runs an OCI container. Its output comes through two FIFOs.
type runcEngine struct {
	dir     string
	runtime Runtime
	pumps   []*pump
}

// OpenRunc is the Opener of EngineRunc.
func OpenRunc(_ context.Context, h Host, s Spec) (Engine, error) {
	e := &runcEngine{dir: h.Dir, runtime: s.Runtime()}
	for _, std := range []struct {
		name   string
		stream logs.Stream
	}{{"stdout", logs.Stdout}, {"stderr", logs.Stderr}} {
		p, err := startPump(filepath.Join(h.Dir, std.name), s.UID, s.GID, std.stream, h.Ring, s.LogRate)
		if err != nil {
			return nil, errors.Join(err, e.Close())
		}
		e.pumps = append(e.pumps, p)
	}
	return e, nil
}

// Close implements Engine.
func (e *runcEngine) Close() error {
	for _, p := range e.pumps {
		p.close()
	}
	return nil
}

// Adopt implements Engine.
func (e *runcEngine) Adopt(ctx context.Context, s Spec, known process.Ref) (Instance, error) {
	status, pid, err := e.runtime.State(ctx)
	if err != nil || status != "running" {
		return nil, err
	}
	ref, err := process.Of(pid)
	if err != nil || !known.IsZero() && known != ref {
		return nil, nil //nolint:nilerr // what runs is not it
	}
	c, err := e.take(ctx, s, ref, false)
	if err != nil {
		return nil, nil //nolint:nilerr // not confined as it must be: it is cleaned away
	}
	return c, nil
}

// Missed implements Engine.
func (e *runcEngine) Missed(_ context.Context, s Spec, known process.Ref) Ended {
	return e.verdict(s, OrphanExit(s.Exits, known))
}

// Clean implements Engine.
func (e *runcEngine) Clean(ctx context.Context) error { return e.runtime.Clean(ctx) }

// Start implements Engine.
func (e *runcEngine) Start(ctx context.Context, s Spec) (Instance, error) {
	var ends []*os.File
	defer func() {
		for _, f := range ends {
			f.Close()
		}
	}()
	for _, p := range e.pumps {
		f, err := p.containerEnd()
		if err != nil {
			return nil, err
		}
		ends = append(ends, f)
	}
	ref, err := e.runtime.Start(ctx, Bundle{Dir: filepath.Join(e.dir, BundleDir), Work: e.dir, Stdout: ends[0], Stderr: ends[1]})
	if err != nil {
		return nil, err
	}
	return e.take(ctx, s, ref, true)
}

// take makes ref the instance, once its confinement is proven.
func (e *runcEngine) take(ctx context.Context, s Spec, ref process.Ref, child bool) (*container, error) {
	h, err := ref.Open()
	if err != nil {
		return nil, err
	}
	c := &container{engine: e, spec: s, handle: h, child: child, group: cgroup.Group(s.Cgroup)}
	if err := CheckSecurity(ctx, ref, s.NoNewPrivs); err != nil {
		h.Close()
		return nil, err
	}
	// runc's own work before this was the node's, so cpu.max waits until now.
	if _, err := c.Resize(ctx, s.Limits); err != nil && ref.Alive() {
		h.Close()
		return nil, err
	}
	return c, nil
}

// verdict says why a container ended, by its cgroup and its disk, which are still there.
func (e *runcEngine) verdict(s Spec, x process.Exit) Ended {
	switch {
	case x.Code == -1:
		return Ended{Exit: x, Detail: "ended while no shim watched; exit code unknown"}
	case x.Signal == int(unix.SIGKILL) && cgroup.Group(s.Cgroup).Event("memory.events", "oom_kill") > 0:
		return Ended{Exit: x, Reason: ReasonOOM, Detail: "killed for using more than its memory limit"}
	}
	return Ended{Exit: x}
}

// container is one run of an OCI container.
type container struct {
	engine *runcEngine
	spec   Spec
	handle *process.Handle
	child  bool // of this process, so that its exit code comes here
	group  cgroup.Group
	execs  atomic.Uint64 // numbers the programs run inside it
}

// Process implements Instance.
func (c *container) Process() process.Ref { return c.handle.Ref() }

// Release implements Instance.
func (c *container) Release() { c.handle.Close() }

// Wait implements Instance.
func (c *container) Wait(ctx context.Context) (Ended, error) {
	if err := c.handle.Wait(ctx); err != nil {
		return Ended{}, err
	}
	if !c.child {
		return c.engine.verdict(c.spec, OrphanExit(c.spec.Exits, c.handle.Ref())), nil
	}
	return c.engine.verdict(c.spec, Reap(c.handle.Ref().PID)), nil
}

// Stop implements Instance.
func (c *container) Stop(ctx context.Context, sig unix.Signal) error { return c.Signal(ctx, sig) }

// Signal implements Instance.
func (c *container) Signal(_ context.Context, sig unix.Signal) error { return c.handle.Signal(sig) }

// Kill implements Instance.
func (c *container) Kill(ctx context.Context) error {
	if err := c.group.Kill(ctx); err != nil {
		return err
	}
	_ = c.handle.Signal(unix.SIGKILL) // in case that it was in no cgroup
	return nil
}

// Resize implements Instance. Memory that is in use can't be taken away: limits
// below that need a new start.
func (c *container) Resize(_ context.Context, l control.Limits) (bool, error) {
	if l.Memory > 0 && !c.fits(l.Memory) {
		return false, nil
	}
	for _, f := range []struct{ file, value string }{
		{"memory.max", number(l.Memory)}, {"memory.swap.max", "0"}, {"pids.max", number(l.PIDs)}, {"cpu.max", cgroup.CPUMax(l.CPU)},
	} {
		if err := os.WriteFile(filepath.Join(string(c.group), f.file), []byte(f.value), 0); err != nil {
			return false, fmt.Errorf("limit the container: %w", err)
		}
	}
	return true, nil
}

// fits tells whether what the container has in memory, without what the kernel can
// drop, is safely below limit.
func (c *container) fits(limit uint64) bool {
	st := c.group.Stats()
	if st.MemoryMax != 0 && limit >= st.MemoryMax {
		return true
	}
	used := st.Memory - min(st.Memory, c.group.Event("memory.stat", "inactive_file")+c.group.Event("memory.stat", "slab_reclaimable"))
	return used+limit/16 < limit
}

func number(n uint64) string {
	if n == 0 {
		return "max"
	}
	return strconv.FormatUint(n, 10)
}

// Probe implements Instance.
func (c *container) Probe(ctx context.Context, p control.Probe) error {
	if p.Kind == "exec" {
		return c.check(ctx, p.Args)
	}
	ns, err := networkOf(c.Process())
	if err != nil {
		return err
	}
	defer ns.Close()
	return checkNet(ctx, fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), p)
}

// Stats implements Instance.
func (c *container) Stats(context.Context) (control.Stats, error) {
	g := c.group.Stats()
	rx, tx := Traffic(fmt.Sprintf("/proc/%d/net/dev", c.Process().PID))
	return control.Stats{
		CPUMicros: g.CPUMicros, Throttled: g.Throttled, Memory: g.Memory, MemoryCache: g.Cache, MemoryLimit: g.MemoryMax,
		PIDs: g.PIDs, OOMKills: g.OOMKills, ReadBytes: g.ReadBytes, WriteBytes: g.WriteBytes,
		PSICPU: g.PSICPU, PSIMemory: g.PSIMemory, PSIIO: g.PSIIO, NetReceived: rx, NetSent: tx,
	}, nil
}

// Traffic adds up what the workload's own devices, eth0 and so on, have received and
// sent by the /proc/PID/net/dev at path, in bytes; zeros if it can't be read.
func Traffic(path string) (received, sent uint64) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !ok || len(f) < 9 || !strings.HasPrefix(strings.TrimSpace(name), "eth") {
			continue
		}
		rx, _ := strconv.ParseUint(f[0], 10, 64)
		tx, _ := strconv.ParseUint(f[8], 10, 64)
		received, sent = received+rx, sent+tx
	}
	return received, sent
}

// Serve implements Instance.
func (c *container) Serve(ctx context.Context, conn *control.Conn, r control.Request) error {
	switch r.Verb {
	case control.VerbExec:
		return c.exec(ctx, conn, *r.Exec)
	case control.VerbGet, control.VerbPut:
		t, err := treeOf(c.Process(), c.spec.UID&^0xffff)
		if err != nil {
			return err
		}
		defer t.close()
		if r.Verb == control.VerbGet {
			err = t.get(ctx, r.Path, conn.Stream(control.FrameStdout))
		} else {
			err = t.put(ctx, r.Path, framesOf(conn))
		}
		if err != nil {
			return err
		}
		return conn.Exit(0)
	}
	return unsupported(r.Verb)
}

func unsupported(verb string) error {
	return problem.New(CodeUnsupported, "this kind of workload has no %s", verb)
}

// Reap waits for the end of a child, which has come already, and returns how it was;
// code -1 if the kernel doesn't tell.
func Reap(pid int) process.Exit {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return process.Exit{Code: -1}
		}
		return process.ExitOf(ws)
	}
}

// OrphanExit asks process 1's records in dir how a process ended that was no child,
// which may come a moment after the end. The code is -1 if it isn't known.
func OrphanExit(dir string, ref process.Ref) process.Exit {
	for range 50 {
		e, err := reap.Read(dir, ref.PID, ref.Start)
		if err == nil {
			if e.Signal != 0 {
				return process.Exit{Code: 128 + e.Signal, Signal: e.Signal}
			}
			return process.Exit{Code: e.Code}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return process.Exit{Code: -1}
}
