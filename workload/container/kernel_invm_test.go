//go:build invm

package container

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/workload"
)

func TestContainerIsConfined(t *testing.T) {
	k := kind(t, &plainRootfs{})
	d := desire(t, "web", []string{"report"})
	began := time.Now()
	must(t, k.Ensure(timeout(t), d))
	started := time.Since(began)
	running(t, k, d.ID)
	line := output(t, k, d.ID, "{")
	t.Logf("measured: Ensure %d ms, first output seen after %d ms", started.Milliseconds(), time.Since(began).Milliseconds())
	var got map[string]any
	must(t, json.Unmarshal([]byte(line), &got))
	rec, err := readRecord(k.place(d.ID))
	must(t, err)
	ids := fmt.Sprintf("0 %d 65536", rec.IDBase)
	for key, want := range map[string]any{
		"CapEff": "0000000000000000", "CapBnd": "0000000000000000", "CapPrm": "0000000000000000",
		"Seccomp": "2", "NoNewPrivs": "1", "uid_map": ids, "gid_map": ids, "uid": 0.0, "hostname": "web", "cwd": "/",
		"/proc/net/ipv6_route": nil, "/sys/fs/cgroup/memory.max": "67108864", "/sys/fs/cgroup/memory.swap.max": "0",
		"/sys/fs/cgroup/pids.max": "64", "/sys/fs/cgroup/cpu.max": "50000 100000", "/sys/fs/cgroup/memory.oom.group": "1",
		"oom_score_adj": "500", "write /": "<nil>", "open /dev/stdout": "<nil>",
	} {
		if want == nil {
			continue
		}
		if got[key] != want {
			t.Errorf("%s: have %v, want %v", key, got[key], want)
		}
	}
	if routes := strings.Count(got["/proc/net/route"].(string), "\n"); routes != 0 { // the header alone
		t.Errorf("IPv4 routes: %v", got["/proc/net/route"])
	}
	for _, r := range strings.Split(got["/proc/net/ipv6_route"].(string), "\n") {
		if r != "" && !strings.HasSuffix(strings.TrimSpace(r), " lo") {
			t.Errorf("IPv6 route: %s", r)
		}
	}
	if fmt.Sprint(got["interfaces"]) != "[lo]" {
		t.Errorf("interfaces %v, want [lo]", got["interfaces"])
	}
	for _, forbidden := range []string{"write /sys", "write /proc/sys", "mount", "userns", "dial"} {
		if got[forbidden] == "<nil>" {
			t.Errorf("%s succeeded in the container", forbidden)
		}
	}
	st := status(t, k, d.ID)
	total, private := rss(t, st.Shim.PID)
	t.Logf("measured: shim RSS %d KiB, private dirty %d KiB", total, private)
	if total > maxShim {
		t.Errorf("shim RSS %d KiB, want at most %d", total, maxShim)
	}
	s, err := process.ReadSecurity(st.Process.PID)
	must(t, err)
	if s.Seccomp != 2 || s.Capabilities != 0 || !s.NoNewPrivs {
		t.Errorf("seen from outside: %+v", s)
	}
	if seen := observe(t, k, d.ID); !seen.Verity || seen.Version != 1 {
		t.Errorf("status %+v", seen)
	}
}

func TestOtherUserAndSetuidWhereAskedFor(t *testing.T) {
	k := kind(t, &plainRootfs{})
	d := desire(t, "web", []string{"report"}, func(_ *workload.Desired, c *planContainer) { c.UID, c.GID, c.NoNewPrivs = 1000, 1001, false })
	must(t, k.Ensure(timeout(t), d))
	var got map[string]any
	must(t, json.Unmarshal([]byte(output(t, k, d.ID, "{")), &got))
	for key, want := range map[string]any{
		"uid": 1000.0, "gid": 1001.0, "Seccomp": "2", "NoNewPrivs": "0", "CapEff": "0000000000000000", "CapBnd": "0000000000000000",
		"open /dev/stdout": "<nil>",
	} {
		if got[key] != want {
			t.Errorf("%s: have %v, want %v", key, got[key], want)
		}
	}
	if got["write /"] == "<nil>" {
		t.Error("user 1000 wrote to /")
	}
}

