package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/footprint"
)

const (
	// statsLimit bounds how long one workload may take to tell its figures, and
	// statsAtOnce how many are asked at a time.
	statsLimit  = 3 * time.Second
	statsAtOnce = 8
)

// named lists the workloads that a request means, by name: one, or with "" all of the
// contract on this node.
func (n *Node) named(id canon.Hash, name string) ([]string, error) {
	var names []string
	for _, w := range n.reconc.of(id) {
		if name == "" || w.ID.Name == name {
			names = append(names, w.ID.Name)
		}
	}
	if name != "" && len(names) == 0 {
		return nil, problem.New("workload-unknown", "contract %s has no workload %q on this node", id.Short(), name)
	}
	return names, nil
}

// metrics tells how much the workloads of a contract use now.
func (n *Node) metrics(ctx context.Context, q bus.Query) (protocol.Metrics, error) {
	p, err := protocol.DecodeMetricsParams(q.Params)
	if err != nil {
		return protocol.Metrics{}, err
	}
	names, err := n.named(q.Contract, p.Workload)
	if err != nil {
		return protocol.Metrics{}, err
	}
	out := protocol.Metrics{Time: time.Now().UnixNano(), Workloads: []protocol.Stats{}}
	for _, w := range n.reconc.of(q.Contract) {
		if slices.Contains(names, w.ID.Name) && plan.Runs(w.Plan.Kind) && len(out.Workloads) < protocol.MaxWorkloads {
			out.Workloads = append(out.Workloads, known(w))
		}
	}
	var all sync.WaitGroup
	places := make(chan struct{}, statsAtOnce)
	for i := range out.Workloads {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			s := &out.Workloads[i]
			ctx, cancel := context.WithTimeout(ctx, statsLimit)
			defer cancel()
			raw, err := n.acts.dial(ctx, s.Kind, workload.ID{Contract: q.Contract, Name: s.Name})
			var now control.Stats
			if err == nil {
				_, err = control.Ask(ctx, raw, control.Request{Verb: control.VerbStatus}, &now)
			}
			if err != nil {
				if s.Problem = problem.Code(err); s.Problem == "" {
					s.Problem = "not-running"
				}
				return
			}
			fill(s, now)
		})
	}
	all.Wait()
	return out, ctx.Err()
}

// known is what the node knows of a workload without asking it.
func known(w told) protocol.Stats {
	return protocol.Stats{
		Name: w.ID.Name, Version: w.status.Version, Kind: w.Plan.Kind, State: w.status.State, Ready: w.status.Ready, Isolation: w.status.Isolation,
		CPULimit: w.Plan.Resources.CPU, MemoryLimit: w.Plan.Resources.Memory, DiskSize: w.Plan.Resources.Disk, Restarts: w.status.Restarts,
	}
}

// fill adds what the workload's cgroup, or its guest, counts.
func fill(s *protocol.Stats, now control.Stats) {
	s.CPUMicros, s.ThrottledUS = now.CPUMicros, now.Throttled
	s.Memory, s.MemoryCache, s.PIDs, s.OOMKills = now.Memory, now.MemoryCache, now.PIDs, now.OOMKills
	s.ReadBytes, s.WriteBytes, s.DiskUsed = now.ReadBytes, now.WriteBytes, now.DiskUsed
	s.NetReceived, s.NetSent = now.NetReceived, now.NetSent
	s.PressureCPU, s.PressureMemory, s.PressureIO = hundredths(now.PSICPU), hundredths(now.PSIMemory), hundredths(now.PSIIO)
	s.StartMillis, s.Uptime = now.StartMillis, now.Uptime
	if now.MemoryLimit > 0 {
		s.MemoryLimit = now.MemoryLimit
	}
	if now.DiskSize > 0 {
		s.DiskSize = now.DiskSize
	}
	s.Restarts = max(s.Restarts, now.Restarts)
}

// hundredths of a percent; what is no share counts as none.
func hundredths(percent float64) uint64 {
	if !(percent > 0) {
		return 0
	}
	return uint64(min(percent, 100) * 100)
}

