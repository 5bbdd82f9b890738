//go:build invm

package node

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
	"github.com/zero-os/zos/workload/shim"
)

// TestContainers measures starts in turns with the runtimes alone, and what a daemon
// that comes back finds.
func TestContainers(t *testing.T) {
	k := newKind(t, false)
	defer removeAll(t, k)
	starts(t, k)
	removeAll(t, k)
	found(t, k, number("BENCH_MANY", 100))
}

// starts is from Ensure, which is what follows an approval that was seen, to the
// program's first output: the disk image is made, mounted and overlaid, the shim and runc
// start. The runtimes alone are given the very configuration that the node made,
// with the root file system that is mounted already.
func starts(t *testing.T, k *container.Kind) {
	model := desire(t, "model", plan.IsolationNamespace, "/bin/meter", "hello")
	must(t, k.Ensure(bounded(t), model))
	output(t, k, model.ID, "hello")
	times := map[string][]float64{}
	for n := range number("BENCH_TIMES", 9) {
		d := desire(t, fmt.Sprintf("app-%d", n), plan.IsolationNamespace, "/bin/meter", "hello")
		began := now(t)
		must(t, k.Ensure(bounded(t), d))
		times["node"] = append(times["node"], ms(said(t, output(t, k, d.ID, "hello"))-began))
		if st := status(t, d.ID); st.State == shim.Running {
			times["shim-rss"] = append(times["shim-rss"], rss(t, st.Shim.PID))
		}
		must(t, k.Remove(bounded(t), d.ID))
		for _, p := range []string{"runc", "debian-runc", "debian-crun"} {
			times[p] = append(times[p], alone(t, p, model.ID, n))
		}
	}
	for name, all := range times {
		report("start-"+name, median(all), "turns", float64(len(all)))
	}
}

func ms(ns int64) float64 { return float64(ns) / 1e6 }

// alone runs the model's program by a runtime, in ms until its first output.
func alone(t *testing.T, program string, model workload.ID, n int) float64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(runDir(model), shim.BundleDir, "config.json"))
	must(t, err)
	var s specs.Spec
	must(t, json.Unmarshal(b, &s))
	if !filepath.IsAbs(s.Root.Path) {
		s.Root.Path = filepath.Join(runDir(model), shim.BundleDir, s.Root.Path)
	}
	id := fmt.Sprintf("%s-%d", program, n)
	s.Version = "1.0.2" // which Debian's crun knows
	s.Linux.CgroupsPath = "/" + id
	dir := t.TempDir()
	b, err = json.Marshal(s)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600))
	cmd := exec.Command("/bin/"+program, "--root", "/run/peer-"+program, "run", "--bundle", dir, id)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	began := now(t)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %q, %v", program, line, err)
	}
	took := ms(said(t, strings.TrimSpace(line)) - began)
	must(t, exec.Command("/bin/"+program, "--root", "/run/peer-"+program, "kill", id, "KILL").Run())
	_ = cmd.Wait() // by a signal
	_ = exec.Command("/bin/"+program, "--root", "/run/peer-"+program, "delete", "--force", id).Run()
	return took
}

// rss is resident memory, in MiB.
func rss(t *testing.T, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "Rss: %f kB", &kib); err == nil {
			return kib / 1024
		}
	}
	t.Fatal("no Rss")
	return 0
}

// found starts many, and lets a new Kind, as a daemon that was started again has, find them.
func found(t *testing.T, k *container.Kind, many int) {
	var all []workload.Desired
	for n := range many {
		all = append(all, desire(t, fmt.Sprintf("many-%d", n), plan.IsolationNamespace, "/bin/meter", "hello"))
	}
	each := func(k *container.Kind) time.Duration {
		began := time.Now()
		var wg sync.WaitGroup
		room := make(chan struct{}, 4)
		for _, d := range all {
			room <- struct{}{}
			wg.Go(func() {
				defer func() { <-room }()
				if err := k.Ensure(bounded(t), d); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		return time.Since(began)
	}
	before := meminfo(t)["MemAvailable"]
	took := each(k)
	first := map[workload.ID]shim.Status{}
	most := 0.0
	for _, d := range all {
		output(t, k, d.ID, "hello")
		first[d.ID] = status(t, d.ID)
		most = max(most, rss(t, first[d.ID].Shim.PID))
	}
	report("many", float64(many), "started-s", took.Seconds(), "shim-rss-most", most, "node-memory-each", (before-meminfo(t)["MemAvailable"])/float64(many))
	again := newKind(t, false)
	began := time.Now()
	seen, err := again.Observe(bounded(t))
	must(t, err)
	observed := time.Since(began)
	each(again)
	took = time.Since(began)
	restarts, others := 0, 0
	for _, d := range all {
		st := status(t, d.ID)
		restarts += int(st.Restarts)
		if st.Process != first[d.ID].Process || !st.Process.Alive() || st.Shim != first[d.ID].Shim {
			others++
		}
	}
	report("found", float64(len(seen)), "found-s", took.Seconds(), "observed-s", observed.Seconds(), "restarts", float64(restarts), "others", float64(others))
}
