//go:build invm

package container

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/footprint"
	"github.com/zero-os/zos/workload/logs"
	"github.com/zero-os/zos/workload/shim"
)

type planContainer = plan.Container

func code(err error) string              { return problem.Code(err) }
func problemNew(code, what string) error { return problem.New(code, "%s", what) }
func fileInUpper(k *Kind, id workload.ID, name string) bool {
	_, err := os.Stat(filepath.Join(k.place(id).upper, name))
	return err == nil
}

func TestDaemonKilledAndContainerReadopted(t *testing.T) {
	k := kind(t, &plainRootfs{})
	d := desire(t, "app", []string{"serve"})
	cmd, out := startDaemon(t, "ensure", d)
	sc := bufio.NewScanner(out)
	if !sc.Scan() || sc.Text() != "done" {
		t.Fatalf("daemon said %q", sc.Text())
	}
	before := status(t, k, d.ID)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	running(t, k, d.ID)
	must(t, k.Ensure(timeout(t), d))
	after := status(t, k, d.ID)
	if before.Process != after.Process || before.Shim != after.Shim || !after.Process.Alive() {
		t.Fatalf("restarted: %+v, then %+v", before, after)
	}
}

func TestShimKilledAndContainerLives(t *testing.T) {
	k := kind(t, &plainRootfs{})
	d := desire(t, "app", []string{"serve"})
	must(t, k.Ensure(timeout(t), d))
	output(t, k, d.ID, "line 5")
	before := status(t, k, d.ID)
	must(t, unix.Kill(before.Shim.PID, unix.SIGKILL))
	until(t, "shim-lost", func() bool { return observe(t, k, d.ID).Reason == ReasonShimLost })
	time.Sleep(300 * time.Millisecond) // the container prints on meanwhile
	if !before.Process.Alive() {
		t.Fatal("the container died with its shim")
	}
	must(t, k.Ensure(timeout(t), d))
	running(t, k, d.ID)
	after := status(t, k, d.ID)
	if after.Process != before.Process || after.Shim == before.Shim || after.Restarts != 0 {
		t.Fatalf("not adopted: %+v, then %+v", before, after)
	}
	output(t, k, d.ID, "line 60")
	recs, _, err := logs.NewReader(k.LogDir(d.ID)).Read(1, 100000)
	must(t, err)
	want := 1
	for _, r := range recs {
		if r.Stream != logs.Stdout {
			continue
		}
		if string(r.Data) != fmt.Sprintf("line %d", want) {
			t.Fatalf("output lost or torn at line %d: %q", want, r.Data)
		}
		want++
	}
	// It ends while the adopting shim, not its parent, watches.
	must(t, unix.Kill(before.Process.PID, unix.SIGKILL))
	until(t, "exit known", func() bool { st := status(t, k, d.ID); return st.Restarts > 0 && st.Exit.Signal == 9 })

	// It ends while no shim is there.
	running(t, k, d.ID)
	st := status(t, k, d.ID)
	must(t, unix.Kill(st.Shim.PID, unix.SIGKILL))
	until(t, "shim-lost", func() bool { return observe(t, k, d.ID).Reason == ReasonShimLost })
	must(t, unix.Kill(st.Process.PID, unix.SIGKILL))
	until(t, "ended", func() bool { return !st.Process.Alive() })
	must(t, k.Ensure(timeout(t), d))
	until(t, "running again", func() bool {
		now := status(t, k, d.ID)
		return now.Process != st.Process && now.Process.Alive() && now.Exit.Signal == 9
	})
}

// A mount keeps the damaged file that was removed from the store below it: what fails
// on it is mounted anew, once; what runs is left alone.
func TestDamagedFilesAreMountedAnew(t *testing.T) {
	r := &plainRootfs{}
	k := kind(t, r)
	fails := desire(t, "fails", []string{"exit", "5"})
	runs := desire(t, "runs", []string{"serve"})
	must(t, k.Ensure(timeout(t), fails))
	must(t, k.Ensure(timeout(t), runs))
	running(t, k, runs.ID)
	before := status(t, k, runs.ID)
	waiting := func() bool { return status(t, k, fails.ID).State == shim.Waiting }
	ensure := func() {
		t.Helper()
		until(t, "waiting to start again", waiting)
		must(t, k.Ensure(timeout(t), fails))
		must(t, k.Ensure(timeout(t), runs))
	}
	ensure()
	if r.mounts != 2 {
		t.Fatalf("%d mounts of two workloads", r.mounts)
	}
	r.damages++
	for range 100 { // its pause may end between the look and Ensure
		if ensure(); r.mounts > 2 {
			break
		}
	}
	ensure()
	if r.mounts != 3 {
		t.Errorf("%d mounts, want one more for the workload that failed", r.mounts)
	}
	if after := status(t, k, runs.ID); after.Process != before.Process {
		t.Errorf("what runs was started anew: %+v, then %+v", before, after)
	}
}

