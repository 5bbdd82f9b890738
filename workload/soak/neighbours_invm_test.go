//go:build invm

package soak

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/logs"
	"github.com/zero-os/zos/workload/shim"
)

// rise is what a neighbour's p99 may be, as a multiple of what it is by itself.
const rise = 1.10

// A neighbours' run.
const (
	window = 5 * time.Second // of measuring, quiet or attacked
	settle = time.Second     // between
)

// tenants are what hostile ones run, each by itself.
var tenants = []string{"forks", "memory", "descriptors", "inodes", "disk", "logs", "io", "cpu"}

// TestNeighboursAreServedBesideHostileTenants measures a workload that answers small
// requests, by itself and beside a hostile tenant by turns. The tenant is created for
// each of its turns and removed after it. Asserted is that the victim runs on, that the
// node creates, sees and removes workloads meanwhile, and that a tenant is held to what
// its plan says; the figures are measured, and the table says which are short.
func TestNeighboursAreServedBesideHostileTenants(t *testing.T) {
	pairs := number("ZOS_SOAK_PAIRS", 5)
	chosen := tenants
	if only := os.Getenv("ZOS_SOAK_TENANTS"); only != "" {
		chosen = strings.Split(only, ",")
	}
	r := &run{t: t}
	defer r.stop()
	d := r.daemon()
	v := r.victim()
	defer v.remove()
	for _, name := range chosen {
		w := tenant(name, 64<<20)
		f := figures{name: name}
		var enter, leave []float64
		for range pairs {
			f.quiet(v)
			began := time.Now()
			if err := d.ensure(r.context(), w); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			enter = append(enter, time.Since(began).Seconds())
			f.attacked(v)
			all, err := d.Observe(r.context())
			must(t, err)
			v.lives(all[v.ID], name)
			held(t, name, w, all[w.ID])
			began = time.Now()
			must(t, d.remove(r.context(), w))
			leave = append(leave, time.Since(began).Seconds())
		}
		t.Logf("measured: %v; it was created in %.1f s and removed in %.1f s (most %.1f and %.1f)", f, median(enter), median(leave), slices.Max(enter), slices.Max(leave))
	}
}

// TestANeighbourIsServedBesideAGuestThatAttacksItsDevices: the tenant's micro-VM is all
// its own, and gives its virtio devices what no driver would (testdata/hostileguest).
// Its monitor may complain, or die: the victim, and the node, are not to notice.
func TestANeighbourIsServedBesideAGuestThatAttacksItsDevices(t *testing.T) {
	r := &run{t: t}
	defer r.stop()
	v := r.victim()
	defer v.remove()
	w, err := desired(Cycle{N: 0, Isolation: plan.IsolationMicroVM, Memory: 64 << 20, Disk: 64 << 20, PIDs: 64, Network: true})
	must(t, err)
	w.Plan.Resources.CPU = 500
	p := placeOf(w.ID)
	group := "/sys/fs/cgroup/zos/" + p.key
	set := func(file, value string) {
		// The cgroup goes with each of its starts.
		if err := os.WriteFile(group+"/"+file, []byte(value), 0); err != nil && !os.IsNotExist(err) && !errors.Is(err, unix.ENODEV) {
			t.Error(err)
		}
	}
	// A guest is held to its processor time once its agent has answered, and this one's
	// never does.
	over, held := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(held)
		for {
			select {
			case <-over:
				return
			case <-time.After(100 * time.Millisecond):
				set("cpu.max", "50000 100000")
			}
		}
	}()
	defer func() { close(over); <-held }()
	must(t, r.daemon().ensure(r.context(), w))
	defer func() { must(t, r.daemon().remove(r.context(), w)) }()
	complaints := func() (n int, last string) {
		recs, _, err := logs.NewReader(p.data+"/log").Read(1, 100000)
		must(t, err)
		for _, rec := range recs {
			if line := string(rec.Data); rec.Stream == logs.Node && (strings.Contains(line, "virt") || strings.Contains(line, "qemu")) {
				n, last = n+1, line
			}
		}
		return n, last
	}
	r.until(Cycle{}, "attacked", func() error {
		if n, _ := complaints(); n == 0 {
			st, _ := p.status()
			return fmt.Errorf("its monitor has not complained yet: %+v", st)
		}
		return nil
	})
	f := figures{name: "a guest that attacks its devices"}
	for range number("ZOS_SOAK_PAIRS", 5) {
		set("cgroup.freeze", "1")
		f.quiet(v)
		set("cgroup.freeze", "0")
		f.attacked(v)
		all, err := r.daemon().Observe(r.context())
		must(t, err)
		v.lives(all[v.ID], f.name)
	}
	n, last := complaints()
	st, _ := p.status()
	t.Logf("measured: %v; its monitor complained %d times, as last with %.120q; its machine was started %d times more, as last because of %q (%.200s)", f, n, last, st.Restarts, st.Reason, st.Detail)
}

// victim is a workload that serves, and what it is measured by.
type victim struct {
	workload.Desired
	*run
	first     shim.Status
	latencies string
}

