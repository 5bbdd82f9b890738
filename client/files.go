package client

import (
	"context"
	"errors"
	"io"
	"path"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
)

// Get writes a file or a tree of a workload to w, as the tar stream that the node
// sends: whoever unpacks it must expect anything in it. It takes the own key of a
// member, and a plan that grants files; Put likewise.
func (c *Client) Get(ctx context.Context, r Running, from string, w io.Writer) error {
	d, err := c.files(ctx, r, bus.MethodGet, from)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		f, err := d.Receive(ctx)
		if errors.Is(err, io.EOF) {
			return cutShort(bus.MethodGet)
		}
		if err != nil {
			return err
		}
		switch f.Kind {
		case protocol.FrameStdout:
			if _, err := w.Write(f.Data); err != nil {
				return err
			}
		case protocol.FrameExit:
			return copied(f)
		}
	}
}

// Put has the node unpack a tar stream into a directory of a workload.
func (c *Client) Put(ctx context.Context, r Running, to string, tar io.Reader) error {
	d, err := c.files(ctx, r, bus.MethodPut, to)
	if err != nil {
		return err
	}
	defer d.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		if err := d.feed(ctx, tar); err != nil && problem.Code(err) == "" && !errors.Is(err, io.EOF) {
			cancel(err) // the archive can't be read; the end of the stream is told by Receive
		}
	}()
	// tar is read no more once this returns; a caller whose reader waits closes it.
	defer func() {
		cancel(nil)
		if closer, ok := tar.(io.Closer); ok {
			_ = closer.Close()
		}
		<-fed
	}()
	for {
		f, err := d.Receive(ctx)
		if errors.Is(err, io.EOF) {
			return cutShort(bus.MethodPut)
		}
		if err != nil {
			return err
		}
		if f.Kind == protocol.FrameExit {
			return copied(f)
		}
	}
}

func (c *Client) files(ctx context.Context, r Running, method, p string) (*Dialog, error) {
	params := protocol.FilesParams{Path: path.Clean(p)}
	if _, err := check(params, protocol.DecodeFilesParams); err != nil {
		return nil, err
	}
	return c.dialog(ctx, r, method, params)
}

// copied judges the end of a copy.
func copied(f protocol.DownFrame) error {
	if f.Code == 0 {
		return nil
	}
	why := f.Detail
	if why == "" {
		why = "not everything was copied"
	}
	return problem.New("copy-failed", "copy files: %s", why)
}