func TestRuncOrShimKilledInMidCreate(t *testing.T) {
	k := kind(t, &plainRootfs{})
	for round, program := range []string{"/bin/runc", "/bin/zos-shim"} {
		d := desire(t, fmt.Sprintf("app-%d", round), []string{"serve"})
		ctx, cancel := context.WithCancel(context.Background())
		killed := make(chan int, 1)
		go func() { killed <- killPrograms(ctx, program, 2, time.Duration(round)*20*time.Millisecond) }()
		until(t, "running in spite of it", func() bool {
			if s := observe(t, k, d.ID); s.State == contract.StateRunning {
				return true
			}
			_ = k.Ensure(timeout(t), d) // may well say that the start failed
			return false
		})
		cancel()
		if n := <-killed; n == 0 {
			t.Errorf("no %s was killed", program)
		}
		output(t, k, d.ID, "line 3")
		must(t, k.Remove(timeout(t), d.ID))
	}
}

// killPrograms kills up to n processes that run the program at exe, each after delay.
func killPrograms(ctx context.Context, exe string, n int, delay time.Duration) (killed int) {
	for killed < n && ctx.Err() == nil {
		procs, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, p := range procs {
			if link, err := os.Readlink(p); err != nil || link != exe {
				continue
			}
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			time.Sleep(delay)
			if unix.Kill(pid, unix.SIGKILL) == nil {
				killed++
				break
			}
		}
		time.Sleep(time.Millisecond)
	}
	return killed
}

func TestRemoveLeavesNothing(t *testing.T) {
	k := kind(t, &plainRootfs{})
	// The first use makes directories and groups that stay.
	warm := desire(t, "warm", []string{"serve"})
	must(t, k.Ensure(timeout(t), warm))
	must(t, k.Remove(timeout(t), warm.ID))
	before := snapshot(t)
	numbers, err := footprint.Read(k.cfg.Data)
	must(t, err)

	d := desire(t, "app", []string{"serve"})
	must(t, k.Ensure(timeout(t), d))
	output(t, k, d.ID, "line 2")
	if more, err := footprint.Read(k.cfg.Data); err != nil || len(more.Mounts) <= len(numbers.Mounts) || len(more.Cgroups) <= len(numbers.Cgroups) ||
		len(more.Namespaces) < len(numbers.Namespaces)+7 || more.Bytes < numbers.Bytes+64<<20 || len(more.Interfaces) != len(numbers.Interfaces) {
		t.Errorf("footprint %+v, with a workload %+v (%v)", numbers, more, err)
	}
	if len(snapshot(t)) <= len(before) {
		t.Fatal("the comparison sees nothing of a running workload")
	}
	must(t, k.Remove(timeout(t), d.ID))
	if _, there := mustObserve(t, k)[d.ID]; there {
		t.Error("still observed after Remove")
	}
	same(t, before)
	if now, err := footprint.Read(k.cfg.Data); err != nil || !now.Same(numbers) {
		t.Errorf("footprint %+v, then %+v (%v)", numbers, now, err)
	}
	must(t, k.Remove(timeout(t), d.ID)) // nothing to do is no error

	// With the shim dead.
	must(t, k.Ensure(timeout(t), d))
	must(t, unix.Kill(status(t, k, d.ID).Shim.PID, unix.SIGKILL))
	must(t, k.Remove(timeout(t), d.ID))
	same(t, before)
}

