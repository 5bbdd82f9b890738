package flist

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// BuildTar makes a flist of a tar archive, plain or compressed with gzip or
// zstd. Names are cleaned of leading "/" and "./"; ".." is refused; a path
// through a symbolic link is resolved inside the tree. A name that occurs
// again replaces what was there, but content that is replaced has already
// been given to the sink. Owners are the numbers in the archive. Attributes are
// read from PAX records (SCHILY.xattr.*). Nothing touches a file system.
func BuildTar(ctx context.Context, r io.Reader, sink Sink, opts Options) (canon.Hash, Manifest, Stats, error) {
	t := NewTree(sink, opts)
	if err := t.importTar(ctx, r); err != nil {
		return canon.Hash{}, Manifest{}, Stats{}, fmt.Errorf("build flist of tar archive: %w", err)
	}
	return t.Manifest()
}

func (t *Tree) importTar(ctx context.Context, r io.Reader) error {
	plain, done, err := decompress(r)
	if err != nil {
		return err
	}
	defer done()
	hashing, wait := t.hashing(ctx)
	err = readTar(ctx, plain, t.content.budget, func(h *tar.Header, body io.Reader, _ int) error {
		n, err := t.tarNode(h)
		if err != nil || n == nil {
			return err
		}
		if n.meta.Mode&ModeType == ModeRegular {
			if err := hashing(h, body, n); err != nil {
				return err
			}
		}
		return t.put([]byte(h.Name), n)
	})
	// The workers' error came first: it is why reading stopped.
	if werr := wait(); werr != nil {
		return werr
	}
	return err
}

// hashing returns a function that reads the content of an archive's file into
// a node, and one that waits for all of them.
func (t *Tree) hashing(ctx context.Context) (func(*tar.Header, io.Reader, *node) error, func() error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(t.opts.workers())
	return func(h *tar.Header, body io.Reader, n *node) error {
		if err := ctx.Err(); err != nil {
			return err // a worker has failed; wait says why
		}
		return t.tarContent(ctx, g, h, body, n)
	}, g.Wait
}

// tarContent hashes a file of an archive. A small one is copied and hashed by
// a worker, while the next header is read; a large one is streamed, and so is
// every one when there is one worker only.
func (t *Tree) tarContent(ctx context.Context, g *errgroup.Group, h *tar.Header, body io.Reader, n *node) error {
	if h.Size > ChunkedAbove || t.opts.workers() == 1 {
		f, err := t.content.file(ctx, body, h.Size)
		n.file = f
		return err
	}
	small := make([]byte, h.Size)
	if _, err := io.ReadFull(body, small); err != nil {
		return fmt.Errorf("read content: %w", err)
	}
	g.Go(func() error {
		f, err := t.content.file(ctx, bytes.NewReader(small), h.Size)
		if err != nil {
			return fmt.Errorf("archive entry %q: %w", printable([]byte(h.Name)), err)
		}
		n.file = f
		return nil
	})
	return nil
}

// readTar calls each for every entry of a plain archive, in order, with its
// number. It bounds entries, announced sizes, and the archive itself.
func readTar(ctx context.Context, r io.Reader, b *budget, each func(h *tar.Header, body io.Reader, index int) error) error {
	limited := &io.LimitedReader{R: r, N: b.raw()}
	tr := tar.NewReader(limited)
	for index := 0; ; index++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if limited.N <= 0 {
			return problem.New(codeTooLarge, "archive is longer than its entries can explain")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return problem.New(codeUnreadable, "read archive entry %d: %w", index, err)
		}
		if err := b.entry(); err != nil {
			return err
		}
		if err := b.room(h.Size); err != nil {
			return fmt.Errorf("archive entry %q: %w", printable([]byte(h.Name)), err)
		}
		if err := each(h, tr, index); err != nil {
			return fmt.Errorf("archive entry %d, %q: %w", index, printable([]byte(h.Name)), err)
		}
	}
}

const codeUnreadable = "source-unreadable"

// tarNode makes a node of a header. It adds hard links itself, and answers nil
// for them and for what is no file.
func (t *Tree) tarNode(h *tar.Header) (*node, error) {
	m, err := tarMeta(h)
	if err != nil {
		return nil, problem.New(codeUnreadable, "%w", err)
	}
	n := &node{meta: m}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		n.meta.Mode |= ModeRegular
	case tar.TypeDir:
		n.meta.Mode |= ModeDir
		n.children = map[string]*dirent{}
	case tar.TypeSymlink:
		n.meta.Mode |= ModeSymlink
		n.target = []byte(h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		n.meta.Mode |= ModeChar
		if h.Typeflag == tar.TypeBlock {
			n.meta.Mode = n.meta.Mode&^ModeType | ModeBlock
		}
		if n.rdev, err = makedev(h.Devmajor, h.Devminor); err != nil {
			return nil, problem.New(codeUnreadable, "%w", err)
		}
	case tar.TypeFifo:
		n.meta.Mode |= ModeFIFO
	case tar.TypeLink:
		return nil, t.link([]byte(h.Name), []byte(h.Linkname))
	case tar.TypeXGlobalHeader:
		return nil, nil
	default:
		return nil, problem.New(codeUnreadable, "entry of unknown type %q", h.Typeflag)
	}
	return n, nil
}

func tarMeta(h *tar.Header) (m Meta, err error) {
	if m.UID, err = id32("owner", h.Uid); err != nil {
		return m, err
	}
	if m.GID, err = id32("group", h.Gid); err != nil {
		return m, err
	}
	if m.MTime, err = nanoseconds(h.ModTime); err != nil {
		return m, err
	}
	m.Mode = uint32(h.Mode) & ModePerm
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			m.Xattrs = append(m.Xattrs, Xattr{Name: []byte(name), Value: []byte(value)})
		}
	}
	return m, nil
}

// nanoseconds converts a time, as far as 64 bits reach: years 1678 to 2262.
func nanoseconds(t time.Time) (int64, error) {
	if t.IsZero() {
		return 0, nil
	}
	const most = math.MaxInt64/1_000_000_000 - 1
	if s := t.Unix(); s > most || s < -most {
		return 0, fmt.Errorf("time %d s does not fit 64 bits of nanoseconds", s)
	}
	return t.UnixNano(), nil
}

// decompress recognises gzip and zstd by their first bytes. done releases what
// it uses.
func decompress(r io.Reader) (plain io.Reader, done func(), err error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	magic, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("read source: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, nil, problem.New(codeUnreadable, "read gzip header: %w", err)
		}
		return z, func() {}, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, fmt.Errorf("set up zstd decoder: %w", err)
		}
		return z, z.Close, nil
	}
	return buffered, func() {}, nil
}
