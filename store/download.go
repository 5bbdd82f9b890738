package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
)

// buffers are reused: a fetched piece needs two of up to 1 MiB.
type buffers struct {
	pool sync.Pool

	once sync.Once
	dec  *zstd.Decoder
	err  error
}

func (b *buffers) get(size int) []byte {
	if p, ok := b.pool.Get().(*[]byte); ok && cap(*p) >= size {
		return (*p)[:0]
	}
	return make([]byte, 0, size)
}

func (b *buffers) put(p []byte) {
	if cap(p) <= 2<<20 { // a manifest's may be far larger
		b.pool.Put(&p)
	}
}

// decompress appends what z holds to dst, never more than fits into dst.
func (b *buffers) decompress(z, dst []byte) ([]byte, error) {
	b.once.Do(func() {
		b.dec, b.err = zstd.NewReader(nil,
			zstd.WithDecoderLowmem(true),
			zstd.WithDecoderConcurrency(0),
			zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderMaxWindow(8<<20))
	})
	if b.err != nil {
		return nil, b.err
	}
	return b.dec.DecodeAll(z, dst)
}

// compressedLimit is the most that size bytes take as zstd, with room for a
// frame written by somebody else's encoder.
func compressedLimit(size int64) int64 { return size + size>>7 + 1024 }

