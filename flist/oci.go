package flist

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// BuildOCI makes a flist of an image in an OCI image layout directory. ref is
// the image's org.opencontainers.image.ref.name or its digest ("sha256:…");
// it may be empty when the layout holds one image. platform is "os/arch" or
// "os/arch/variant"; empty means linux/amd64. Every blob is checked against
// its digest, every layer also against the configuration's diff id.
//
// Layers are applied in order with their whiteouts; content that a later layer
// hides is not given to the sink.
func BuildOCI(ctx context.Context, layoutDir, ref, platform string, sink Sink, opts Options) (canon.Hash, Manifest, Stats, error) {
	fail := func(err error) (canon.Hash, Manifest, Stats, error) {
		return canon.Hash{}, Manifest{}, Stats{}, fmt.Errorf("build flist of OCI layout %s: %w", layoutDir, err)
	}
	layout, err := openLayout(layoutDir)
	if err != nil {
		return fail(err)
	}
	defer layout.Close()
	img, err := layout.image(ref, platform)
	if err != nil {
		return fail(err)
	}
	if opts.Config == nil {
		opts.Config = &img.config
	}
	t := NewTree(sink, opts)
	for i, l := range img.layers {
		if err := t.applyLayer(ctx, layout, l, i+1); err != nil {
			return fail(fmt.Errorf("layer %d of %d (%s): %w", i+1, len(img.layers), l.blob.Digest, err))
		}
	}
	if err := t.readLayers(ctx, layout, img.layers); err != nil {
		return fail(err)
	}
	return t.Manifest()
}

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // aufs's own files, which belong to no tree
)

// applyLayer changes the tree as one layer says. It reads headers only; where
// content lies is kept in the nodes.
func (t *Tree) applyLayer(ctx context.Context, layout *ociLayout, l ociLayer, number int) error {
	t.layer = number
	return layout.layer(l, func(r io.Reader) error {
		// The first pass counts entries and their announced sizes; the second
		// pass counts the bytes that are really read.
		return readTar(ctx, r, t.content.budget, func(h *tar.Header, _ io.Reader, index int) error {
			if done, err := t.whiteout([]byte(h.Name)); done || err != nil {
				return err
			}
			n, err := t.tarNode(h)
			if err != nil || n == nil {
				return err
			}
			n.source = source{number, index}
			return t.put([]byte(h.Name), n)
		})
	})
}

// whiteout applies an entry that hides what lower layers have, and tells
// whether the entry was one.
func (t *Tree) whiteout(path []byte) (bool, error) {
	path = bytes.TrimRight(path, "/")
	cut := bytes.LastIndexByte(path, '/')
	name := path[cut+1:]
	if !bytes.HasPrefix(name, []byte(whiteoutPrefix)) {
		return false, nil
	}
	names, err := split(path[:cut+1])
	if err != nil {
		return false, err
	}
	dir, err := t.resolve(names, false)
	if err != nil {
		return false, err
	}
	switch {
	case string(name) == whiteoutOpaque:
		if dir != nil {
			t.hide(dir)
		}
	case bytes.HasPrefix(name, []byte(whiteoutMeta)):
	default:
		hidden := name[len(whiteoutPrefix):]
		if err := validName(hidden); err != nil {
			return false, problem.New(codeUnsafe, "whiteout %q: %w", printable(name), err)
		}
		if dir != nil {
			t.hideName(dir, string(hidden))
		}
	}
	return true, nil
}

// hide removes what lower layers have put below a directory. What the current
// layer has added stays, in whatever order the layer lists things.
func (t *Tree) hide(dir *node) {
	for name := range dir.children {
		t.hideName(dir, name)
	}
}

func (t *Tree) hideName(dir *node, name string) {
	d := dir.children[name]
	if d == nil {
		return
	}
	if d.layer < t.layer {
		delete(dir.children, name)
		return
	}
	if d.node.children != nil {
		t.hide(d.node)
	}
}

// readLayers reads the content of the files that are left in the tree.
func (t *Tree) readLayers(ctx context.Context, layout *ociLayout, layers []ociLayer) error {
	wanted := map[source]*node{}
	count := map[int]int{}
	var walk func(n *node)
	walk = func(n *node) {
		if n.meta.Mode&ModeType == ModeRegular && wanted[n.source] == nil {
			wanted[n.source] = n
			count[n.source.layer]++
		}
		for _, d := range n.children {
			walk(d.node)
		}
	}
	walk(t.root)
	for i, l := range layers {
		left := count[i+1]
		if left == 0 {
			continue
		}
		if err := t.readLayer(ctx, layout, l, i+1, left, wanted); err != nil {
			return fmt.Errorf("layer %d of %d (%s): %w", i+1, len(layers), l.blob.Digest, err)
		}
	}
	return nil
}

// errEnough ends the reading of a layer whose remaining entries nobody needs.
var errEnough = errors.New("enough")

func (t *Tree) readLayer(ctx context.Context, layout *ociLayout, l ociLayer, number, left int, wanted map[source]*node) error {
	hashing, wait := t.hashing(ctx)
	err := layout.layer(l, func(r io.Reader) error {
		// Entries were counted by the first pass.
		free := &budget{maxBytes: t.content.budget.maxBytes, maxEntries: t.content.budget.maxEntries}
		return readTar(ctx, r, free, func(h *tar.Header, body io.Reader, index int) error {
			n := wanted[source{number, index}]
			if n == nil {
				return nil
			}
			if err := hashing(h, body, n); err != nil {
				return err
			}
			if left--; left == 0 {
				return errEnough
			}
			return nil
		})
	})
	if werr := wait(); werr != nil {
		return werr
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	if err == nil && left > 0 {
		return problem.New(codeUnreadable, "layer changed while it was read")
	}
	return err
}
