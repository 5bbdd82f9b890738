package fault_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/fault"
	"github.com/zero-os/zos/store/storetest"
)

// node is a store with a fault server, as on a node.
type node struct {
	t       *testing.T
	store   *store.Store
	fetcher *store.Fetcher
	dir     string // of the fault server
	root    string
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test mounts file systems: run it as root (sudo make test)")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Fatalf("this test needs FUSE: modprobe fuse (%v)", err)
	}
}

func newNode(t *testing.T, o store.Options, fo store.FetchOptions) *node {
	t.Helper()
	needRoot(t)
	root := t.TempDir()
	s, err := store.Open(filepath.Join(root, "data"), o)
	must(t, err)
	if fo.Backoff == 0 {
		fo.Backoff = 20 * time.Millisecond
	}
	f, err := store.NewFetcher(s, fo)
	must(t, err)
	srv, err := fault.Mount(t.Context(), fault.Config{Dir: filepath.Join(root, "fault"), Fetcher: f, Wait: 20 * time.Second})
	must(t, err)
	n := &node{t: t, store: s, fetcher: f, dir: srv.Dir(), root: root}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		mounts, err := store.Mounts(root)
		must(t, err)
		for _, m := range mounts {
			must(t, store.UnmountFlist(ctx, m.Target))
		}
		must(t, srv.Close())
		select {
		case <-srv.Done():
		case <-ctx.Done():
			t.Error("the fault server's mount does not go away")
		}
		must(t, f.Close())
		must(t, s.Close())
	})
	return n
}

// mount mounts the tree lazily, read-only, and returns where.
func (n *node) mount(t storetest.Tree, name string) string {
	n.t.Helper()
	target := filepath.Join(n.root, name)
	_, err := n.fetcher.Manifest(n.t.Context(), t.Flist)
	must(n.t, err)
	_, err = store.MountFlist(n.t.Context(), store.MountSpec{Store: n.store, Flist: t.Flist, Target: target, FaultDir: n.dir})
	must(n.t, err)
	return target
}

func tree(t testing.TB, files map[string]string) storetest.Tree {
	t.Helper()
	tr, err := storetest.NewTree(files)
	must(t, err)
	return tr
}

func newHub(t testing.TB, trees ...storetest.Tree) *storetest.Hub {
	h := storetest.NewHub(trees...)
	t.Cleanup(h.Close)
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (n *node) want(path, content string) {
	n.t.Helper()
	got, err := os.ReadFile(path)
	must(n.t, err)
	if string(got) != content {
		n.t.Fatalf("%s has %d bytes that are not the %d bytes published", path, len(got), len(content))
	}
}

func (n *node) wantEIO(path string) {
	n.t.Helper()
	if _, err := os.ReadFile(path); !errors.Is(err, syscall.EIO) {
		n.t.Fatalf("reading %s: %v, want EIO", path, err)
	}
}

func (n *node) wantFailure(d canon.Hash, code string) {
	n.t.Helper()
	f, ok := n.fetcher.Failure(d)
	if !ok || f.Code != code {
		n.t.Fatalf("failure of %s is %+v, want code %s", d.Short(), f, code)
	}
}

func TestFirstReadFetchesExactlyWhatIsRead(t *testing.T) {
	tr := tree(t, map[string]string{"bin/hello": "hello\n", "big": storetest.Noise(1, 2<<20+17), "unread": storetest.Noise(2, 1<<20), "empty": ""})
	hub := newHub(t, tr)
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}})
	at := n.mount(tr, "m")
	if hub.Asked("/objects/") != 0 {
		t.Fatal("mounting fetched objects")
	}
	n.want(at+"/bin/hello", "hello\n")
	n.want(at+"/empty", "")
	if got := hub.Asked("/objects/"); got != 1 {
		t.Fatalf("reading one small file asked the hub for %d objects", got)
	}
	n.want(at+"/big", storetest.Noise(1, 2<<20+17))
	if got := hub.Asked("/objects/"); got != 1+5 {
		t.Fatalf("reading a file of 5 chunks brought the requests to %d, want 6", got)
	}
	p, err := n.fetcher.Progress(tr.Flist)
	must(t, err)
	if want := (store.Progress{Objects: 2, TotalObjects: 3, Bytes: 2<<20 + 17 + 6, TotalBytes: 3<<20 + 17 + 6}); p != want {
		t.Fatalf("progress %+v, want %+v", p, want)
	}
}