// ask goes through the hubs until accept is content with what one of them has at
// path. A hub that lies (accept's error wraps errLie) gets one second chance from
// the next in line; one that can't be reached is asked again in the next round. Any
// other error of accept is this node's own and ends the asking. A slot is held
// while a hub is asked, not between the rounds.
func (f *Fetcher) ask(ctx context.Context, l *lane, path string, limit int64, accept func(body []byte) error) error {
	v := verdict{code: CodeHubUnreachable}
	for round := 0; round < f.o.Rounds; round++ {
		if round > 0 {
			select {
			case <-time.After(f.o.Backoff << (round - 1)):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		order := f.hubs.order()
		if len(order) == 0 {
			return problem.New(CodeHubUnreachable, "no hub is known").WithFix("name at least one hub")
		}
		v.again = false
		for _, h := range order {
			err := f.askOne(ctx, l, h, path, limit, accept)
			if err == nil || ctx.Err() != nil || !v.blame(err) {
				return err
			}
			if v.lies == 2 {
				return v.problem()
			}
		}
		if !v.again {
			break
		}
	}
	return v.problem()
}

func (f *Fetcher) askOne(ctx context.Context, l *lane, h *hub, path string, limit int64, accept func(body []byte) error) error {
	slot, err := f.sched.acquire(ctx, l)
	if err != nil {
		return err
	}
	defer f.sched.release(slot)
	buf := f.bufs.get(int(min(limit+1, 1<<20)))
	body, err := f.client.get(ctx, h.base, path, limit, buf)
	if body == nil {
		body = buf
	}
	defer func() { f.bufs.put(body) }()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.hubs.mark(h, !errors.Is(err, errUnreachable))
	if err != nil {
		return err
	}
	if err := accept(body); err != nil {
		return fmt.Errorf("%s%s: %w", h.base, path, err)
	}
	return nil
}

// verdict sums up what several hubs did wrong: a lie weighs more than silence,
// and silence more than "not there", which the silent one might contradict.
type verdict struct {
	code  string
	last  error
	lies  int
	again bool // asking again may help
}

// blame takes in an error; false if it is none of a hub.
func (v *verdict) blame(err error) bool {
	switch {
	case errors.Is(err, errLie):
		v.lies++
		v.last, v.code = err, CodeDigestMismatch
	case errors.Is(err, errUnreachable):
		v.again = true
		if v.lies == 0 {
			v.last, v.code = err, CodeHubUnreachable
		}
	case errors.Is(err, errNotThere):
		if v.lies == 0 && !v.again {
			v.last, v.code = err, CodeObjectMissing
		}
	default:
		return false
	}
	return true
}

func (v *verdict) problem() error {
	return problem.New(v.code, "%w", v.last).WithFix("%s", fixes[v.code])
}

var fixes = map[string]string{
	CodeDigestMismatch: "restore the file on the hub from its publisher; the node tries again by itself",
	CodeHubUnreachable: "start the hub or mend the way to it; the node tries again by itself",
	CodeObjectMissing:  "publish the flist again; the node tries again by itself",
}

// piece fetches one file of the hub's objects, whose uncompressed content has
// the given size and digest, and hands it to use, which must not keep it.
func (f *Fetcher) piece(ctx context.Context, l *lane, d canon.Hash, size int64, use func([]byte) error) error {
	hex := d.String()
	return f.ask(ctx, l, "/objects/"+hex[:2]+"/"+hex[2:], compressedLimit(size), func(body []byte) error {
		plain := f.bufs.get(int(size) + 1)
		defer f.bufs.put(plain)
		got, err := f.bufs.decompress(body, plain[:0:size+1])
		if err != nil {
			return fmt.Errorf("%w: decompress: %w", errLie, err)
		}
		if int64(len(got)) != size {
			return fmt.Errorf("%w: it has %d bytes, want %d", errLie, len(got), size)
		}
		if sum := canon.Sum(got); sum != d {
			return fmt.Errorf("%w: it has the digest %s", errLie, sum)
		}
		return use(got)
	})
}

// fetchObject fetches an object as one of the manifests describes it.
func (f *Fetcher) fetchObject(ctx context.Context, files []flist.File, l *lane) error {
	var last error
	for _, file := range files {
		var err error
		if len(file.Chunks) == 0 {
			err = f.fetchWhole(ctx, file, l)
		} else {
			err = f.fetchChunks(ctx, file, l)
		}
		if err == nil {
			return nil
		}
		last = err
		// Another description can only help where this one was wrong.
		switch problem.Code(err) {
		case CodeManifestInvalid, CodeDigestMismatch, CodeObjectMissing:
		default:
			return fmt.Errorf("fetch object %s: %w", file.Digest.Short(), err)
		}
	}
	return fmt.Errorf("fetch object %s: %w", files[0].Digest.Short(), last)
}

func (f *Fetcher) fetchWhole(ctx context.Context, file flist.File, l *lane) error {
	if file.Size > flist.ChunkedAbove {
		return problem.New(CodeManifestInvalid, "the manifest gives no chunks for %d bytes", file.Size)
	}
	return f.piece(ctx, l, file.Digest, int64(file.Size), func(b []byte) error {
		return f.store.Put(ctx, file, bytes.NewReader(b))
	})
}

// chunkWindow is how many chunks of one object are under way or waited for.
const chunkWindow = 8

// fetchChunks fetches a large object in pieces, several at a time. What is
// there from the beginning on is hashed while the rest arrives.
func (f *Fetcher) fetchChunks(ctx context.Context, file flist.File, l *lane) error {
	w, err := f.store.Create(ctx, file)
	if err != nil {
		return err
	}
	defer w.Abort()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	written := make([]chan struct{}, len(file.Chunks))
	for i := range written {
		written[i] = make(chan struct{})
	}
	window := make(chan struct{}, chunkWindow)
	var fetching sync.WaitGroup
	fetching.Go(func() {
		for i := range file.Chunks {
			select {
			case window <- struct{}{}:
			case <-ctx.Done():
				return
			}
			fetching.Go(func() {
				defer func() { <-window }()
				if err := f.fetchChunk(ctx, w, file, i, l); err != nil {
					cancel(fmt.Errorf("chunk %d of %d: %w", i+1, len(file.Chunks), err))
					return
				}
				close(written[i])
			})
		}
	})
	// The goroutines write to w, which is gone after this function.
	defer fetching.Wait()
	defer cancel(nil)
	for i := range written {
		select {
		case <-written[i]:
			if err := w.Hash(chunkEnd(file, i)); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := w.Commit(); err != nil {
		if problem.Code(err) == CodeDigestMismatch {
			// Every chunk was what the manifest said, the whole was not.
			return problem.New(CodeManifestInvalid, "the chunks that the manifest names are not the object: %w", err)
		}
		return err
	}
	return nil
}

func (f *Fetcher) fetchChunk(ctx context.Context, w *Writer, file flist.File, i int, l *lane) error {
	start := int64(i) * flist.ChunkSize
	return f.piece(ctx, l, file.Chunks[i], chunkEnd(file, i)-start, func(b []byte) error {
		_, err := w.WriteAt(b, start)
		return err
	})
}

func chunkEnd(file flist.File, i int) int64 {
	return min(int64(i+1)*flist.ChunkSize, int64(file.Size))
}

// maxManifestBody bounds what is read of a manifest before its digest is known.
const maxManifestBody = 64 << 20

func (f *Fetcher) fetchManifest(ctx context.Context, d canon.Hash, l *lane) ([]byte, error) {
	var manifest []byte
	err := f.ask(ctx, l, "/flists/"+d.String(), maxManifestBody, func(body []byte) error {
		b, err := flist.Decompress(body, flist.MaxManifest)
		if err != nil {
			return fmt.Errorf("%w: %w", errLie, err)
		}
		if got := canon.Sum(b); got != d {
			return fmt.Errorf("%w: it has the digest %s", errLie, got)
		}
		manifest = b
		return nil
	})
	return manifest, err
}
