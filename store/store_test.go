package store_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/storetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(ingestEnv); dir != "" {
		ingestForEver(dir)
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	if problem.Code(err) != code {
		t.Fatalf("error %v has code %q, want %q", err, problem.Code(err), code)
	}
}

func open(t testing.TB, dir string, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(dir, o)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func fetcher(t testing.TB, s *store.Store, o store.FetchOptions) *store.Fetcher {
	t.Helper()
	if o.Backoff == 0 {
		o.Backoff = 10 * time.Millisecond
	}
	f, err := store.NewFetcher(s, o)
	must(t, err)
	t.Cleanup(func() { must(t, f.Close()) })
	return f
}

func tree(t testing.TB, files map[string]string) storetest.Tree {
	t.Helper()
	tr, err := storetest.NewTree(files)
	must(t, err)
	return tr
}

func hubWith(t testing.TB, trees ...storetest.Tree) *storetest.Hub {
	h := storetest.NewHub(trees...)
	t.Cleanup(h.Close)
	return h
}

// noLeftovers checks that nothing unfinished lies around.
func noLeftovers(t testing.TB, dir string) {
	t.Helper()
	must(t, filepath.WalkDir(filepath.Join(dir, "tmp"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("left over: %s", path)
		}
		return err
	}))
}

// verifyObjects checks that every visible object is what its name says, and
// returns how many there are.
func verifyObjects(t testing.TB, dir string) int {
	t.Helper()
	n := 0
	must(t, filepath.WalkDir(filepath.Join(dir, "objects"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := filepath.Base(filepath.Dir(path)) + filepath.Base(path)
		if canon.Sum(b).String() != name {
			t.Errorf("object %s holds %d bytes of something else", name, len(b))
		}
		n++
		return nil
	}))
	return n
}

func TestPutMakesExactlyTheDeclaredObjectVisible(t *testing.T) {
	s := open(t, t.TempDir(), store.Options{})
	ctx := t.Context()
	content := []byte(storetest.Noise(1, 300_000))
	good := storetest.Describe(content)
	for name, c := range map[string]struct {
		want flist.File
		body []byte
		code string
	}{
		"short":        {good, content[:len(content)-1], store.CodeDigestMismatch},
		"long":         {good, append(bytes.Clone(content), 'x'), store.CodeDigestMismatch},
		"empty":        {good, nil, store.CodeDigestMismatch},
		"flipped":      {good, append([]byte{content[0] ^ 1}, content[1:]...), store.CodeDigestMismatch},
		"wrong verity": {flist.File{Size: good.Size, Digest: good.Digest, Verity: canon.Sum(nil)}, content, store.CodeManifestInvalid},
		"too large":    {flist.File{Size: flist.MaxFileSize + 1, Digest: good.Digest}, content, store.CodeManifestInvalid},
	} {
		err := s.Put(ctx, c.want, bytes.NewReader(c.body))
		if problem.Code(err) != c.code {
			t.Errorf("%s: error %v with code %q, want %q", name, err, problem.Code(err), c.code)
		}
		if s.Has(good) {
			t.Fatalf("%s: the object is visible", name)
		}
	}
	noLeftovers(t, s.Dir())
	must(t, s.Put(ctx, good, bytes.NewReader(content)))
	if !s.Has(good) || verifyObjects(t, s.Dir()) != 1 {
		t.Fatal("the object is not there")
	}
	// Again, and by many at once.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := s.Put(ctx, good, bytes.NewReader(content)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	noLeftovers(t, s.Dir())
	must(t, s.Remove(good.Digest))
	must(t, s.Remove(good.Digest))
	if s.Has(good) {
		t.Fatal("removed and still there")
	}
}

func TestSecondCommitKeepsTheFirstInode(t *testing.T) {
	s := open(t, t.TempDir(), store.Options{})
	content := []byte("content")
	f := storetest.Describe(content)
	must(t, s.Put(t.Context(), f, bytes.NewReader(content)))
	first, err := os.Stat(s.ObjectPath(f.Digest))
	must(t, err)
	must(t, s.Put(t.Context(), f, bytes.NewReader(content)))
	second, err := os.Stat(s.ObjectPath(f.Digest))
	must(t, err)
	if !os.SameFile(first, second) {
		t.Fatal("the object was replaced, its readers and pages are not shared any more")
	}
	// One that is not what it says is replaced.
	must(t, os.Remove(s.ObjectPath(f.Digest)))
	must(t, os.WriteFile(s.ObjectPath(f.Digest), []byte("torn"), 0o444))
	must(t, s.Put(t.Context(), f, bytes.NewReader(content)))
	if verifyObjects(t, s.Dir()) != 1 {
		t.Fatal("a torn object stayed")
	}
}

