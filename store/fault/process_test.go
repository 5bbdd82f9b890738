package fault_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/fault"
	"github.com/zero-os/zos/store/storetest"
)

// process is the real zos-fault, as a process of its own.
type process struct {
	cmd    *exec.Cmd
	client *fault.Client
	dir    string
}

func buildServer(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "zos-fault")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", bin, "github.com/zero-os/zos/cmd/zos-fault")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build zos-fault: %v\n%s", err, out)
	}
	return bin
}

func startServer(t testing.TB, bin, root, hub string) *process {
	t.Helper()
	p := &process{dir: filepath.Join(root, "fault")}
	socket := filepath.Join(root, "s")
	p.cmd = exec.Command(bin, "-store", filepath.Join(root, "data"), "-mount", p.dir, "-socket", socket, "-hubs", hub)
	p.cmd.Stderr = os.Stderr
	must(t, p.cmd.Start())
	t.Cleanup(p.kill)
	p.client = fault.NewClient(socket)
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err := p.client.Stats(t.Context()); err == nil {
			return p
		} else if time.Now().After(deadline) {
			t.Fatal("zos-fault does not come up: ", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func unmountAll(t testing.TB, root string) {
	t.Helper()
	entries, err := mount.Under(root)
	must(t, err)
	for i := len(entries) - 1; i >= 0; i-- {
		must(t, mount.Detach(entries[i].Target))
	}
}

func TestKilledServerLeavesPresentObjectsReadable(t *testing.T) {
	needRoot(t)
	tr := tree(t, map[string]string{"opened": "opened", "present": "present", "absent": "absent"})
	hub := newHub(t, tr)
	root := t.TempDir()
	t.Cleanup(func() { unmountAll(t, root) })
	bin := buildServer(t)
	p := startServer(t, bin, root, hub.URL)
	must(t, p.client.Manifest(t.Context(), tr.Flist))
	s, err := store.Open(filepath.Join(root, "data"), store.Options{})
	must(t, err)
	defer s.Close()
	at := filepath.Join(root, "m")
	_, err = store.MountFlist(t.Context(), store.MountSpec{Store: s, Flist: tr.Flist, Target: at, FaultDir: p.dir})
	must(t, err)
	n := &node{t: t}
	n.want(at+"/opened", "opened")
	f := tr.File("present")
	must(t, s.Put(t.Context(), f, strings.NewReader("present")))

	p.kill()
	n.want(at+"/opened", "opened")
	n.want(at+"/present", "present")
	// Newer kernels pass FUSE's own error on.
	if _, err := os.ReadFile(at + "/absent"); !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENOTCONN) {
		t.Fatalf("reading what is absent: %v, want EIO or ENOTCONN", err)
	}

	// A flist that is mounted as complete never needed the server.
	must(t, s.Put(t.Context(), tr.File("absent"), strings.NewReader("absent")))
	_, err = store.MountFlist(t.Context(), store.MountSpec{Store: s, Flist: tr.Flist, Target: root + "/c", Complete: true})
	must(t, err)
	n.want(root+"/c/absent", "absent")

	// A lazy mount without a server is refused, and works again with a new one.
	if _, err := store.MountFlist(t.Context(), store.MountSpec{Store: s, Flist: tr.Flist, Target: root + "/l", FaultDir: p.dir}); err == nil || !strings.Contains(err.Error(), "fault server") {
		t.Fatalf("mounted without a fault server: %v", err)
	}
	p = startServer(t, bin, root, hub.URL)
	must(t, s.Remove(tr.File("absent").Digest))
	_, err = store.MountFlist(t.Context(), store.MountSpec{Store: s, Flist: tr.Flist, Target: root + "/l", FaultDir: p.dir})
	must(t, err)
	n.want(root+"/l/absent", "absent")
}

func TestKilledReaderDoesNotHang(t *testing.T) {
	tr := tree(t, map[string]string{"f": "f"})
	hub := newHub(t, tr)
	asked := make(chan struct{}, 10)
	hub.Misbehave(objectsOnly(func(_ http.ResponseWriter, r *http.Request, _ []byte) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}, Wait: time.Minute})
	at := n.mount(tr, "m")
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGTERM} {
		cmd := exec.Command("cat", at+"/f")
		must(t, cmd.Start())
		<-asked
		start := time.Now()
		must(t, cmd.Process.Signal(sig))
		died := make(chan struct{})
		go func() { _ = cmd.Wait(); close(died) }()
		select {
		case <-died:
			t.Logf("a reader hit by %v was gone after %v", sig, time.Since(start))
		case <-time.After(10 * time.Second):
			t.Fatalf("a reader hit by %v hangs", sig)
		}
	}
	// Nobody waits any more, so the request ended, and the next reader is served.
	hub.Misbehave(nil)
	n.want(at+"/f", "f")
}