// nodeMetrics tells the farm how its node is. Nothing in it names a tenant.
func (n *Node) nodeMetrics(context.Context, bus.Query) (protocol.NodeMetrics, error) {
	m := protocol.NodeMetrics{Time: time.Now().UnixNano(), Uptime: uint64(time.Since(n.started).Seconds()), Release: n.at.release.Sequence, CPUs: uint64(runtime.NumCPU())}
	n.mu.Lock()
	m.Head, m.HeadTime, m.Contracts = n.head.Height, uint64(max(0, n.head.Time.Unix())), uint64(len(n.cases))
	n.mu.Unlock()
	m.States = n.reconc.states()
	var disk unix.Statfs_t
	if err := unix.Statfs(boot.DataDir, &disk); err != nil {
		return m, err
	}
	m.DiskTotal, m.DiskFree = disk.Blocks*uint64(disk.Bsize), disk.Bavail*uint64(disk.Bsize)
	var err error
	if _, m.StoreBytes, err = footprint.Usage(filepath.Join(boot.DataDir, "objects")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	return m, kernelFigures("/proc", &m)
}

// kernelFigures reads what the kernel counts, below its proc file system.
func kernelFigures(proc string, m *protocol.NodeMetrics) error {
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return err
	}
	m.CPUBusyMicros, m.CPUIdleMicros = cpuTimes(stat)
	mem, err := os.ReadFile(filepath.Join(proc, "meminfo"))
	if err != nil {
		return err
	}
	m.MemoryTotal, m.MemoryFree = kilobytes(mem, "MemTotal:"), kilobytes(mem, "MemAvailable:")
	devices, err := os.ReadFile(filepath.Join(proc, "net/dev"))
	if err != nil {
		return err
	}
	m.NetReceived, m.NetSent = traffic(devices)
	// A kernel may have no pressure figures: then there is none.
	for name, share := range map[string]*uint64{"cpu": &m.PressureCPU, "memory": &m.PressureMemory, "io": &m.PressureIO} {
		if b, err := os.ReadFile(filepath.Join(proc, "pressure", name)); err == nil {
			*share = pressure(b)
		}
	}
	return nil
}

// cpuTimes reads the first line of /proc/stat, whose unit is a hundredth of a second.
func cpuTimes(stat []byte) (busy, idle uint64) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	for i, text := range strings.Fields(string(line)) {
		n, err := strconv.ParseUint(text, 10, 64)
		switch {
		case err != nil || i > 8: // "cpu"; a guest's time is in that of its owner already
		case i == 4 || i == 5: // idle, and waiting for disks
			idle += n * 10_000
		default:
			busy += n * 10_000
		}
	}
	return busy, idle
}

func kilobytes(meminfo []byte, field string) uint64 {
	for line := range strings.Lines(string(meminfo)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == field {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// traffic sums /proc/net/dev without the loopback, and without the ends that workloads
// hang on: what they send is counted where it leaves the node.
func traffic(dev []byte) (received, sent uint64) {
	sc := bufio.NewScanner(bytes.NewReader(dev))
	for sc.Scan() {
		name, rest, ok := strings.Cut(sc.Text(), ":")
		f := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || len(f) < 9 || !strings.HasPrefix(name, "e") {
			continue
		}
		r, _ := strconv.ParseUint(f[0], 10, 64)
		s, _ := strconv.ParseUint(f[8], 10, 64)
		received, sent = received+r, sent+s
	}
	return received, sent
}

// pressure reads "some avg10=1.23 …" as hundredths of a percent.
func pressure(b []byte) uint64 {
	_, rest, _ := strings.Cut(string(b), "avg10=")
	text, _, _ := strings.Cut(rest, " ")
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0
	}
	return hundredths(v)
}

// states counts the workloads by what was last reported of them.
func (r *reconciler) states() []protocol.States {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := map[string]uint64{}
	for _, t := range r.tasks {
		if t.reported.State != "" && t.reported.State != contract.StateGone {
			counts[t.reported.State]++
		}
	}
	out := []protocol.States{}
	for state, n := range counts {
		out = append(out, protocol.States{State: state, Count: n})
	}
	slices.SortFunc(out, func(a, b protocol.States) int { return strings.Compare(a.State, b.State) })
	return out
}