// A reboot takes away what is in memory: run directory, mounts, cgroups, processes.
func TestRebootKeepsLayerAndFinishedJobs(t *testing.T) {
	k := kind(t, &plainRootfs{})
	k.cfg.InMemory = true // the other kind of layer, without a journal
	service := desire(t, "service", []string{"append", "/file"}, func(d *workload.Desired, _ *planContainer) { d.Plan.Resources.Disk = 1 })
	job := desire(t, "job", []string{"exit", "4"}, restart("never"))
	must(t, k.Ensure(timeout(t), service))
	must(t, k.Ensure(timeout(t), job))
	output(t, k, service.ID, "lines 1")
	until(t, "job over", func() bool { return observe(t, k, job.ID).State == contract.StateExited })
	base, err := readRecord(k.place(service.ID))
	must(t, err)
	for _, id := range []workload.ID{service.ID, job.ID} {
		must(t, k.end(timeout(t), k.place(id)))
	}
	if s := observe(t, k, service.ID); s.State != contract.StatePending || s.Version != 1 {
		t.Errorf("after the reboot: %+v", s)
	}
	must(t, k.Ensure(timeout(t), service))
	must(t, k.Ensure(timeout(t), job))
	output(t, k, service.ID, "lines 2")
	if now, err := readRecord(k.place(service.ID)); err != nil || now.IDBase != base.IDBase {
		t.Errorf("range of user ids %d, then %d (%v)", base.IDBase, now.IDBase, err)
	}
	if s := observe(t, k, job.ID); s.State != contract.StateExited || s.ExitCode != 4 || s.Reason != "exited" {
		t.Errorf("a finished job after the reboot: %+v", s)
	}
}

func TestEnsureIsIdempotentAndReplacesVersions(t *testing.T) {
	k := kind(t, &plainRootfs{})
	d := desire(t, "app", []string{"append", "/file"})
	must(t, k.Ensure(timeout(t), d))
	running(t, k, d.ID)
	output(t, k, d.ID, "lines 1")
	first := status(t, k, d.ID)
	must(t, k.Ensure(timeout(t), d))
	d.Version = 2 // a new version of the contract with the very same workload
	must(t, k.Ensure(timeout(t), d))
	if now := status(t, k, d.ID); now.Process != first.Process || observe(t, k, d.ID).Version != 2 {
		t.Fatalf("an unchanged workload was restarted: %+v, then %+v", first, now)
	}
	// Another variable: restarted, and the writable layer kept.
	d = desire(t, "app", []string{"append", "/file"}, func(d *workload.Desired, c *planContainer) { c.Env, d.Version = []string{"A=2"}, 3 })
	must(t, k.Ensure(timeout(t), d))
	running(t, k, d.ID)
	output(t, k, d.ID, "lines 2")
	if first.Process.Alive() {
		t.Error("the old version still runs")
	}
	// A larger disk: grown, without a new start.
	second := status(t, k, d.ID)
	d = desire(t, "app", []string{"append", "/file"}, func(d *workload.Desired, c *planContainer) {
		c.Env, d.Plan.Resources.Disk, d.Version = []string{"A=2"}, 80<<20, 4
	})
	must(t, k.Ensure(timeout(t), d))
	if now := status(t, k, d.ID); now.Process != second.Process || observe(t, k, d.ID).Version != 4 {
		t.Errorf("a larger disk: %+v, was %+v", now, second)
	}
	// Another flist: a fresh layer.
	d = desire(t, "app", []string{"append", "/other"}, func(d *workload.Desired, c *planContainer) { c.Flist[0]++; d.Version = 5 })
	must(t, k.Ensure(timeout(t), d))
	running(t, k, d.ID)
	if have := fileInUpper(k, d.ID, "file"); have {
		t.Error("the writable layer of another flist was kept")
	}
	if got := observe(t, k, d.ID); got.Version != 5 || got.State != contract.StateRunning {
		t.Errorf("status %+v", got)
	}
}

