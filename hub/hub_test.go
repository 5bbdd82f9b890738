package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openWriter(t *testing.T, dir string, opts WriterOptions) *Writer {
	t.Helper()
	w, err := OpenWriter(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// sourceTree makes a directory with small, large, equal and empty files.
func sourceTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"small": []byte("small"), "same": []byte("small"), "empty": nil,
		"large": bytes.Repeat([]byte("large "), 500_000),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// publishTree builds and publishes a directory.
func publishTree(t *testing.T, w *Writer, src string) (canon.Hash, flist.Manifest) {
	t.Helper()
	h, m, _, err := flist.BuildDir(context.Background(), src, w, flist.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.PutFlist(context.Background(), m)
	if err != nil || got != h {
		t.Fatalf("published as %s, want %s: %v", got, h, err)
	}
	return h, m
}

func unzstd(t *testing.T, z []byte) []byte {
	t.Helper()
	r, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := r.DecodeAll(z, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPublishedFlistIsServedWhole(t *testing.T) {
	for _, opts := range []WriterOptions{{}, {NoSync: true}} {
		dir := t.TempDir()
		w := openWriter(t, dir, opts)
		src := sourceTree(t)
		h, m := publishTree(t, w, src)
		srv := httptest.NewServer(Handler(dir))
		get := func(path string) []byte {
			resp, err := srv.Client().Get(srv.URL + "/" + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s, %v", path, resp.Status, err)
			}
			return unzstd(t, b)
		}
		manifest := get(FlistPath(h))
		if canon.Sum(manifest) != h {
			t.Fatal("the flist has another digest than its name")
		}
		got, err := flist.Decode(manifest)
		if err != nil || len(flist.Diff(m, got)) > 0 {
			t.Fatalf("the flist changed: %v", err)
		}
		got.Files(func(path []byte, f *flist.File) bool {
			var content []byte
			if len(f.Chunks) == 0 {
				content = get(ObjectPath(f.Digest))
			}
			for _, c := range f.Chunks {
				b := get(ObjectPath(c))
				if canon.Sum(b) != c {
					t.Errorf("%s: chunk with another digest", path)
				}
				content = append(content, b...)
			}
			want, err := os.ReadFile(filepath.Join(src, string(path)))
			if err != nil || !bytes.Equal(content, want) {
				t.Errorf("%s: content differs, %v", path, err)
			}
			return true
		})
		// small, and 6 chunks of large, of which all but two are alike.
		if s := w.Stats(); s.Objects != s.NewObjects || s.Objects < 4 || s.NewBytes == 0 {
			t.Errorf("stats are %+v", s)
		}
		srv.Close()
	}
}

func TestWhatIsThereIsNotWrittenAgain(t *testing.T) {
	dir := t.TempDir()
	src := sourceTree(t)
	publishTree(t, openWriter(t, dir, WriterOptions{NoSync: true}), src)
	before := listFiles(t, dir)
	second := openWriter(t, dir, WriterOptions{NoSync: true})
	publishTree(t, second, src)
	if s := second.Stats(); s.NewObjects != 0 || s.Objects == 0 {
		t.Errorf("the second time: %+v", s)
	}
	for path, was := range before {
		if now := listFiles(t, dir)[path]; now != was {
			t.Errorf("%s was written again", path)
		}
	}
}

// listFiles tells every file's inode-independent identity: size and time.
func listFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err == nil {
			rel, _ := filepath.Rel(dir, p)
			files[rel] = fmt.Sprint(st.Size(), st.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestTornFileOfAPowerCutIsReplaced(t *testing.T) {
	dir := t.TempDir()
	data := []byte("content")
	h := canon.Sum(data)
	full := filepath.Join(dir, ObjectPath(h))
	w := openWriter(t, dir, WriterOptions{})
	os.MkdirAll(filepath.Dir(full), 0o755)
	if err := os.WriteFile(full, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.Put(context.Background(), h, data); err != nil {
		t.Fatal(err)
	}
	z, err := os.ReadFile(full)
	if err != nil || !bytes.Equal(unzstd(t, z), data) {
		t.Fatalf("the empty file is still there: %v", err)
	}
}

func TestConcurrentWritersAgree(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		w := openWriter(t, dir, WriterOptions{NoSync: true})
		for range 4 {
			wg.Go(func() {
				for _, i := range rand.Perm(200) {
					data := []byte(fmt.Sprint("object ", i))
					if err := w.Put(context.Background(), canon.Sum(data), data); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	if faults, err := Verify(context.Background(), dir); err != nil || len(faults) > 0 {
		t.Fatal(faults, err)
	}
	if n := len(listFiles(t, dir)); n != 200 {
		t.Fatalf("%d files, want 200 objects and nothing in the staging folder", n)
	}
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, WriterOptions{})
	data := []byte("content")
	h := canon.Sum(data)
	// A file where the object's directory belongs.
	if err := os.WriteFile(filepath.Join(dir, "objects", h.String()[:2]), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.Put(context.Background(), h, data); err == nil {
		t.Fatal("no error")
	}
	for path := range listFiles(t, dir) {
		if strings.HasPrefix(path, staging) {
			t.Errorf("%s is left", path)
		}
	}
	// The same object works once the disk does.
	if err := os.Remove(filepath.Join(dir, "objects", h.String()[:2])); err != nil {
		t.Fatal(err)
	}
	if err := w.Put(context.Background(), h, data); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAKilledWriterLeftIsSwept(t *testing.T) {
	dir := t.TempDir()
	openWriter(t, dir, WriterOptions{})
	old, fresh := filepath.Join(dir, staging, "new-old"), filepath.Join(dir, staging, "new-fresh")
	for _, p := range []string{old, fresh} {
		if err := os.WriteFile(p, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	openWriter(t, dir, WriterOptions{})
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old file is still there: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("another writer's file is gone: %v", err)
	}
}

func TestFullDiskIsNamed(t *testing.T) {
	dir := smallDisk(t)
	w := openWriter(t, dir, WriterOptions{})
	random := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(random)
	var err error
	for i := 0; i < 10 && err == nil; i++ {
		random[0] = byte(i)
		err = w.Put(context.Background(), canon.Sum(random), random)
	}
	if problem.Code(err) != "disk-full" || problem.Fix(err) == "" {
		t.Fatalf("want disk-full, have %v", err)
	}
	if faults, err := Verify(context.Background(), dir); err != nil || len(faults) > 0 {
		t.Fatalf("the full disk left %v, %v", faults, err)
	}
}

func TestOnlyTheLayoutIsServed(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, WriterOptions{NoSync: true})
	h, _ := publishTree(t, w, sourceTree(t))
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	evil := canon.Sum([]byte("evil"))
	if err := os.Symlink(secret, filepath.Join(dir, FlistPath(evil))); err != nil {
		t.Fatal(err)
	}
	folder := canon.Sum([]byte("folder"))
	if err := os.Mkdir(filepath.Join(dir, FlistPath(folder)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, staging, "new-1"), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(Handler(dir))
	defer srv.Close()
	hex := h.String()
	for _, path := range []string{
		"", "/", "/flists", "/flists/", "/objects/", "/objects/" + hex[:2], "/objects/" + hex[:2] + "/", "/tags/", "/releases",
		"/.staging/new-1", "/.staging/lock", "/flists/../.staging/new-1", "/flists/%2e%2e/.staging/new-1", "/flists/..%2f.staging%2fnew-1",
		"/flists/" + strings.ToUpper(hex), "/flists/" + hex + "/", "//flists/" + hex, "/flists//" + hex, "/flists/" + hex[:63],
		"/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/tags/" + hex + "/../index.json", "/releases/" + hex + "/0", "/releases/" + hex + "/01",
		"/" + FlistPath(evil), "/" + FlistPath(folder), "/" + FlistPath(canon.Hash{}),
	} {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
		answer, err := io.ReadAll(conn)
		conn.Close()
		if err != nil {
			t.Fatal(err)
		}
		status := string(answer[:min(len(answer), 12)])
		if status == "HTTP/1.1 200" || bytes.Contains(answer, []byte("secret")) || bytes.Contains(answer, []byte("half")) || bytes.Contains(answer, []byte("<a href")) {
			t.Errorf("%q is answered with %.300s", path, answer)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		req, _ := http.NewRequest(method, srv.URL+"/"+FlistPath(h), strings.NewReader("x"))
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %s", method, resp.Status)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, FlistPath(h))); err != nil {
		t.Error(err)
	}
}

func TestHeadersLetCachesDoTheirWork(t *testing.T) {
	dir := t.TempDir()
	w := openWriter(t, dir, WriterOptions{NoSync: true})
	h, _ := publishTree(t, w, sourceTree(t))
	g := newGrid(t)
	if err := w.PublishTag(context.Background(), g.tag(t, "hello", "latest", 1)); err != nil {
		t.Fatal(err)
	}
	tagPath, err := TagPath(g.id, g.publisher, "hello", "latest")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(Handler(dir))
	defer srv.Close()
	for path, want := range map[string]string{FlistPath(h): "immutable", tagPath: "no-cache", TagIndexPath(g.id): "no-cache"} {
		resp, err := srv.Client().Head(srv.URL + "/" + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		etag := resp.Header.Get("ETag")
		if !strings.Contains(resp.Header.Get("Cache-Control"), want) || etag == "" || resp.ContentLength <= 0 {
			t.Errorf("%s: %s %v", path, resp.Status, resp.Header)
		}
		req, _ := http.NewRequest("GET", srv.URL+"/"+path, nil)
		req.Header.Set("If-None-Match", etag)
		again, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		again.Body.Close()
		if again.StatusCode != http.StatusNotModified {
			t.Errorf("%s: asked again: %s", path, again.Status)
		}
	}
}

// serve starts a hub and returns its address and what ends it.
func serve(t *testing.T, dir string, logger *slog.Logger) (string, func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, dir, logger) }()
	stop := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { stop() })
	return "http://" + l.Addr().String(), stop
}

func TestServerEndsWithItsContext(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	dir := t.TempDir()
	w := openWriter(t, dir, WriterOptions{NoSync: true})
	h, _ := publishTree(t, w, sourceTree(t))
	url, stop := serve(t, dir, logger)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url + "/" + FlistPath(h))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Get(url); err == nil {
		t.Fatal("it still answers")
	}
	if !strings.Contains(log.String(), "status=200") || !strings.Contains(log.String(), h.String()) {
		t.Errorf("the request is not in the log: %s", log.String())
	}
}

func TestServerOutlivesManyIdleConnections(t *testing.T) {
	url, _ := serve(t, t.TempDir(), nil)
	addr := strings.TrimPrefix(url, "http://")
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	// More than it has slots for; the rest waits in the kernel's queue.
	for range maxConns + 10 {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			break
		}
		conns = append(conns, c)
	}
	for _, c := range conns {
		c.Close()
	}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url + "/flists/none")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// grid is an invented grid with one publisher.
type grid struct {
	id, publisher canon.Hash
	signer        sign.Signer
}

func newGrid(t *testing.T) grid {
	t.Helper()
	_, s, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return grid{canon.Sum([]byte("grid")), canon.Sum([]byte("publisher")), s}
}

func (g grid) tag(t *testing.T, name, tag string, sequence uint64) contract.Signed {
	t.Helper()
	s, err := contract.Sign(context.Background(), contract.Tag{
		Header:    contract.Header{V: contract.Version, Kind: contract.KindTag, Grid: g.id},
		Publisher: g.publisher, Name: name, Tag: tag, Digest: canon.Sum(fmt.Append(nil, name, sequence)),
		Sequence: sequence, Expiry: 1 << 40,
	}, contract.KindTag, g.signer)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (g grid) release(t *testing.T, sequence uint64, name string) contract.Signed {
	t.Helper()
	s, err := contract.Sign(context.Background(), contract.Release{
		Header:   contract.Header{V: contract.Version, Kind: contract.KindRelease, Grid: g.id},
		Sequence: sequence, Name: name, OS: canon.Sum([]byte(name)), Expiry: 1 << 40,
	}, contract.KindRelease, g.signer)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTagNeverGoesBack(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	w := openWriter(t, dir, WriterOptions{})
	g := newGrid(t)
	url, _ := serve(t, dir, nil)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	read := func() uint64 {
		t.Helper()
		s, err := ReadTag(ctx, client, []string{url}, g.id, g.publisher, "hello", "latest")
		if err != nil {
			t.Fatal(err)
		}
		tag, _, _, err := contract.Open[contract.Tag](s, contract.KindTag, g.id)
		if err != nil {
			t.Fatal(err)
		}
		return tag.Sequence
	}
	for _, step := range []struct {
		sequence uint64
		code     string
		stands   uint64
	}{{2, "", 2}, {1, "stale-sequence", 2}, {2, "", 2}, {5, "", 5}, {4, "stale-sequence", 5}} {
		if err := w.PublishTag(ctx, g.tag(t, "hello", "latest", step.sequence)); problem.Code(err) != step.code {
			t.Fatalf("sequence %d: %v, want code %q", step.sequence, err, step.code)
		}
		if got := read(); got != step.stands {
			t.Fatalf("after sequence %d the tag has %d, want %d", step.sequence, got, step.stands)
		}
	}
	// Another statement with the same sequence.
	other := g.tag(t, "hello", "latest", 5)
	tag, _, _, err := contract.Open[contract.Tag](other, contract.KindTag, g.id)
	if err != nil {
		t.Fatal(err)
	}
	tag.Digest[0] ^= 1
	if other, err = contract.Sign(ctx, tag, contract.KindTag, g.signer); err != nil {
		t.Fatal(err)
	}
	if err := w.PublishTag(ctx, other); problem.Code(err) != "stale-sequence" {
		t.Fatalf("another tag of the same sequence: %v", err)
	}
	if err := w.PublishTag(ctx, g.tag(t, "alpha", "v1.0", 1)); err != nil {
		t.Fatal(err)
	}
	list, err := ReadTagIndex(ctx, client, []string{url}, g.id)
	if err != nil || len(list) != 2 || list[0].Name != "alpha" || list[1].Sequence != 5 {
		t.Fatalf("index %+v, %v", list, err)
	}
}

func TestTagThatIsNoTagIsRefused(t *testing.T) {
	ctx := context.Background()
	w := openWriter(t, t.TempDir(), WriterOptions{NoSync: true})
	g := newGrid(t)
	forged := g.tag(t, "hello", "latest", 1)
	forged.Statement = bytes.Clone(forged.Statement)
	forged.Statement[len(forged.Statement)-1] ^= 1
	unsigned := g.tag(t, "hello", "latest", 1)
	unsigned.Signatures = nil
	for name, s := range map[string]contract.Signed{
		"altered":            forged,
		"unsigned":           unsigned,
		"release":            g.release(t, 1, "x"),
		"name with a slash":  g.tag(t, "../../x", "latest", 1),
		"name of dots":       g.tag(t, "..", "latest", 1),
		"tag of dots":        g.tag(t, "hello", "..", 1),
		"tag with a slash":   g.tag(t, "hello", "a/b", 1),
		"empty name":         g.tag(t, "", "latest", 1),
		"long name":          g.tag(t, strings.Repeat("x", 64), "latest", 1),
		"nothing":            {},
		"statement of bytes": {Statement: []byte{0xff}},
	} {
		if err := w.PublishTag(ctx, s); err == nil {
			t.Errorf("%s: published", name)
		}
	}
	if err := w.PublishRelease(ctx, g.release(t, 0, "zero")); err == nil {
		t.Error("release 0: published")
	}
	for path := range listFiles(t, w.dir) {
		if !strings.HasPrefix(path, staging) {
			t.Errorf("%s was written", path)
		}
	}
}

func TestLatestReleaseIsTheHighest(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	w := openWriter(t, dir, WriterOptions{})
	g := newGrid(t)
	url, _ := serve(t, dir, nil)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	read := func(sequence uint64) uint64 {
		t.Helper()
		all, err := ReadReleases(ctx, client, []string{url}, g.id, sequence)
		if err != nil {
			t.Fatal(err)
		}
		r, _, _, err := contract.Open[contract.Release](all[0], contract.KindRelease, g.id)
		if err != nil {
			t.Fatal(err)
		}
		return r.Sequence
	}
	for _, step := range []struct{ sequence, latest uint64 }{{3, 3}, {1, 3}, {7, 7}, {3, 7}} {
		if err := w.PublishRelease(ctx, g.release(t, step.sequence, "name")); err != nil {
			t.Fatal(err)
		}
		if got := read(0); got != step.latest {
			t.Fatalf("after %d the latest is %d, want %d", step.sequence, got, step.latest)
		}
		if got := read(step.sequence); got != step.sequence {
			t.Fatalf("%d reads as %d", step.sequence, got)
		}
	}
	if err := w.PublishRelease(ctx, g.release(t, 7, "another")); problem.Code(err) != "stale-sequence" {
		t.Fatalf("another release 7: %v", err)
	}
	// A second signature is news about the same release.
	_, second, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	more, err := contract.Countersign(ctx, g.release(t, 7, "name"), contract.KindRelease, second)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.PublishRelease(ctx, more); err != nil {
		t.Fatal(err)
	}
	all, err := ReadReleases(ctx, client, []string{url}, g.id, 0)
	if err != nil || len(all[0].Signatures) != 2 {
		t.Fatalf("the second signature is missing: %v", err)
	}
}

func TestClientIsBoundedWhateverTheHubDoes(t *testing.T) {
	g := newGrid(t)
	good, err := g.release(t, 9, "good").Encode()
	if err != nil {
		t.Fatal(err)
	}
	answer := func(f http.HandlerFunc) string {
		srv := httptest.NewServer(f)
		t.Cleanup(srv.Close)
		return srv.URL
	}
	endless := answer(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	garbage := answer(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) })
	absent := answer(http.NotFound)
	broken := answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	cut := answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(good)))
		w.Write(good[:10])
	})
	fine := answer(func(w http.ResponseWriter, _ *http.Request) { w.Write(good) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + l.Addr().String()
	l.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, c := range []struct {
		name string
		hubs []string
		code string
	}{
		{"no hub", nil, "hub-unreachable"},
		{"a dead one", []string{dead}, "hub-unreachable"},
		{"a broken one", []string{broken}, "hub-unreachable"},
		{"a cut answer", []string{cut}, "hub-unreachable"},
		{"an address that is none", []string{"::"}, "hub-unreachable"},
		{"nothing there", []string{absent}, "not-found"},
		{"nothing there, and a dead one", []string{dead, absent}, "not-found"},
		{"an endless answer", []string{endless}, "statement-invalid"},
		{"garbage", []string{garbage, absent}, "statement-invalid"},
		{"one good at the end", []string{dead, broken, cut, absent, garbage, endless, fine}, ""},
	} {
		all, err := ReadReleases(ctx, client, c.hubs, g.id, 0)
		if problem.Code(err) != c.code || err == nil && len(all) != 1 {
			t.Errorf("%s: %d releases, %v, want code %q", c.name, len(all), err, c.code)
		}
	}
	if all, err := ReadReleases(ctx, client, []string{fine, fine}, g.id, 0); err != nil || len(all) != 1 {
		t.Errorf("the same from two hubs: %d, %v", len(all), err)
	}
}

func TestSlowHubDoesNotHoldTheClient(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}))
	defer srv.Close()
	defer close(release)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	_, err := FetchSigned(ctx, client, []string{srv.URL}, "releases/x/latest")
	if problem.Code(err) != "hub-unreachable" || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestScrubNamesEveryWrongFile(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	w := openWriter(t, dir, WriterOptions{NoSync: true})
	h, m := publishTree(t, w, sourceTree(t))
	g := newGrid(t)
	if err := w.PublishTag(ctx, g.tag(t, "hello", "latest", 1)); err != nil {
		t.Fatal(err)
	}
	if err := w.PublishRelease(ctx, g.release(t, 1, "one")); err != nil {
		t.Fatal(err)
	}
	if faults, err := Verify(ctx, dir); err != nil || len(faults) > 0 {
		t.Fatalf("a sound hub: %v, %v", faults, err)
	}
	e, _ := m.Lookup("small")
	large, _ := m.Lookup("large")
	flip := func(path string) string {
		full := filepath.Join(dir, path)
		b, err := os.ReadFile(full)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 0x10
		if err := os.WriteFile(full, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tag, _ := TagPath(g.id, g.publisher, "hello", "latest")
	want := map[string]string{
		flip(ObjectPath(e.File.Digest)):         "digest-mismatch",
		flip(tag):                               "statement-invalid",
		flip(ReleasePath(g.id, 1)):              "statement-invalid",
		ObjectPath(large.File.Chunks[1]):        "object-missing",
		"flists/stray":                          "unknown-file",
		FlistPath(canon.Sum([]byte("renamed"))): "digest-mismatch",
	}
	if err := os.Remove(filepath.Join(dir, ObjectPath(large.File.Chunks[1]))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "flists/stray"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, FlistPath(h)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, FlistPath(canon.Sum([]byte("renamed")))), b, 0o644); err != nil {
		t.Fatal(err)
	}
	faults, err := Verify(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range faults {
		got[f.Path] = f.Code
	}
	for path, code := range want {
		// A flipped bit may break the compression or the content.
		if got[path] != code {
			t.Errorf("%s: %q, want %q", path, got[path], code)
		}
		delete(got, path)
	}
	if len(got) > 0 {
		t.Errorf("sound files are called wrong: %v", got)
	}
}