func TestLeftoversOfDeadProcessesGoAndThoseOfLivingStay(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, store.Options{})
	w, err := s.Create(t.Context(), storetest.Describe([]byte("slow")))
	must(t, err)
	_, err = w.WriteAt([]byte("sl"), 0)
	must(t, err)
	dead := filepath.Join(dir, "tmp", "p-dead")
	must(t, os.Mkdir(dead, 0o700))
	must(t, os.WriteFile(filepath.Join(dead, "o-1"), []byte("half"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "tmp", "stray"), []byte("half"), 0o600))
	other := open(t, dir, store.Options{})
	for _, gone := range []string{dead, filepath.Join(dir, "tmp", "stray")} {
		if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
	_, err = w.WriteAt([]byte("ow"), 2)
	must(t, err)
	must(t, w.Commit())
	if !other.Has(storetest.Describe([]byte("slow"))) {
		t.Fatal("another process does not see the object")
	}
}

func TestRequireVerityRefusesWhatHasNone(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, store.Options{})
	_, err := store.Open(dir, store.Options{RequireVerity: true})
	if s.Verity() {
		must(t, err)
		return
	}
	wantCode(t, err, store.CodeNoVerity)
}

func TestManifestMustBeItsName(t *testing.T) {
	s := open(t, t.TempDir(), store.Options{})
	tr := tree(t, map[string]string{"a": "a"})
	wantCode(t, s.PutManifest(canon.Sum([]byte("x")), tr.Bytes), store.CodeDigestMismatch)
	junk := []byte("not a manifest")
	wantCode(t, s.PutManifest(canon.Sum(junk), junk), store.CodeManifestInvalid)
	must(t, s.PutManifest(tr.Flist, tr.Bytes))
	_, err := s.Manifest(tr.Flist)
	must(t, err)
	// Damaged on disk: gone rather than wrong.
	path := filepath.Join(s.Dir(), "manifests", tr.Flist.String())
	must(t, os.WriteFile(path, append(tr.Bytes[:len(tr.Bytes)-1:len(tr.Bytes)-1], 'x'), 0o600))
	if _, err := s.Manifest(tr.Flist); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a damaged manifest: %v, want that it does not exist", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("a damaged manifest stays")
	}
}

func TestFetchedManifestIsVerified(t *testing.T) {
	tr, other := tree(t, map[string]string{"a": "a"}), tree(t, map[string]string{"b": "b"})
	hub := hubWith(t, tr, other)
	s := open(t, t.TempDir(), store.Options{})
	f := fetcher(t, s, store.FetchOptions{Hubs: []string{hub.URL}})
	path := "/flists/" + tr.Flist.String()
	good := hub.Get(path)
	for name, bad := range map[string][]byte{
		"another flist": hub.Get("/flists/" + other.Flist.String()),
		"not zstd":      []byte("hello"),
		"truncated":     good[:len(good)-2],
		"bomb":          storetest.Compress(make([]byte, flist.MaxManifest+1)),
	} {
		hub.Set(path, bad)
		_, err := f.Manifest(t.Context(), tr.Flist)
		if problem.Code(err) != store.CodeDigestMismatch {
			t.Errorf("%s: %v, want %s", name, err, store.CodeDigestMismatch)
		}
	}
	hub.Set(path, nil)
	_, err := f.Manifest(t.Context(), tr.Flist)
	wantCode(t, err, store.CodeObjectMissing)
	if x := f.Failures(tr.Flist); len(x) != 1 || x[0].Code != store.CodeObjectMissing {
		t.Fatalf("failures of the flist: %+v", x)
	}
	junk := []byte("right digest, no manifest")
	hub.Set("/flists/"+canon.Sum(junk).String(), storetest.Compress(junk))
	_, err = f.Manifest(t.Context(), canon.Sum(junk))
	wantCode(t, err, store.CodeManifestInvalid)
	hub.Set(path, good)
	_, err = f.Manifest(t.Context(), tr.Flist)
	must(t, err)
	if len(f.Failures(tr.Flist)) != 0 {
		t.Fatal("a healed failure stands")
	}
}

