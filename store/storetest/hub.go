package storetest

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
)

// Hub is a hub in memory. It serves what it was given until it is told to misbehave.
type Hub struct {
	URL string

	server *httptest.Server
	mu     sync.Mutex
	files  map[string][]byte
	asked  map[string]int
	odd    func(w http.ResponseWriter, r *http.Request, body []byte) bool
}

// NewHub starts a hub with the given trees.
func NewHub(trees ...Tree) *Hub {
	h := &Hub{files: map[string][]byte{}, asked: map[string]int{}}
	h.server = httptest.NewServer(http.HandlerFunc(h.serve))
	h.URL = h.server.URL
	for _, t := range trees {
		h.Add(t)
	}
	return h
}

// Close stops the hub.
func (h *Hub) Close() {
	h.server.CloseClientConnections()
	h.server.Close()
}

// Add publishes a tree.
func (h *Hub) Add(t Tree) {
	h.Set("/flists/"+t.Flist.String(), Compress(t.Bytes))
	for d, b := range t.Content {
		if len(b) <= flist.ChunkedAbove {
			h.Set(ObjectPath(d), Compress(b))
			continue
		}
		for chunk := range slices.Chunk(b, flist.ChunkSize) {
			h.Set(ObjectPath(canon.Sum(chunk)), Compress(chunk))
		}
	}
}

// ObjectPath is where a hub has an object or chunk.
func ObjectPath(d canon.Hash) string {
	hex := d.String()
	return "/objects/" + hex[:2] + "/" + hex[2:]
}

// Compress returns b as zstd.
func Compress(b []byte) []byte {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err) // no options that could be wrong
	}
	defer enc.Close()
	return enc.EncodeAll(b, nil)
}

// Get returns the file at path as it is served; nil if it isn't.
func (h *Hub) Get(path string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.files[path]
}

// Set replaces the file at path; nil removes it.
func (h *Hub) Set(path string, b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b == nil {
		delete(h.files, path)
	} else {
		h.files[path] = b
	}
}

// Misbehave lets f answer instead, when it returns true; nil ends it. body is what
// an honest hub would send, nil for 404.
func (h *Hub) Misbehave(f func(w http.ResponseWriter, r *http.Request, body []byte) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.odd = f
}

// Asked returns how often paths beginning with prefix were asked for.
func (h *Hub) Asked(prefix string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for p, k := range h.asked {
		if strings.HasPrefix(p, prefix) {
			n += k
		}
	}
	return n
}

func (h *Hub) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.asked[r.URL.Path]++
	body, ok := h.files[r.URL.Path]
	odd := h.odd
	h.mu.Unlock()
	if odd != nil && odd(w, r, body) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(body)
}
