package flist

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Sink receives the content of a tree while it is built: hub.Writer publishes
// it, Discard forgets it.
type Sink interface {
	// Put stores one object: a whole file of at most ChunkedAbove bytes, or one
	// chunk of a larger file. name is the SHA-256 of data. Put is called
	// concurrently, possibly more than once with the same name, and must not
	// keep data.
	Put(ctx context.Context, name canon.Hash, data []byte) error
}

// Discard is a Sink that stores nothing, for when only the digests matter.
type Discard struct{}

// Put implements Sink.
func (Discard) Put(context.Context, canon.Hash, []byte) error { return nil }

// content turns streams of bytes into Files and gives their objects to a sink.
// It is safe for concurrent use.
type content struct {
	sink    Sink
	budget  *budget
	buffers sync.Pool // *fileBuffer
}

// fileBuffer holds a small file whole, or a chunk of a large one, and one byte
// more, to see which it is.
type fileBuffer struct {
	b      [ChunkedAbove + 1]byte
	verity Verity
}

func newContent(sink Sink, b *budget) *content {
	c := &content{sink: sink, budget: b}
	c.buffers.New = func() any { return new(fileBuffer) }
	return c
}

// file reads r to its end. size is how many bytes it must have, or -1.
func (c *content) file(ctx context.Context, r io.Reader, size int64) (*File, error) {
	buf := c.buffers.Get().(*fileBuffer)
	defer c.buffers.Put(buf)
	n, err := c.fill(r, buf)
	if err != nil {
		return nil, err
	}
	var f *File
	if n <= ChunkedAbove {
		f, err = c.small(ctx, buf, n)
	} else {
		f, err = c.large(ctx, buf, n, r)
	}
	if err != nil {
		return nil, err
	}
	if size >= 0 && f.Size != uint64(size) {
		return nil, fmt.Errorf("content has %d bytes instead of %d: it changed while it was read", f.Size, size)
	}
	return f, nil
}

// fill reads the beginning of a file: all of it, or ChunkedAbove+1 bytes.
func (c *content) fill(r io.Reader, buf *fileBuffer) (int, error) {
	n, err := io.ReadFull(r, buf.b[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, fmt.Errorf("read content: %w", err)
	}
	return n, c.budget.bytes(uint64(n))
}

// small makes a File of the n bytes in buf.
func (c *content) small(ctx context.Context, buf *fileBuffer, n int) (*File, error) {
	data := buf.b[:n]
	buf.verity.Reset()
	buf.verity.Write(data)
	f := &File{Size: uint64(n), Digest: canon.Sum(data), Verity: buf.verity.Sum()}
	if n == 0 {
		return f, nil
	}
	if err := c.sink.Put(ctx, f.Digest, data); err != nil {
		return nil, fmt.Errorf("store object %s: %w", f.Digest, err)
	}
	return f, nil
}

// large makes a File of a stream whose first n bytes, more than ChunkedAbove,
// are in buf.
func (c *content) large(ctx context.Context, buf *fileBuffer, n int, r io.Reader) (*File, error) {
	f := &File{}
	whole := sha256.New()
	buf.verity.Reset()
	for {
		for n >= ChunkSize {
			if err := c.chunk(ctx, f, buf, whole, ChunkSize); err != nil {
				return nil, err
			}
			n = copy(buf.b[:], buf.b[ChunkSize:n])
		}
		m, err := io.ReadFull(r, buf.b[n:ChunkSize])
		if berr := c.budget.bytes(uint64(m)); berr != nil {
			return nil, berr
		}
		n += m
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read content: %w", err)
		}
	}
	if n > 0 {
		if err := c.chunk(ctx, f, buf, whole, n); err != nil {
			return nil, err
		}
	}
	whole.Sum(f.Digest[:0])
	f.Verity = buf.verity.Sum()
	return f, nil
}

// chunk takes the first n bytes of buf as the file's next chunk. The three
// hashes of a large file run on two cores.
func (c *content) chunk(ctx context.Context, f *File, buf *fileBuffer, whole hash.Hash, n int) error {
	if len(f.Chunks) == MaxChunks {
		return problem.New(codeInvalid, "file is larger than %d bytes", uint64(MaxFileSize))
	}
	data := buf.b[:n]
	done := make(chan struct{})
	go func() {
		defer close(done)
		whole.Write(data)
	}()
	name := canon.Sum(data)
	buf.verity.Write(data)
	err := c.sink.Put(ctx, name, data)
	<-done
	if err != nil {
		return fmt.Errorf("store chunk %s: %w", name, err)
	}
	f.Chunks = append(f.Chunks, name)
	f.Size += uint64(n)
	return ctx.Err()
}