func TestFlippedByteOnTheHubIsEIOAndHeals(t *testing.T) {
	tr := tree(t, map[string]string{"small": "small content\n", "large": storetest.Noise(3, 1200<<10)})
	hub := newHub(t, tr)
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}})
	at := n.mount(tr, "m")
	for _, name := range []string{"small", "large"} {
		f := tr.File(name)
		path := storetest.ObjectPath(f.Digest)
		if len(f.Chunks) > 0 {
			path = storetest.ObjectPath(f.Chunks[2])
		}
		good := hub.Get(path)
		bad := append([]byte{}, good...)
		bad[len(bad)/2] ^= 1
		hub.Set(path, bad)
		n.wantEIO(filepath.Join(at, name))
		n.wantFailure(f.Digest, store.CodeDigestMismatch)
		if n.store.Has(f) {
			t.Fatalf("%s became visible", name)
		}
		hub.Set(path, good)
		n.want(filepath.Join(at, name), string(tr.Content[f.Digest]))
		if x, ok := n.fetcher.Failure(f.Digest); ok {
			t.Fatalf("a healed failure stands: %+v", x)
		}
	}
}

func TestTwoMountsShareOneInode(t *testing.T) {
	tr := tree(t, map[string]string{"f": storetest.Noise(4, 1<<20)})
	other := tree(t, map[string]string{"g": storetest.Noise(4, 1<<20), "x": "x"})
	hub := newHub(t, tr, other)
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}})
	a, b := n.mount(tr, "a"), n.mount(other, "b")
	n.want(a+"/f", storetest.Noise(4, 1<<20))
	n.want(b+"/g", storetest.Noise(4, 1<<20))
	// Pages belong to the object's inode: what mincore says of one mount's
	// mapping is what was read through the other.
	drop(t, n.store.ObjectPath(tr.File("f").Digest))
	if got := resident(t, a+"/f"); got != 0 {
		t.Fatalf("%d pages are still cached", got)
	}
	n.want(b+"/g", storetest.Noise(4, 1<<20))
	if got := resident(t, a+"/f"); got != 256 {
		t.Fatalf("%d of 256 pages read through one mount are seen through the other", got)
	}
	if got := hub.Asked("/objects/"); got != 1 {
		t.Fatalf("the hub was asked %d times for one object", got)
	}
}

func TestConcurrentFirstOpensFetchOnce(t *testing.T) {
	files := map[string]string{}
	for i := range 100 {
		files["d/"+string(rune('a'+i%26))+string(rune('a'+i/26))] = storetest.Noise(uint64(i+10), 4096)
	}
	tr := tree(t, files)
	hub := newHub(t, tr)
	hub.Misbehave(func(http.ResponseWriter, *http.Request, []byte) bool { time.Sleep(20 * time.Millisecond); return false })
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}})
	mounts := []string{n.mount(tr, "a"), n.mount(tr, "b"), n.mount(tr, "c")}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var bad []error
	for _, at := range mounts {
		for name, content := range files {
			for range 2 {
				wg.Go(func() {
					got, err := os.ReadFile(filepath.Join(at, name))
					if err == nil && string(got) != content {
						err = errors.New(name + ": wrong content")
					}
					if err != nil {
						mu.Lock()
						bad = append(bad, err)
						mu.Unlock()
					}
				})
			}
		}
	}
	wg.Wait()
	if len(bad) > 0 {
		t.Fatalf("%d of 600 reads failed, the first: %v", len(bad), bad[0])
	}
	if got := hub.Asked("/objects/"); got != 100 {
		t.Fatalf("the hub was asked %d times for 100 objects", got)
	}
}