// The daemon is killed at many points of Ensure and of Remove; what it leaves is
// always observed, and Remove or Ensure finish the job.
func TestKilledAnywhereIsFinishedLater(t *testing.T) {
	k := kind(t, &plainRootfs{})
	warm := desire(t, "warm", []string{"serve"})
	began := time.Now()
	must(t, k.Ensure(timeout(t), warm))
	must(t, k.Remove(timeout(t), warm.ID))
	whole := time.Since(began) // of both verbs; the machine may be slow
	before := snapshot(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 4 {
		d := desire(t, fmt.Sprintf("app-%d", round), []string{"serve"})
		verb := "ensure"
		if round%2 == 1 {
			verb = "remove"
			must(t, k.Ensure(timeout(t), d))
		}
		cmd, _ := startDaemon(t, verb, d)
		time.Sleep(time.Duration(rnd.Int64N(int64(whole))))
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		if round%4 == 2 {
			must(t, k.Ensure(timeout(t), d))
			until(t, "running", func() bool { return observe(t, k, d.ID).State == contract.StateRunning })
		}
		if _, seen := mustObserve(t, k)[d.ID]; !seen {
			same(t, before) // not observed means that nothing is there
			continue
		}
		must(t, k.Remove(timeout(t), d.ID))
		same(t, before)
	}
}

func mustObserve(t *testing.T, k *Kind) map[workload.ID]workload.Status {
	t.Helper()
	all, err := k.Observe(context.Background())
	must(t, err)
	return all
}

func TestFloodIsBounded(t *testing.T) {
	k := kind(t, &plainRootfs{})
	d := desire(t, "flood", []string{"flood"})
	must(t, k.Ensure(timeout(t), d))
	r := logs.NewReader(k.LogDir(d.ID))
	until(t, "the oldest dropped", func() bool {
		recs, _, err := r.Read(1, 1)
		must(t, err)
		return len(recs) == 1 && recs[0].Seq > 2000
	})
	var size int64
	files, err := filepath.Glob(k.LogDir(d.ID) + "/*")
	must(t, err)
	for _, f := range files {
		if st, err := os.Stat(f); err == nil {
			size += st.Size()
		}
	}
	if size > 256<<10 {
		t.Errorf("the ring holds %d bytes, want at most %d", size, 256<<10)
	}
}

// What a workload has written is there after every way to fail: exit codes, the end of
// its memory, attempts that are used up, the death of its shim, of itself and of the
// daemon, limits that change, a disk that grows or can't, a damaged record.
func TestUserDataSurvivesEveryFailure(t *testing.T) {
	k := kind(t, &plainRootfs{})
	version := uint64(0)
	diary := func(opts ...option) workload.Desired {
		d := desire(t, "app", []string{"diary", "/diary"}, append([]option{memory(48 << 20), lives(func(l *plan.Life) { l.Attempts = 4 })}, opts...)...)
		version++
		d.Version = version
		return d
	}
	disk := func(n uint64) option {
		return func(d *workload.Desired, _ *planContainer) { d.Plan.Resources.Disk = n }
	}
	d := diary()
	p := k.place(d.ID)
	lines := func(what string, want int) {
		t.Helper()
		output(t, k, d.ID, fmt.Sprintf("diary %d <nil> <nil>", want))
		b, err := os.ReadFile(filepath.Join(p.upper, "diary"))
		if got := strings.Count(string(b), "a line of its own\n"); err != nil || got != want || len(b) != want*len("a line of its own\n") {
			t.Fatalf("%s: %d lines in %d bytes, want %d (%v)", what, got, len(b), want, err)
		}
	}
	must(t, k.Ensure(timeout(t), d))
	until(t, "attempts used up", func() bool { return status(t, k, d.ID).State == shim.Exhausted })
	lines("attempts used up", 4)
	recs, _, err := logs.NewReader(k.LogDir(d.ID)).Read(1, 1000)
	must(t, err)
	said := ""
	for _, r := range recs {
		said += string(r.Data) + "\n"
	}
	if !strings.Contains(said, "killed for using more than its memory limit") || !strings.Contains(said, "exit code 3") || !strings.Contains(said, "exit code 2") {
		t.Errorf("it did not fail in every way: %s", said)
	}
	// A new version is a new chance.
	d = diary()
	d.Plan.Resources.CPU = 600
	must(t, k.Ensure(timeout(t), d))
	lines("another version", 5)
	st := killIn(t, k, d.ID, shim.Running)
	must(t, unix.Kill(st.Process.PID, unix.SIGKILL))
	until(t, "both dead", func() bool { return !st.Process.Alive() })
	ensured(t, k, d)
	lines("shim and program killed", 6)
	cmd, out := startDaemon(t, "ensure", d)
	sc := bufio.NewScanner(out)
	if !sc.Scan() || sc.Text() != "done" {
		t.Fatalf("daemon said %q", sc.Text())
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	lines("a daemon killed", 6)

	// A larger disk, while it runs; then one that the node has no room for.
	room := func() uint64 {
		var fs unix.Statfs_t
		must(t, unix.Statfs(p.disk, &fs))
		return fs.Blocks * uint64(fs.Bsize)
	}
	before, had := status(t, k, d.ID), room()
	d = diary(disk(96 << 20))
	must(t, k.Ensure(timeout(t), d))
	if now := room(); now < had+28<<20 || status(t, k, d.ID).Process != before.Process {
		t.Errorf("grown from %d to %d bytes; %+v, was %+v", had, now, status(t, k, d.ID), before)
	}
	if err := k.Ensure(timeout(t), diary(disk(1<<40))); code(err) != "disk-full" {
		t.Errorf("a disk without room: %v", err)
	}
	if now := status(t, k, d.ID); now.Process != before.Process || !now.Process.Alive() {
		t.Errorf("ended for a disk that there is no room for: %+v", now)
	}
	running(t, k, d.ID) // not at once: its last start is not long ago
	lines("a disk that can't grow", 6)

	// Its record is damaged, then both copies of it.
	must(t, os.WriteFile(p.record, []byte("{torn"), 0o600))
	must(t, k.end(timeout(t), p))
	d = diary(disk(96 << 20))
	must(t, k.Ensure(timeout(t), d))
	lines("a damaged record", 7)
	must(t, k.end(timeout(t), p))
	for _, f := range []string{p.record, p.record + copySuffix} {
		must(t, os.WriteFile(f, []byte("{torn"), 0o600))
	}
	if err := k.Ensure(timeout(t), d); err == nil || !strings.Contains(err.Error(), "left alone") {
		t.Errorf("without a record: %v", err)
	}
	if st, err := os.Stat(p.image); err != nil || st.Size() != 96<<20 {
		t.Errorf("its disk: %v, %v", st, err)
	}
}
