package fault_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/fault"
	"github.com/zero-os/zos/store/storetest"
)

func TestWritableShiftedLazyMountCarriesANestedOverlay(t *testing.T) {
	tr := tree(t, map[string]string{"low/f": "lazy", "low/g": "other", "unread": storetest.Noise(1, 1<<20)})
	hub := newHub(t, tr)
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}})
	_, err := n.fetcher.Manifest(t.Context(), tr.Flist)
	must(t, err)
	at := filepath.Join(n.root, "m")
	info, err := store.MountFlist(t.Context(), store.MountSpec{
		Store: n.store, Flist: tr.Flist, Target: at, FaultDir: n.dir,
		Upper: n.root + "/u", Work: n.root + "/w", IDBase: 100_000,
	})
	must(t, err)
	if !info.Writable || info.Complete {
		t.Fatalf("%+v", info)
	}
	n.want(at+"/low/f", "lazy")
	// Copying up fetches what is copied, and nothing else.
	must(t, os.WriteFile(at+"/low/g", []byte("changed"), 0o644))
	n.want(at+"/low/g", "changed")
	if got := hub.Asked("/objects/"); got > 2 {
		t.Fatalf("%d objects were fetched, want at most 2", got)
	}
	// As a container engine in the container would do it, its upper on a tmpfs.
	tmp, nested := filepath.Join(n.root, "tmp"), filepath.Join(n.root, "nested")
	must(t, os.MkdirAll(tmp, 0o755))
	must(t, os.MkdirAll(nested, 0o755))
	must(t, unix.Mount("tmpfs", tmp, "tmpfs", 0, ""))
	defer func() { must(t, unix.Unmount(tmp, 0)) }()
	must(t, os.MkdirAll(tmp+"/u", 0o755))
	must(t, os.MkdirAll(tmp+"/w", 0o755))
	must(t, unix.Mount("nested", nested, "overlay", 0, "userxattr,lowerdir="+at+"/low,upperdir="+tmp+"/u,workdir="+tmp+"/w"))
	defer func() { must(t, unix.Unmount(nested, 0)) }()
	n.want(nested+"/f", "lazy")
	must(t, os.WriteFile(nested+"/f", []byte("upper"), 0o644))
	n.want(at+"/low/f", "lazy")
}

func TestEvictedObjectIsFetchedAgainByANewMount(t *testing.T) {
	tr := tree(t, map[string]string{"f": "content"})
	hub := newHub(t, tr)
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}})
	n.want(n.mount(tr, "a")+"/f", "content")
	second := n.mount(tr, "b")
	must(t, n.store.Remove(tr.File("f").Digest))
	n.want(second+"/f", "content")
	if got := hub.Asked("/objects/"); got != 2 {
		t.Fatalf("the hub was asked %d times, want 2", got)
	}
}

func TestTornObjectInTheStoreIsFetchedAgain(t *testing.T) {
	tr := tree(t, map[string]string{"f": "content"})
	hub := newHub(t, tr)
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}})
	at := n.mount(tr, "m")
	path := n.store.ObjectPath(tr.File("f").Digest)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte("con"), 0o444))
	n.want(at+"/f", "content")
}

func TestWaitingHasADeadlineAndTheFetchGoesOn(t *testing.T) {
	tr := tree(t, map[string]string{"f": "content"})
	hub := newHub(t, tr)
	release := make(chan struct{})
	hub.Misbehave(objectsOnly(func(w http.ResponseWriter, _ *http.Request, body []byte) {
		<-release
		_, _ = w.Write(body)
	}))
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}})
	// A second, impatient server on the same store.
	srv, err := fault.Mount(t.Context(), fault.Config{Dir: n.root + "/impatient", Fetcher: n.fetcher, Wait: 200 * time.Millisecond})
	must(t, err)
	t.Cleanup(func() { must(t, srv.Close()) })
	n.dir = srv.Dir()
	at := n.mount(tr, "m")
	n.wantEIO(at + "/f")
	n.wantFailure(tr.File("f").Digest, store.CodeHubUnreachable)
	close(release)
	deadline := time.Now().Add(10 * time.Second)
	for !n.store.Has(tr.File("f")) {
		if time.Now().After(deadline) {
			t.Fatal("the fetch did not go on")
		}
		time.Sleep(5 * time.Millisecond)
	}
	n.want(at+"/f", "content")
	if got := hub.Asked("/objects/"); got != 1 {
		t.Fatalf("the hub was asked %d times, want once", got)
	}
	if _, ok := n.fetcher.Failure(tr.File("f").Digest); ok {
		t.Fatal("a healed failure stands")
	}
}

func TestBlockedLookupsDoNotHoldUpWhatIsPresent(t *testing.T) {
	files := map[string]string{"present": "present"}
	for i := range 150 {
		files["blocked/"+strconv.Itoa(i)] = "b" + strconv.Itoa(i)
	}
	tr := tree(t, files)
	hub := newHub(t, tr)
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}})
	at := n.mount(tr, "m")
	must(t, n.fetcher.Object(t.Context(), tr.File("present").Digest, store.Demand))
	release := make(chan struct{})
	hub.Misbehave(objectsOnly(func(w http.ResponseWriter, _ *http.Request, body []byte) {
		<-release
		_, _ = w.Write(body)
	}))
	done := make(chan error, 150)
	for i := range 150 {
		go func() {
			_, err := os.ReadFile(at + "/blocked/" + strconv.Itoa(i))
			done <- err
		}()
	}
	deadline := time.Now().Add(10 * time.Second)
	for hub.Asked("/objects/") < 10 {
		if time.Now().After(deadline) {
			t.Fatal("lookups do not arrive")
		}
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	n.want(at+"/present", "present")
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("opening what is present took %v", took)
	}
	close(release)
	for range 150 {
		must(t, <-done)
	}
}

func TestNewServerTakesThePlaceOfADeadOne(t *testing.T) {
	tr := tree(t, map[string]string{"f": "f"})
	hub := newHub(t, tr)
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}})
	first, err := fault.Mount(t.Context(), fault.Config{Dir: n.root + "/x", Fetcher: n.fetcher})
	must(t, err)
	second, err := fault.Mount(t.Context(), fault.Config{Dir: n.root + "/x", Fetcher: n.fetcher})
	must(t, err)
	select {
	case <-first.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the first server is still mounted")
	}
	n.dir = second.Dir()
	n.want(n.mount(tr, "m")+"/f", "f")
	must(t, store.UnmountFlist(t.Context(), n.root+"/m"))
	must(t, second.Close())
	must(t, second.Close())
	if _, err := fault.Mount(t.Context(), fault.Config{Dir: "/proc", Fetcher: n.fetcher}); err == nil {
		t.Fatal("mounted over something else")
	}
}
