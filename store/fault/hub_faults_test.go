package fault_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/storetest"
)

// answer is one way in which a hub misbehaves for objects.
type answer func(w http.ResponseWriter, r *http.Request, body []byte)

func objectsOnly(a answer) func(http.ResponseWriter, *http.Request, []byte) bool {
	return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		if !strings.HasPrefix(r.URL.Path, "/objects/") {
			return false
		}
		a(w, r, body)
		return true
	}
}

func TestEveryHubFaultIsEIOWithItsCodeAndHeals(t *testing.T) {
	small, large := "a small file\n", storetest.Noise(5, 3<<20)
	tr := tree(t, map[string]string{"small": small, "large": large})
	endless := func(w http.ResponseWriter, r *http.Request, head []byte) {
		_, _ = w.Write(head)
		junk := make([]byte, 64<<10)
		for {
			if _, err := w.Write(junk); err != nil {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		code string
		do   answer
	}{
		"404":     {store.CodeObjectMissing, func(w http.ResponseWriter, r *http.Request, _ []byte) { http.NotFound(w, r) }},
		"500":     {store.CodeHubUnreachable, func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(500) }},
		"hang up": {store.CodeHubUnreachable, func(http.ResponseWriter, *http.Request, []byte) { panic(http.ErrAbortHandler) }},
		"redirect": {store.CodeHubUnreachable, func(w http.ResponseWriter, r *http.Request, _ []byte) {
			http.Redirect(w, r, "http://127.0.0.1:1/secret", http.StatusFound)
		}},
		"breaks off": {store.CodeHubUnreachable, func(w http.ResponseWriter, _ *http.Request, body []byte) {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = w.Write(body[:len(body)/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}},
		"truncated": {store.CodeDigestMismatch, func(w http.ResponseWriter, _ *http.Request, body []byte) { _, _ = w.Write(body[:len(body)-3]) }},
		"empty":     {store.CodeDigestMismatch, func(http.ResponseWriter, *http.Request, []byte) {}},
		"wrong content": {store.CodeDigestMismatch, func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			_, _ = w.Write(storetest.Compress([]byte(small[:5] + "!")))
		}},
		"no zstd": {store.CodeDigestMismatch, func(w http.ResponseWriter, _ *http.Request, _ []byte) { _, _ = w.Write([]byte("<html>welcome</html>")) }},
		"bomb":    {store.CodeDigestMismatch, func(w http.ResponseWriter, _ *http.Request, _ []byte) { _, _ = w.Write(bomb) }},
		"endless": {store.CodeDigestMismatch, func(w http.ResponseWriter, r *http.Request, b []byte) { endless(w, r, b) }},
		"silent":  {store.CodeHubUnreachable, func(_ http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done() }},
		"drips": {store.CodeHubUnreachable, func(w http.ResponseWriter, r *http.Request, body []byte) {
			for _, b := range body {
				_, _ = w.Write([]byte{b})
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			hub := newHub(t, tr)
			n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}, Wait: 300 * time.Millisecond, MinSpeed: 4 << 20, Rounds: 2})
			at := n.mount(tr, "m")
			hub.Misbehave(objectsOnly(c.do))
			for _, f := range []string{"small", "large"} {
				if name == "drips" && f == "small" {
					continue // slow but small enough to arrive in time
				}
				n.wantEIO(filepath.Join(at, f))
				n.wantFailure(tr.File(f).Digest, c.code)
			}
			usage, err := n.store.Usage()
			must(t, err)
			if usage.Objects != 0 {
				t.Fatalf("%d objects became visible", usage.Objects)
			}
			hub.Misbehave(nil)
			n.want(at+"/small", small)
			n.want(at+"/large", large)
		})
	}
}

// bomb is a small frame that expands to 16 MiB.
var bomb = storetest.Compress(bytes.Repeat([]byte{0}, 16<<20))

