package flist

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Meta is the metadata of a file that is added to a Tree.
type Meta struct {
	Mode   uint32 // permission bits with setuid, setgid and sticky; type bits are ignored
	UID    uint32
	GID    uint32
	MTime  int64 // nanoseconds since the epoch
	Xattrs []Xattr
}

// Tree is a file tree in memory from which a manifest is made. It needs no
// root and touches no file system: what is added is the tree, in any order. A
// parent that is missing becomes a directory 0755 of 0:0 at the epoch, and
// takes other metadata when it is added later. Adding a path again replaces
// it. Paths are cleaned of leading "/" and "./"; ".." is refused. Methods that
// add must not be called concurrently.
type Tree struct {
	opts    Options
	content *content
	root    *node
	layer   int // the OCI layer that is being applied; 0 elsewhere
	dropped uint64
}

// node is an inode. Hard links are several dirents of one node.
type node struct {
	meta     Meta // Mode with type bits
	rdev     uint64
	target   []byte // of a symbolic link
	file     *File  // of a regular file; nil until its content is known
	children map[string]*dirent
	implicit bool   // a directory that was never added itself
	source   source // where a regular file's content lies, for importers
}

// dirent is a name in a directory.
type dirent struct {
	node  *node
	layer int // the last layer that stated this name
}

// source locates content that is read later: the entry-th entry of a layer.
type source struct{ layer, entry int }

// NewTree returns an empty tree: a root directory 0755 of 0:0 at the epoch.
// Content that is added goes to sink.
func NewTree(sink Sink, opts Options) *Tree {
	return &Tree{
		opts:    opts,
		content: newContent(sink, newBudget(opts)),
		root:    implicitDir(),
	}
}

func implicitDir() *node {
	return &node{meta: Meta{Mode: ModeDir | 0o755}, children: map[string]*dirent{}, implicit: true}
}

// AddDir adds a directory, or sets the metadata of one that exists; path ""
// or "/" is the root.
func (t *Tree) AddDir(path string, m Meta) error {
	return t.add(path, m, ModeDir, &node{children: map[string]*dirent{}})
}

// AddFile adds a regular file with the content of r, read to its end.
func (t *Tree) AddFile(ctx context.Context, path string, m Meta, r io.Reader) error {
	f, err := t.content.file(ctx, r, -1)
	if err != nil {
		return fmt.Errorf("add file %q: %w", path, err)
	}
	return t.add(path, m, ModeRegular, &node{file: f})
}

// AddSymlink adds a symbolic link.
func (t *Tree) AddSymlink(path, target string, m Meta) error {
	return t.add(path, m, ModeSymlink, &node{target: []byte(target)})
}

// AddDevice adds a block (ModeBlock) or character (ModeChar) device.
func (t *Tree) AddDevice(path string, typ uint32, major, minor uint32, m Meta) error {
	if typ != ModeBlock && typ != ModeChar {
		return fmt.Errorf("add device %q: type %#o is neither block nor character", path, typ)
	}
	rdev, err := makedev(int64(major), int64(minor))
	if err != nil {
		return fmt.Errorf("add device %q: %w", path, err)
	}
	return t.add(path, m, typ, &node{rdev: rdev})
}

// AddFIFO adds a named pipe.
func (t *Tree) AddFIFO(path string, m Meta) error { return t.add(path, m, ModeFIFO, &node{}) }

// AddLink adds path as another name of the file at target, which exists.
func (t *Tree) AddLink(path, target string) error {
	if err := t.content.budget.entry(); err != nil {
		return err
	}
	if err := t.link([]byte(path), []byte(target)); err != nil {
		return fmt.Errorf("add hard link %q to %q: %w", path, target, err)
	}
	return nil
}

func (t *Tree) add(path string, m Meta, typ uint32, n *node) error {
	if err := t.content.budget.entry(); err != nil {
		return err
	}
	n.meta = m
	n.meta.Mode = m.Mode&ModePerm | typ
	if err := t.put([]byte(path), n); err != nil {
		return fmt.Errorf("add %q: %w", path, err)
	}
	return nil
}