func (r *run) victim() *victim {
	v := &victim{Desired: tenant("victim", 64<<20), run: r}
	must(r.t, r.daemon().ensure(r.context(), v.Desired))
	r.until(Cycle{}, "serving", func() error {
		var ok bool
		if v.first, ok = placeOf(v.ID).status(); !ok || v.first.State != shim.Running {
			return fmt.Errorf("%+v", v.first)
		}
		v.latencies = fmt.Sprintf("/proc/%d/root/tmp/latencies", v.first.Process.PID)
		if st, err := os.Stat(v.latencies); err != nil || st.Size() < 160 {
			recs, _, _ := logs.NewReader(placeOf(v.ID).data+"/log").Read(1, 10)
			return fmt.Errorf("not ten requests yet: %v, it printed %v", err, recs)
		}
		return nil
	})
	v.measure() // warm
	return v
}

func (v *victim) remove() { must(v.t, v.daemon().remove(v.context(), v.Desired)) }

// lives fails unless the victim runs as it did at first.
func (v *victim) lives(s workload.Status, beside string) {
	v.t.Helper()
	if st, _ := placeOf(v.ID).status(); s.State != contract.StateRunning || st.Process != v.first.Process || st.Restarts != 0 || !st.Process.Alive() {
		v.t.Fatalf("beside %s the victim is %+v, its shim says %+v; it was %+v", beside, s, st, v.first)
	}
}

// measure is the median and the 99th percentile of its requests for a while.
func (v *victim) measure() (p50, p99 time.Duration) {
	v.t.Helper()
	time.Sleep(settle)
	begin := monotonic()
	time.Sleep(window)
	p50, p99, n := percentiles(v.t, v.latencies, begin, monotonic())
	if n < 20 {
		v.t.Fatalf("%d requests in %v", n, window)
	}
	return p50, p99
}

// figures are those of one tenant.
type figures struct {
	name               string
	quiets, attacks    []float64 // p99 in milliseconds
	medians0, medians1 []float64
}

func (f *figures) quiet(v *victim) {
	p50, p99 := v.measure()
	f.quiets, f.medians0 = append(f.quiets, ms(p99)), append(f.medians0, ms(p50))
}

func (f *figures) attacked(v *victim) {
	p50, p99 := v.measure()
	f.attacks, f.medians1 = append(f.attacks, ms(p99)), append(f.medians1, ms(p50))
}

func (f figures) String() string {
	var ratios []float64
	for i := range f.attacks {
		ratios = append(ratios, f.attacks[i]/f.quiets[i])
	}
	verdict := "ok"
	if median(ratios) > rise {
		verdict = "short"
	}
	return fmt.Sprintf("beside %s: p99 %.2fx (%s), %.1f of %.1f ms, pairs %.2f; median %.1f of %.1f ms",
		f.name, median(ratios), verdict, median(f.attacks), median(f.quiets), ratios, median(f.medians1), median(f.medians0))
}

// tenant is a workload of half a processor that runs a verb of the payload.
func tenant(verb string, memory uint64) workload.Desired {
	k := plan.Container{
		V: plan.Version, Flist: canon.Sum([]byte("payload")), Size: 1, Args: []string{"/bin/payload", verb},
		Env: []string{"PATH=/bin"}, WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), NoNewPrivs: true,
	}
	config, err := canon.Marshal(k)
	if err != nil {
		panic(err)
	}
	w := plan.Workload{Name: verb, Kind: plan.KindContainer, Slot: slot(), Resources: plan.Resources{CPU: 500, Memory: memory, Disk: 64 << 20, PIDs: 64}, Config: config}
	return workload.Desired{ID: workload.ID{Contract: canon.Sum([]byte("contract of " + verb)), Name: verb}, Version: 1, Plan: w, Deployment: &plan.Plan{V: plan.Version, Workloads: []plan.Workload{w}}}
}

// held asserts that a hostile tenant has met the limit that it attacks.
func held(t *testing.T, name string, w workload.Desired, s workload.Status) {
	t.Helper()
	p := placeOf(w.ID)
	group := "/sys/fs/cgroup/zos/" + p.key
	counted := func(file, key string) int {
		b, _ := os.ReadFile(group + "/" + file)
		for line := range strings.Lines(string(b)) {
			var k string
			var n int
			if _, err := fmt.Sscan(line, &k, &n); err == nil && k == key {
				return n
			}
		}
		return 0
	}
	switch name {
	case "forks": // what forks takes memory too
		if st, _ := p.status(); counted("pids.events", "max") == 0 && st.Restarts == 0 && counted("memory.events", "oom_kill") == 0 {
			t.Errorf("%s: never met a limit: %+v", name, s)
		}
	case "memory":
		if st, _ := p.status(); st.Restarts == 0 && counted("memory.events", "oom_kill") == 0 {
			t.Errorf("%s: never met the limit of memory: %+v", name, s)
		}
	case "cpu":
		if counted("cpu.stat", "nr_throttled") == 0 {
			t.Errorf("%s: never met the limit of processor time: %+v", name, s)
		}
	case "disk", "inodes", "io":
		if s.State != contract.StateRunning && s.Reason == "" {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// percentiles are the median and the 99th percentile of the requests that ended from
// begin to end.
func percentiles(t *testing.T, path string, begin, end int64) (p50, p99 time.Duration, n int) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	var all []time.Duration
	for ; len(b) >= 16; b = b[16:] {
		if at := int64(binary.LittleEndian.Uint64(b)); at >= begin && at <= end {
			all = append(all, time.Duration(binary.LittleEndian.Uint64(b[8:])))
		}
	}
	if len(all) == 0 {
		return 0, 0, 0
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)*99/100], len(all)
}

func median(of []float64) float64 {
	s := slices.Sorted(slices.Values(of))
	return s[len(s)/2]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}