func TestLimitsHold(t *testing.T) {
	k := kind(t, &plainRootfs{})
	hog := desire(t, "hog", []string{"hog"}, memory(32<<20))
	must(t, k.Ensure(timeout(t), hog))
	until(t, "oom-killed", func() bool {
		s := observe(t, k, hog.ID)
		return s.State == contract.StateFailed && s.Reason == "oom-killed" && s.ExitCode == 137
	})
	must(t, k.Remove(timeout(t), hog.ID))

	bomb := desire(t, "bomb", []string{"bomb"}, memory(256<<20))
	must(t, k.Ensure(timeout(t), bomb))
	output(t, k, bomb.ID, "forked ")
	cg := k.place(bomb.ID).cgroup
	if n, err := cg.Read("pids.current"); err != nil || len(n) > 2 || n > "64" {
		t.Errorf("pids.current %q (%v), want at most 64", n, err)
	}
	if cg.Event("pids.events", "max") == 0 {
		t.Error("pids.max was never hit")
	}
	must(t, k.Remove(timeout(t), bomb.ID))

	fill := desire(t, "fill", []string{"fill", "/big"}, memory(128<<20))
	must(t, k.Ensure(timeout(t), fill))
	line := output(t, k, fill.ID, "wrote ")
	var n int
	var nospace bool
	_, err := fmt.Sscanf(line, "wrote %d, no space: %t", &n, &nospace)
	must(t, err)
	if !nospace || n > 64<<20 || n < 32<<20 {
		t.Errorf("disk limit of 64 MiB: %s", line)
	}
	until(t, "disk-full", func() bool { return observe(t, k, fill.ID).Reason == "disk-full" })
}

func TestRestartPolicies(t *testing.T) {
	k := kind(t, &plainRootfs{})
	loop := desire(t, "loop", []string{"exit", "3"})
	must(t, k.Ensure(timeout(t), loop))
	until(t, "three restarts", func() bool { return status(t, k, loop.ID).Restarts >= 3 })
	if s := observe(t, k, loop.ID); s.State != contract.StateFailed || s.Reason != "exited" || s.ExitCode != 3 {
		t.Errorf("a container that exits at once: %+v", s)
	}
	if st := status(t, k, loop.ID); st.State == "backoff" && time.Until(st.NextTry) > 3*time.Second {
		t.Errorf("next try at %v, beyond the bound", st.NextTry)
	}
	must(t, k.Ensure(timeout(t), loop)) // the shim is in charge
	for _, c := range []struct {
		policy string
		code   string
		state  string
	}{{"never", "5", contract.StateExited}, {"on-failure", "0", contract.StateExited}, {"on-failure", "1", contract.StateFailed}} {
		d := desire(t, "p-"+c.policy+"-"+c.code, []string{"exit", c.code}, restart(c.policy))
		must(t, k.Ensure(timeout(t), d))
		until(t, c.policy+" "+c.code, func() bool {
			s := observe(t, k, d.ID)
			return s.State == c.state && fmt.Sprint(s.ExitCode) == c.code
		})
		must(t, k.Ensure(timeout(t), d))
		if c.state == contract.StateExited && observe(t, k, d.ID).State != c.state {
			t.Errorf("%s: ran again", c.policy)
		}
	}
}

func TestFailuresHaveCodes(t *testing.T) {
	r := &plainRootfs{}
	k := kind(t, r)
	missing := desire(t, "missing", nil, func(_ *workload.Desired, c *planContainer) { c.Args = []string{"/no/such/program"} })
	err := k.Ensure(timeout(t), missing)
	if code(err) != "start-failed" || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("missing program: %v", err)
	}
	r.code, r.detail = "digest-mismatch", "object 00aa is not what the flist names"
	if s := observe(t, k, missing.ID); s.Reason != "digest-mismatch" {
		t.Errorf("with unreadable files: %+v", s)
	}
	r.code = ""
	r.mountErr = problemNew("hub-unreachable", "no hub answers")
	if err := k.Ensure(timeout(t), desire(t, "nomount", []string{"sleep"})); code(err) != "hub-unreachable" {
		t.Errorf("mount failure: %v", err)
	}
	r.mountErr = nil
	big := desire(t, "big", []string{"sleep"}, func(d *workload.Desired, _ *planContainer) { d.Plan.Resources.Disk = 1 << 40 })
	if err := k.Ensure(timeout(t), big); code(err) != "disk-full" {
		t.Errorf("disk too large: %v", err)
	}
}

func TestCgroupParentIsVersion2(t *testing.T) { must(t, cgroup.Check()) }