// makedev encodes a device number as Linux does, within its 12 and 20 bits.
func makedev(major, minor int64) (uint64, error) {
	if major < 0 || major >= 1<<12 || minor < 0 || minor >= 1<<20 {
		return 0, fmt.Errorf("device %d:%d does not fit Linux's 12 and 20 bits", major, minor)
	}
	return uint64(minor&0xff | major<<8 | (minor&^0xff)<<12), nil
}

const codeUnsafe = "source-unsafe"

// split cleans a path and cuts it into names.
func split(path []byte) ([][]byte, error) {
	var names [][]byte
	for name := range bytes.SplitSeq(path, []byte{'/'}) {
		if len(name) == 0 || len(name) == 1 && name[0] == '.' {
			continue
		}
		if err := validName(name); err != nil {
			return nil, problem.New(codeUnsafe, "path %q: %w", printable(path), err)
		}
		names = append(names, name)
	}
	if len(path) > 4*MaxPath {
		return nil, problem.New(codeUnsafe, "path of %d bytes, at most %d are allowed", len(path), MaxPath)
	}
	return names, nil
}

// put makes n the file at path.
func (t *Tree) put(path []byte, n *node) error {
	if len(n.target) > MaxPath {
		return problem.New(codeUnsafe, "symbolic link's target has %d bytes, at most %d are allowed", len(n.target), MaxPath)
	}
	t.normalize(n)
	names, err := split(path)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		if n.children == nil {
			return problem.New(codeUnsafe, "the root must be a directory")
		}
		t.root.meta, t.root.implicit = n.meta, false
		return nil
	}
	dir, err := t.parent(names)
	if err != nil {
		return err
	}
	name := string(names[len(names)-1])
	if old := dir.children[name]; old != nil && old.node.children != nil && n.children != nil {
		old.node.meta, old.node.implicit, old.layer = n.meta, false, t.layer
		return nil
	}
	dir.children[name] = &dirent{node: n, layer: t.layer}
	return nil
}

// normalize applies the options to a node's metadata.
func (t *Tree) normalize(n *node) {
	if t.opts.RootOwned {
		n.meta.UID, n.meta.GID = 0, 0
	}
	n.meta.MTime = t.opts.mtime(n.meta.MTime)
	var kept []Xattr
	for _, x := range n.meta.Xattrs {
		if t.opts.keepXattr(string(x.Name)) {
			kept = append(kept, x)
		} else {
			t.dropped++
		}
	}
	sort.Slice(kept, func(i, j int) bool { return bytes.Compare(kept[i].Name, kept[j].Name) < 0 })
	n.meta.Xattrs = kept
}

// link makes path another name of the node at target.
func (t *Tree) link(path, target []byte) error {
	old, err := t.lookup(target)
	if err != nil {
		return err
	}
	if old.children != nil {
		return problem.New(codeUnsafe, "the target %q is a directory", printable(target))
	}
	names, err := split(path)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return problem.New(codeUnsafe, "the root must be a directory")
	}
	dir, err := t.parent(names)
	if err != nil {
		return err
	}
	dir.children[string(names[len(names)-1])] = &dirent{node: old, layer: t.layer}
	return nil
}

// lookup finds the node at path; its last component is not followed.
func (t *Tree) lookup(path []byte) (*node, error) {
	names, err := split(path)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return t.root, nil
	}
	dir, err := t.resolve(names[:len(names)-1], false)
	if err != nil {
		return nil, err
	}
	if dir != nil {
		if d := dir.children[string(names[len(names)-1])]; d != nil {
			return d.node, nil
		}
	}
	return nil, problem.New(codeUnsafe, "the target %q does not exist", printable(path))
}

// parent returns the directory in which the last of names lies, making
// directories that are missing.
func (t *Tree) parent(names [][]byte) (*node, error) {
	return t.resolve(names[:len(names)-1], true)
}

// maxFollow is how many symbolic links a path may lead through, as in Linux.
const maxFollow = 40