func TestHubDownBeforeAndDuringARead(t *testing.T) {
	large := storetest.Noise(6, 4<<20)
	tr := tree(t, map[string]string{"small": "s", "large": large})
	hub := newHub(t, tr)
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}, Rounds: 2})
	at := n.mount(tr, "m")
	must(t, n.fetcher.SetHubs([]string{"http://127.0.0.1:1"})) // nobody listens there
	n.wantEIO(at + "/small")
	n.wantFailure(tr.File("small").Digest, store.CodeHubUnreachable)
	must(t, n.fetcher.SetHubs([]string{hub.URL}))
	n.want(at+"/small", "s")

	var once sync.Once
	hub.Misbehave(objectsOnly(func(w http.ResponseWriter, r *http.Request, body []byte) {
		once.Do(func() { must(t, n.fetcher.SetHubs([]string{"http://127.0.0.1:1"})) })
		panic(http.ErrAbortHandler)
	}))
	n.wantEIO(at + "/large")
	n.wantFailure(tr.File("large").Digest, store.CodeHubUnreachable)
	hub.Misbehave(nil)
	must(t, n.fetcher.SetHubs([]string{hub.URL}))
	n.want(at+"/large", large)
}

func TestLyingHubIsPassedOverForTheNext(t *testing.T) {
	tr := tree(t, map[string]string{"f": "truth"})
	honest, liar, second := newHub(t, tr), newHub(t, tr), newHub(t, tr)
	path := storetest.ObjectPath(tr.File("f").Digest)
	liar.Set(path, storetest.Compress([]byte("lie..")))
	second.Set(path, storetest.Compress([]byte("l1e..")))
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{liar.URL, honest.URL}})
	at := n.mount(tr, "m")
	n.want(at+"/f", "truth")

	// Two liars are enough to give up for now, though a third hub is honest.
	must(t, n.store.Remove(tr.File("f").Digest))
	must(t, store.UnmountFlist(t.Context(), at))
	at = n.mount(tr, "m")
	must(t, n.fetcher.SetHubs([]string{liar.URL, second.URL, honest.URL}))
	n.wantEIO(at + "/f")
	n.wantFailure(tr.File("f").Digest, store.CodeDigestMismatch)
}

func TestDeadFirstHubDelaysOnlyOnce(t *testing.T) {
	files := map[string]string{}
	for i := range 20 {
		files[strconv.Itoa(i)] = strconv.Itoa(i)
	}
	tr := tree(t, files)
	silent, good := newHub(t, tr), newHub(t, tr)
	silent.Misbehave(objectsOnly(func(_ http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done() }))
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{silent.URL, good.URL}, Wait: 200 * time.Millisecond})
	at := n.mount(tr, "m")
	for name, content := range files {
		n.want(filepath.Join(at, name), content)
	}
	if got := silent.Asked("/objects/"); got != 1 {
		t.Fatalf("the silent hub was asked %d times, want once", got)
	}
}

func TestNamesThatAreNoObjectsAreNotFetched(t *testing.T) {
	tr := tree(t, map[string]string{"f": "f"})
	hub := newHub(t, tr)
	n := newNode(t, store.Options{}, store.FetchOptions{Hubs: []string{hub.URL}})
	hex := tr.File("f").Digest.String()
	unknown := strings.Repeat("ab", 32)
	for _, p := range []string{
		"nothing", "fetch/zz", "fetch/AB", "fetch/abc", "fetch/" + hex[:2] + "/short", "fetch/" + hex[:2] + "/" + strings.ToUpper(hex[2:]) + "x",
		"fetch/" + unknown[:2] + "/" + unknown[2:], "fail/" + hex[:2] + "/short", "fail/x",
	} {
		if _, err := os.Stat(filepath.Join(n.dir, p)); !os.IsNotExist(err) {
			t.Errorf("%s: %v, want that it does not exist", p, err)
		}
	}
	if got := hub.Asked("/objects/"); got != 0 {
		t.Fatalf("the hub was asked %d times", got)
	}
}
