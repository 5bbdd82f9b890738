package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
)

// Fault is one file of a hub that is not what its name says.
type Fault struct {
	Path string `json:"path"` // relative to the hub's root
	Code string `json:"code"` // digest-mismatch, manifest-invalid, statement-invalid, object-missing or unknown-file
	What string `json:"what"`
}

// Verify reads all of a hub and names every file that is wrong, every object
// that a flist needs and that is absent, and every file that is no part of the
// layout, sorted by path. It changes nothing. The error is for what could not
// be read.
func Verify(ctx context.Context, dir string) ([]Fault, error) {
	v := &scrub{dir: dir, need: map[canon.Hash]string{}}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	err := filepath.WalkDir(dir, func(full string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, full)
		if err != nil {
			return err
		}
		if rel == staging {
			return fs.SkipDir
		}
		if d.IsDir() {
			return ctx.Err()
		}
		g.Go(func() error { return v.file(ctx, filepath.ToSlash(rel), d) })
		return nil
	})
	if werr := g.Wait(); err == nil || errors.Is(err, context.Canceled) && werr != nil {
		err = werr
	}
	if err != nil {
		return nil, fmt.Errorf("verify hub %s: %w", dir, err)
	}
	v.missing()
	sort.Slice(v.faults, func(i, j int) bool { return v.faults[i].Path < v.faults[j].Path })
	return v.faults, nil
}

type scrub struct {
	dir string

	mu     sync.Mutex
	faults []Fault
	need   map[canon.Hash]string // objects that a flist needs, and the flist
}

func (v *scrub) fault(path, code, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.faults = append(v.faults, Fault{path, code, fmt.Sprintf(format, args...)})
}

func (v *scrub) file(ctx context.Context, path string, d fs.DirEntry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if classify(path) == notFound || !d.Type().IsRegular() {
		v.fault(path, "unknown-file", "it is no part of a hub's layout")
		return nil
	}
	b, err := os.ReadFile(filepath.Join(v.dir, filepath.FromSlash(path)))
	if err != nil {
		return err
	}
	name := strings.Split(path, "/")
	switch name[0] {
	case "objects":
		v.content(path, name[1]+name[2], b, flist.ChunkedAbove)
	case "flists":
		if plain := v.content(path, name[1], b, flist.MaxManifest); plain != nil {
			v.flist(path, plain)
		}
	case "tags":
		if name[len(name)-1] == "index.json" && len(name) == 3 {
			var list []TagEntry
			if err := json.Unmarshal(b, &list); err != nil {
				v.fault(path, "statement-invalid", "it is no index: %v", err)
			}
			return nil
		}
		verifySigned[contract.Tag](v, path, contract.KindTag, b)
	case "releases":
		verifySigned[contract.Release](v, path, contract.KindRelease, b)
	}
	return nil
}

// content decompresses a file and compares it with the digest in its name. It
// returns nil when they differ.
func (v *scrub) content(path, hex string, z []byte, most int) []byte {
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(most)))
	if err != nil {
		v.fault(path, "digest-mismatch", "set up zstd decoder: %v", err)
		return nil
	}
	defer r.Close()
	b, err := r.DecodeAll(z, nil)
	if err != nil {
		v.fault(path, "digest-mismatch", "it does not decompress: %v", err)
		return nil
	}
	if got := canon.Sum(b); got.String() != hex {
		v.fault(path, "digest-mismatch", "its content has the digest %s", got)
		return nil
	}
	return b
}

func (v *scrub) flist(path string, b []byte) {
	m, err := flist.Decode(b)
	if err != nil {
		v.fault(path, problem.Code(err), "%v", err)
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	m.Files(func(_ []byte, f *flist.File) bool {
		if len(f.Chunks) == 0 {
			v.need[f.Digest] = path
		}
		for _, c := range f.Chunks {
			v.need[c] = path
		}
		return true
	})
}

// verifySigned checks a statement's signatures, and that it lies where it says.
func verifySigned[T contract.Statement](v *scrub, path, kind string, b []byte) {
	s, err := contract.DecodeSigned(b)
	if err != nil {
		v.fault(path, "statement-invalid", "%v", err)
		return
	}
	t, err := openSigned[T](s, kind)
	if err != nil {
		v.fault(path, "statement-invalid", "%v", err)
		return
	}
	var own []string
	switch t := any(t).(type) {
	case contract.Tag:
		p, err := TagPath(t.Grid, t.Publisher, t.Name, t.Tag)
		if err == nil {
			own = append(own, p)
		}
	case contract.Release:
		own = append(own, ReleasePath(t.Grid, t.Sequence), ReleasePath(t.Grid, 0))
	}
	for _, p := range own {
		if p == path {
			return
		}
	}
	v.fault(path, "statement-invalid", "it says that it belongs elsewhere: %s", strings.Join(own, " or "))
}

// missing names the objects that a flist needs and that are absent.
func (v *scrub) missing() {
	for h, flist := range v.need {
		path := ObjectPath(h)
		if _, err := os.Stat(filepath.Join(v.dir, filepath.FromSlash(path))); errors.Is(err, fs.ErrNotExist) {
			v.fault(path, "object-missing", "%s needs it", flist)
		}
	}
}