// resolve walks to a directory. Symbolic links in the middle are followed as
// if the tree's root were the root of the file system, so no path leads out of
// it: that is how layers write to "lib/x" when "lib" has become a link to
// "usr/lib". With create, what is missing becomes a directory and what is no
// directory is replaced by one; without, the answer is nil.
func (t *Tree) resolve(names [][]byte, create bool) (*node, error) {
	follow := 0
	stack := []*node{t.root}
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		if len(name) == 0 || string(name) == "." {
			continue
		}
		if string(name) == ".." { // only from a link's target
			stack = stack[:max(len(stack)-1, 1)]
			continue
		}
		dir := stack[len(stack)-1]
		d := dir.children[string(name)]
		if d != nil && d.node.meta.Mode&ModeType == ModeSymlink {
			if follow++; follow > maxFollow {
				return nil, problem.New(codeUnsafe, "too many symbolic links at %q", printable(name))
			}
			target := d.node.target
			if len(target) > 0 && target[0] == '/' {
				stack = stack[:1]
			}
			names = append(bytes.Split(target, []byte{'/'}), names...)
			continue
		}
		if d == nil || d.node.children == nil {
			if !create {
				return nil, nil
			}
			if err := validName(name); err != nil {
				return nil, problem.New(codeUnsafe, "path component %q: %w", printable(name), err)
			}
			if err := t.content.budget.entry(); err != nil {
				return nil, err
			}
			d = &dirent{node: implicitDir(), layer: t.layer}
			dir.children[string(name)] = d
		}
		if create {
			d.layer = max(d.layer, t.layer)
		}
		stack = append(stack, d.node)
	}
	return stack[len(stack)-1], nil
}

// Manifest ends the tree: it returns its manifest, the manifest's hash, and
// what was counted. The tree must not be used afterwards.
func (t *Tree) Manifest() (canon.Hash, Manifest, Stats, error) {
	m := Manifest{V: Version}
	if t.opts.Config != nil {
		m.Config = *t.opts.Config
	}
	entries, err := t.entries()
	if err != nil {
		return canon.Hash{}, Manifest{}, Stats{}, err
	}
	m.Entries = entries
	_, h, err := Encode(m)
	if err != nil {
		return canon.Hash{}, Manifest{}, Stats{}, err
	}
	return h, m, t.stats(m), nil
}

// entries lists the tree sorted by path, the first name of every inode with
// its content and the others as hard links to it.
func (t *Tree) entries() ([]Entry, error) {
	entries := []Entry{}
	nodes := []*node{}
	size := 0
	var walk func(path []byte, n *node) error
	walk = func(path []byte, n *node) error {
		// Checked here already, because a source can make chains of directories
		// whose paths together are far longer than the source.
		if size += len(path); len(entries) == MaxEntries || size > MaxManifest {
			return problem.New(codeTooLarge, "tree has more than %d entries or %d bytes of paths", MaxEntries, MaxManifest)
		}
		if len(path) > MaxPath {
			return problem.New(codeUnsafe, "path %q of %d bytes, at most %d are allowed", printable(path), len(path), MaxPath)
		}
		entries = append(entries, Entry{
			Path: path, Mode: n.meta.Mode, UID: n.meta.UID, GID: n.meta.GID, MTime: n.meta.MTime,
			Rdev: n.rdev, Link: n.target, Xattrs: n.meta.Xattrs,
		})
		nodes = append(nodes, n)
		for name, d := range n.children {
			p := make([]byte, 0, len(path)+1+len(name))
			if len(path) > 0 {
				p = append(append(p, path...), '/')
			}
			if err := walk(append(p, name...), d.node); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk([]byte{}, t.root); err != nil {
		return nil, err
	}
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(a, b int) bool { return bytes.Compare(entries[order[a]].Path, entries[order[b]].Path) < 0 })

	sorted := make([]Entry, len(entries))
	first := make(map[*node][]byte)
	for i, o := range order {
		e, n := entries[o], nodes[o]
		if e.Mode&ModeType == ModeRegular {
			if p, seen := first[n]; seen {
				e.Link = p
			} else if n.file == nil {
				return nil, errors.New("internal: file without content: " + string(e.Path))
			} else {
				first[n] = e.Path
				e.File = n.file
			}
		}
		sorted[i] = e
	}
	return sorted, nil
}

func (t *Tree) stats(m Manifest) Stats {
	total, unique, files := m.Bytes()
	return Stats{
		Entries: uint64(len(m.Entries)), Files: files, Bytes: total, UniqueBytes: unique,
		DroppedXattrs: t.dropped,
	}
}