// A flist can say anything about an object's chunks and fs-verity digest. That
// must not keep an honest flist from the same object.
func TestLyingFlistHarmsOnlyItself(t *testing.T) {
	content := storetest.Noise(2, 2<<20)
	honest := tree(t, map[string]string{"f": content})
	good := honest.File("f")
	for name, lie := range map[string]flist.File{
		"chunks": {Size: good.Size, Digest: good.Digest, Verity: good.Verity, Chunks: storetest.Describe([]byte(storetest.Noise(3, 2<<20))).Chunks},
		"verity": {Size: good.Size, Digest: good.Digest, Verity: canon.Sum(nil), Chunks: good.Chunks},
		"size":   {Size: 5, Digest: good.Digest, Verity: good.Verity},
	} {
		t.Run(name, func(t *testing.T) {
			liar := tree(t, map[string]string{"f": content})
			m := liar.Manifest
			m.Entries[1].File = &lie
			must(t, liar.SetManifest(m))
			evil := tree(t, map[string]string{"g": storetest.Noise(3, 2<<20)}) // so that the wrong chunks exist
			hub := hubWith(t, honest, liar, evil)
			s := open(t, t.TempDir(), store.Options{})
			f := fetcher(t, s, store.FetchOptions{Hubs: []string{hub.URL}})
			_, err := f.Manifest(t.Context(), liar.Flist)
			must(t, err)
			err = f.Object(t.Context(), good.Digest, store.Demand)
			if c := problem.Code(err); c != store.CodeManifestInvalid && c != store.CodeObjectMissing && c != store.CodeDigestMismatch {
				t.Fatalf("the lying flist alone: %v (%s)", err, c)
			}
			if s.Has(good) {
				t.Fatal("something became visible")
			}
			_, err = f.Manifest(t.Context(), honest.Flist)
			must(t, err)
			must(t, f.Object(t.Context(), good.Digest, store.Demand))
			if verifyObjects(t, s.Dir()) != 1 {
				t.Fatal("the honest flist's object is not there")
			}
		})
	}
}

func TestObjectOfNoManifestIsNotAskedFor(t *testing.T) {
	hub := hubWith(t)
	s := open(t, t.TempDir(), store.Options{})
	f := fetcher(t, s, store.FetchOptions{Hubs: []string{hub.URL}})
	wantCode(t, f.Object(t.Context(), canon.Sum([]byte("x")), store.Demand), store.CodeObjectMissing)
	if hub.Asked("/") != 0 {
		t.Fatal("the hub was asked")
	}
}

func TestPrefetchCompletesAndCompleteSaysSo(t *testing.T) {
	files := map[string]string{"big": storetest.Noise(9, 7<<20+1), "empty": ""}
	for i := range 300 {
		files["d"+string(rune('a'+i%20))+"/"+string(rune('a'+i/20))] = storetest.Noise(uint64(i), 10+i*13)
	}
	tr := tree(t, files)
	hub := hubWith(t, tr)
	s := open(t, t.TempDir(), store.Options{})
	f := fetcher(t, s, store.FetchOptions{Hubs: []string{hub.URL}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := f.Manifest(ctx, tr.Flist)
	must(t, err)
	wantCode(t, s.Complete(ctx, tr.Flist), store.CodeObjectMissing)
	must(t, f.Prefetch(ctx, tr.Flist))
	must(t, s.Complete(ctx, tr.Flist))
	p, err := f.Progress(tr.Flist)
	must(t, err)
	if p.Objects != 301 || p.Objects != p.TotalObjects || p.Bytes != p.TotalBytes {
		t.Fatalf("progress %+v", p)
	}
	if n := verifyObjects(t, s.Dir()); n != 301 {
		t.Fatalf("%d objects, want 301", n)
	}
	asked := hub.Asked("/objects/")
	must(t, f.Prefetch(ctx, tr.Flist))
	if hub.Asked("/objects/") != asked {
		t.Fatal("what is present was asked for again")
	}
}

func TestWaitingEndsWithItsContextAndFetchingGoesOn(t *testing.T) {
	tr := tree(t, map[string]string{"f": "slow"})
	hub := hubWith(t, tr)
	release := make(chan struct{})
	hub.Misbehave(blockObjects(release))
	s := open(t, t.TempDir(), store.Options{})
	f := fetcher(t, s, store.FetchOptions{Hubs: []string{hub.URL}})
	_, err := f.Manifest(t.Context(), tr.Flist)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	d := tr.File("f").Digest
	if err := f.Object(ctx, d, store.Demand); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("waiting ended with %v", err)
	}
	close(release)
	must(t, f.Object(t.Context(), d, store.Demand))
	if got := hub.Asked("/objects/"); got != 1 {
		t.Fatalf("the hub was asked %d times, want that the first request went on", got)
	}
}

func TestBadHubAddressesAreRefused(t *testing.T) {
	s := open(t, t.TempDir(), store.Options{})
	for _, bad := range []string{"", "hub", "ftp://hub", "http://", "http://hub/?x", "http://hub/#x", "http://[", strings.Repeat("x", 10)} {
		if _, err := store.NewFetcher(s, store.FetchOptions{Hubs: []string{bad}}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := store.NewFetcher(s, store.FetchOptions{Hubs: make([]string, store.MaxHubs+1)}); err == nil {
		t.Error("too many were taken")
	}
}
