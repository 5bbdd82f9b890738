package store_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/storetest"
)

func blockObjects(release <-chan struct{}) func(http.ResponseWriter, *http.Request, []byte) bool {
	return func(_ http.ResponseWriter, r *http.Request, _ []byte) bool {
		if strings.HasPrefix(r.URL.Path, "/objects/") {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return false
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test mounts file systems: run it as root (sudo make test)")
	}
}

func TestMaxBytesIsKeptAndPinnedObjectsStay(t *testing.T) {
	kept := tree(t, map[string]string{"kept": storetest.Noise(1, 1<<20)})
	old := tree(t, map[string]string{"old1": storetest.Noise(2, 1<<20), "old2": storetest.Noise(3, 1<<20)})
	next := tree(t, map[string]string{"next": storetest.Noise(4, 2<<20)})
	huge := tree(t, map[string]string{"huge": storetest.Noise(5, 4<<20)})
	hub := hubWith(t, kept, old, next, huge)
	const limit = 4 << 20
	s := open(t, t.TempDir(), store.Options{MaxBytes: limit})
	f := fetcher(t, s, store.FetchOptions{Hubs: []string{hub.URL}})
	must(t, s.Pin(kept.Flist, "test"))
	for _, tr := range []storetest.Tree{kept, old} {
		must(t, f.Prefetch(t.Context(), tr.Flist))
	}
	// old1 was used last.
	soon := time.Now().Add(time.Second)
	must(t, os.Chtimes(s.ObjectPath(old.File("old1").Digest), soon, soon))
	must(t, f.Prefetch(t.Context(), next.Flist))
	if !s.Has(kept.File("kept")) || !s.Has(next.File("next")) {
		t.Fatal("a pinned or a new object is missing")
	}
	if s.Has(old.File("old2")) {
		t.Fatal("nothing was evicted")
	}
	usage, err := s.Usage()
	must(t, err)
	if usage.Bytes > limit {
		t.Fatalf("the store holds %d bytes, %d are allowed", usage.Bytes, limit)
	}
	must(t, s.Pin(next.Flist, "test"))
	err = f.Prefetch(t.Context(), huge.Flist)
	wantCode(t, err, store.CodeDiskFull)
	if x, ok := f.Failure(huge.File("huge").Digest); !ok || x.Code != store.CodeDiskFull {
		t.Fatalf("failure %+v", x)
	}
	for _, f := range []bool{s.Has(kept.File("kept")), s.Has(next.File("next"))} {
		if !f {
			t.Fatal("a pinned object was evicted")
		}
	}
	noLeftovers(t, s.Dir())
	// Room is made by letting go.
	must(t, s.Unpin(kept.Flist, "test"))
	must(t, s.Unpin(next.Flist, "test"))
	must(t, s.Unpin(next.Flist, "test"))
	err = f.Prefetch(t.Context(), huge.Flist)
	wantCode(t, err, store.CodeDiskFull) // with its manifest it is just too large
	if verifyObjects(t, s.Dir()) != 0 {
		t.Fatal("what nobody needs was not evicted")
	}
}

func TestPinsOutliveTheProcessAndHaveGoodNames(t *testing.T) {
	dir := t.TempDir()
	tr := tree(t, map[string]string{"a": "a"})
	s := open(t, dir, store.Options{})
	must(t, s.Pin(tr.Flist, "os"))
	must(t, s.Pin(tr.Flist, "workload-1"))
	for _, bad := range []string{"", "../x", "A", "a b", strings.Repeat("a", 65)} {
		if err := s.Pin(tr.Flist, bad); err == nil {
			t.Errorf("owner %q was taken", bad)
		}
	}
	pins, err := open(t, dir, store.Options{}).Pins()
	must(t, err)
	if len(pins) != 1 || len(pins[tr.Flist]) != 2 {
		t.Fatalf("pins %v", pins)
	}
	must(t, s.PutManifest(tr.Flist, tr.Bytes))
	if err := s.RemoveManifest(tr.Flist); err == nil {
		t.Fatal("a pinned flist was removed")
	}
}

// smallDisk mounts an ext4 of the given size.
func smallDisk(t *testing.T, megabytes string) string {
	t.Helper()
	needRoot(t)
	base := t.TempDir()
	dir := filepath.Join(base, "mnt")
	makeDisk(t, filepath.Join(base, "disk"), megabytes+"M", dir, "mkfs.ext4", "-q", "-m", "0", "-O", "verity")
	return dir
}

func TestFullDiskIsDiskFullAndNothingPartial(t *testing.T) {
	dir := smallDisk(t, "24")
	pinned := tree(t, map[string]string{"p": storetest.Noise(1, 9<<20)})
	loose := tree(t, map[string]string{"l": storetest.Noise(2, 3<<20)})
	large := tree(t, map[string]string{"large": storetest.Noise(3, 30<<20), "small": storetest.Noise(4, 1<<20)})
	hub := hubWith(t, pinned, loose, large)
	s, err := store.Open(dir, store.Options{})
	must(t, err)
	defer s.Close()
	f, err := store.NewFetcher(s, store.FetchOptions{Hubs: []string{hub.URL}})
	must(t, err)
	defer f.Close()
	must(t, s.Pin(pinned.Flist, "test"))
	must(t, f.Prefetch(t.Context(), pinned.Flist))
	must(t, f.Prefetch(t.Context(), loose.Flist))
	_, err = f.Manifest(t.Context(), large.Flist)
	must(t, err)
	wantCode(t, f.Object(t.Context(), large.File("large").Digest, store.Demand), store.CodeDiskFull)
	noLeftovers(t, dir)
	verifyObjects(t, dir)
	if !s.Has(pinned.File("p")) {
		t.Fatal("a pinned object was evicted")
	}
	if s.Has(loose.File("l")) {
		t.Fatal("an object that nobody needs was kept though room was needed")
	}
	must(t, f.Object(t.Context(), large.File("small").Digest, store.Demand))
	verifyObjects(t, dir)
}