// Go programs get SIGURG all the time; no read of theirs may fail by it.
func TestSignalsThatDoNotKillDoNotDisturbReaders(t *testing.T) {
	tr := tree(t, map[string]string{"f": "f"})
	hub := newHub(t, tr)
	asked := make(chan struct{}, 1)
	hub.Misbehave(objectsOnly(func(w http.ResponseWriter, _ *http.Request, body []byte) {
		asked <- struct{}{}
		time.Sleep(500 * time.Millisecond)
		_, _ = w.Write(body)
	}))
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}})
	at := n.mount(tr, "m")
	cmd := exec.Command("sh", "-c", "trap : USR1; read x < "+at+"/f; echo got $x")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	<-asked
	for range 5 {
		must(t, cmd.Process.Signal(unix.SIGUSR1))
		time.Sleep(20 * time.Millisecond)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Wait()
	if line != "got f\n" {
		t.Fatalf("the reader printed %q, want %q", line, "got f\n")
	}
}

func TestDemandGoesBeforeBulk(t *testing.T) {
	files := map[string]string{"now": "now"}
	for i := range 200 {
		files["bulk/"+strconv.Itoa(i)] = storetest.Noise(uint64(i), 1000)
	}
	tr := tree(t, files)
	hub := newHub(t, tr)
	var answered atomic.Int32
	hub.Misbehave(objectsOnly(func(w http.ResponseWriter, _ *http.Request, body []byte) {
		time.Sleep(30 * time.Millisecond)
		answered.Add(1)
		_, _ = w.Write(body)
	}))
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}, Parallel: 4})
	at := n.mount(tr, "m")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = n.fetcher.Prefetch(ctx, tr.Flist) }()
	for answered.Load() < 10 {
		time.Sleep(time.Millisecond)
	}
	before := answered.Load()
	n.want(at+"/now", "now")
	// One round of those already under way, and its own.
	if passed := answered.Load() - before; passed > 8 {
		t.Errorf("%d bulk objects went before a demanded one", passed)
	}
	cancel()
	<-done
}

func TestControlSocketTellsWhyAndHowFar(t *testing.T) {
	needRoot(t)
	tr := tree(t, map[string]string{"a": "aaaa", "b": storetest.Noise(7, 3<<20)})
	hub := newHub(t, tr)
	path := storetest.ObjectPath(tr.File("a").Digest)
	good := hub.Get(path)
	hub.Set(path, storetest.Compress([]byte("bbbb")))
	root := t.TempDir()
	t.Cleanup(func() { unmountAll(t, root) })
	p := startServer(t, buildServer(t), root, "http://127.0.0.1:1")
	ctx := t.Context()
	st, err := p.client.Status(ctx, tr.Flist)
	must(t, err)
	if st.Known {
		t.Fatal("an unknown flist is known")
	}
	must(t, p.client.SetHubs(ctx, []string{hub.URL}))
	if err := p.client.SetHubs(ctx, []string{"ftp://x"}); err == nil {
		t.Fatal("a bad hub address was taken")
	}
	must(t, p.client.Prefetch(ctx, tr.Flist))
	until := func(what string, ok func(fault.Status) bool) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for {
			st, err := p.client.Status(ctx, tr.Flist)
			must(t, err)
			if ok(st) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("never %s: %+v", what, st)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	until("one failure and the other object", func(st fault.Status) bool {
		return st.Known && st.Prefetching && len(st.Failures) == 1 && st.Failures[0].Code == store.CodeDigestMismatch &&
			st.Failures[0].Object == tr.File("a").Digest && st.Progress.Objects == 1
	})
	hub.Set(path, good)
	until("complete", func(st fault.Status) bool {
		return !st.Prefetching && len(st.Failures) == 0 && st.Progress.Bytes == st.Progress.TotalBytes && st.Progress.Objects == 2
	})
	stats, err := p.client.Stats(ctx)
	must(t, err)
	if stats.PID != p.cmd.Process.Pid || stats.Usage.Objects != 2 {
		t.Fatalf("stats %+v", stats)
	}
	if fi, err := os.Stat(filepath.Join(root, "s")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("control socket: %v %v", fi.Mode(), err)
	}
	t.Logf("zos-fault: %s", rss(t, stats.PID))
}

func rss(t testing.TB, pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	var out []string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "RssAnon") {
			out = append(out, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(out, ", ")
}
