package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"
)

// Handler serves a hub's directory: GET and HEAD of the files of its layout,
// nothing else. Links that lead out of dir are not followed.
func Handler(dir string) http.Handler { return handler(dir) }

type handler string

func (dir handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "a hub is only read", http.StatusMethodNotAllowed)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/")
	kind := classify(path)
	if kind == notFound {
		http.NotFound(w, r)
		return
	}
	f, err := dir.open(path)
	if errors.Is(err, fs.ErrNotExist) {
		// Absence is never cached: the file may be published next.
		w.Header().Set("Cache-Control", "no-store")
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, "the hub cannot read the file", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	setHeaders(w.Header(), path, kind, st)
	http.ServeContent(w, r, "", st.ModTime(), f)
}

func (dir handler) open(path string) (*os.File, error) {
	root, err := os.OpenRoot(string(dir))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Open(path)
}

func setHeaders(h http.Header, path string, k kind, st fs.FileInfo) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", "application/octet-stream")
	if strings.HasSuffix(path, ".json") {
		h.Set("Content-Type", "application/json")
	}
	if k == immutable {
		// The name says the content. The compressed form may differ from hub to
		// hub, so the size is part of the tag.
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
		h.Set("ETag", fmt.Sprintf(`"%s-%x"`, path[strings.LastIndexByte(path, '/')+1:], st.Size()))
		return
	}
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", fmt.Sprintf(`"%x-%x"`, st.ModTime().UnixNano(), st.Size()))
}

// Limits of a server. A hub's files are small, but its readers' links may be
// slow.
const (
	headerTimeout = 10 * time.Second
	answerTimeout = 10 * time.Minute
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10
	maxConns      = 1024
)
