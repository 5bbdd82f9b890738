package flist

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// The parts of EROFS's on-disk format that are used here
// (https://docs.kernel.org/filesystems/erofs.html, fs/erofs/erofs_fs.h).
const (
	erofsBlock       = 4096
	erofsSlot        = 32 // an inode's number counts these
	erofsInode       = 64 // the extended inode: 32-bit owners, ns times
	erofsXattrHeader = 12
	erofsDirent      = 12

	erofsSuperOffset = 1024
	erofsMagic       = 0xE0F5E1E2
	erofsSBChecksum  = 1 // compatible feature
	erofsMTime       = 2 // compatible feature
	erofsChunkedFile = 4 // incompatible feature

	layoutPlain   = 0
	layoutInline  = 2
	layoutChunked = 4

	erofsHole         = 0xffffffff
	erofsMaxChunkBits = 31
)

// WriteEROFS writes the metadata image of a manifest: an EROFS file system
// that holds the tree without any content. Every file with content points, by
// overlay's redirect and metacopy attributes, to its object in a data-only
// layer of the mount, and carries the fs-verity digest that the object must
// have. Same manifest, same bytes.
//
// m must be valid. The image's length is a multiple of 4096 bytes.
func WriteEROFS(w io.Writer, m Manifest) error {
	img, err := layoutImage(m)
	if err != nil {
		return fmt.Errorf("lay out EROFS image: %w", err)
	}
	out := &imageWriter{w: bufio.NewWriterSize(w, 256<<10)}
	out.write(img.superblock())
	img.writeInodes(out)
	img.writeDirs(out)
	if out.err == nil {
		out.err = out.w.Flush()
	}
	if out.err != nil {
		return fmt.Errorf("write EROFS image: %w", out.err)
	}
	return nil
}

// image is the plan of an EROFS image: block 0 holds the superblock, then come
// all inodes in the order of the manifest, each with its attributes and what
// is stored inline, then the blocks of large directories and links.
type image struct {
	entries []Entry
	inodes  []inode // one per entry; a hard link's is not written
	inos    uint64  // inodes that are written
	metaEnd uint64  // byte offset, a multiple of the block size
	blocks  uint64  // of the whole image
}

// inode is where an entry's inode lies and what follows it.
type inode struct {
	offset   uint64   // of the inode in the image
	first    int      // the entry whose inode this is; itself unless a hard link
	nlink    uint32   //
	xattr    uint32   // bytes of attributes
	layout   uint16   // of its data
	size     uint64   // i_size
	block    uint64   // first data block, relative to the end of the metadata; layoutPlain and layoutInline
	dirents  []dirRef // of a directory, sorted by name
	dirParts []int    // how many of dirents lie in each block
}

// dirRef is one name in a directory.
type dirRef struct {
	name  []byte
	entry int
}

var dot, dotdot = []byte("."), []byte("..")

func layoutImage(m Manifest) (*image, error) {
	if len(m.Entries) == 0 || m.Entries[0].Mode&ModeType != ModeDir {
		return nil, errors.New("the manifest has no root")
	}
	img := &image{entries: m.Entries, inodes: make([]inode, len(m.Entries))}
	if err := img.link(); err != nil {
		return nil, err
	}
	at, block := uint64(erofsBlock), uint64(0)
	var scratch []byte
	for i := range img.inodes {
		n, e := &img.inodes[i], &img.entries[i]
		if n.first != i {
			continue
		}
		scratch = appendXattrs(scratch[:0], e)
		n.xattr = uint32(len(scratch))
		img.place(n, e, &at, &block)
		img.inos++
	}
	img.metaEnd = (at + erofsBlock - 1) / erofsBlock * erofsBlock
	img.blocks = img.metaEnd/erofsBlock + block
	if img.blocks >= 1<<32-1 {
		return nil, fmt.Errorf("image of %d blocks is too large", img.blocks)
	}
	return img, nil
}

// link fills the directories and counts the names of every inode.
func (img *image) link() error {
	dirs := map[string]int{}
	for i := range img.entries {
		e, n := &img.entries[i], &img.inodes[i]
		n.first = i
		parent := 0
		if i > 0 {
			var ok bool
			cut := max(bytes.LastIndexByte(e.Path, '/'), 0)
			if parent, ok = dirs[string(e.Path[:cut])]; !ok {
				return fmt.Errorf("parent of %q is missing", printable(e.Path))
			}
			p := &img.inodes[parent]
			p.dirents = append(p.dirents, dirRef{bytes.TrimPrefix(e.Path[cut:], []byte{'/'}), i})
		}
		switch {
		case e.Mode&ModeType == ModeDir:
			dirs[string(e.Path)] = i
			n.nlink += 2
			if i > 0 {
				img.inodes[parent].nlink++
			}
			n.dirents = []dirRef{{dot, i}, {dotdot, parent}}
		case e.Mode&ModeType == ModeRegular && len(e.Link) > 0:
			first, ok := find(img.entries, e.Link)
			if !ok || first >= i || img.entries[first].File == nil {
				return fmt.Errorf("hard link target of %q is missing", printable(e.Path))
			}
			n.first = first
			img.inodes[first].nlink++
		default:
			n.nlink++
		}
	}
	for i := range img.inodes {
		sortDirents(img.inodes[i].dirents)
	}
	return nil
}

// place decides where an inode and its data go.
func (img *image) place(n *inode, e *Entry, at, block *uint64) {
	fixed := uint64(erofsInode) + uint64(n.xattr)
	switch typ := e.Mode & ModeType; {
	case typ == ModeDir, typ == ModeSymlink:
		tail := uint64(0)
		if typ == ModeDir {
			n.dirParts, n.size = packDirents(n.dirents)
		} else {
			n.size = uint64(len(e.Link))
		}
		tail = n.size % erofsBlock
		n.block = *block
		n.offset, n.layout = placeTail(*at, fixed, tail)
		*block += n.size / erofsBlock
		if n.layout == layoutInline {
			fixed += tail
		} else if tail > 0 {
			*block++
		}
	case e.File != nil && e.File.Size > 0:
		n.size, n.layout, n.offset = e.File.Size, layoutChunked, *at
		fixed += 4 * chunkSlots(e.File.Size)
	default:
		n.layout, n.offset = layoutPlain, *at
	}
	*at = (n.offset + fixed + erofsSlot - 1) / erofsSlot * erofsSlot
}

// placeTail finds the place for an inode whose data end in tail bytes that may
// follow it inline, if they don't cross a block boundary. A gap that is larger
// than the rest of a block of its own would be is not worth it.
func placeTail(at, fixed, tail uint64) (offset uint64, layout uint16) {
	if tail == 0 {
		return at, layoutPlain
	}
	fits := func(at uint64) bool { return (at+fixed)%erofsBlock+tail <= erofsBlock }
	if fits(at) {
		return at, layoutInline
	}
	next := (at + erofsBlock - 1) / erofsBlock * erofsBlock
	if fits(next) && next-at <= erofsBlock-tail {
		return next, layoutInline
	}
	return at, layoutPlain
}

// chunkBits is the size of the chunks of a file without data: as large as
// possible, so that one entry says that all of it is a hole.
func chunkBits(size uint64) uint {
	bits := uint(0)
	for bits < erofsMaxChunkBits && size > erofsBlock<<bits {
		bits++
	}
	return bits
}

func chunkSlots(size uint64) uint64 {
	chunk := uint64(erofsBlock) << chunkBits(size)
	return (size + chunk - 1) / chunk
}

// nid is the number by which directories name an inode.
func (n *inode) nid() uint64 { return n.offset / erofsSlot }

func (img *image) superblock() []byte {
	b := make([]byte, erofsBlock)
	sb := b[erofsSuperOffset:]
	le := binary.LittleEndian
	le.PutUint32(sb[0:], erofsMagic)
	le.PutUint32(sb[8:], erofsSBChecksum|erofsMTime)
	sb[12] = 12 // log2 of the block size
	le.PutUint16(sb[14:], uint16(img.inodes[0].nid()))
	le.PutUint64(sb[16:], img.inos)
	le.PutUint32(sb[36:], uint32(img.blocks))
	// meta_blkaddr and xattr_blkaddr stay 0; so do UUID and times, which would
	// make two images of one manifest differ.
	le.PutUint32(sb[80:], erofsChunkedFile)
	// The kernel's crc32c has no final inversion.
	le.PutUint32(sb[4:], ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func (img *image) writeInodes(out *imageWriter) {
	var b []byte
	ino := uint32(0)
	for i := range img.inodes {
		n, e := &img.inodes[i], &img.entries[i]
		if n.first != i || out.err != nil {
			continue
		}
		ino++
		out.zeros(n.offset - out.at)
		b = img.appendInode(b[:0], n, e, ino)
		b = appendXattrs(b, e)
		switch n.layout {
		case layoutChunked:
			for range chunkSlots(n.size) {
				b = binary.LittleEndian.AppendUint32(b, erofsHole)
			}
		case layoutInline:
			if e.Mode&ModeType == ModeSymlink {
				b = append(b, e.Link...)
			} else {
				b = img.appendDirBlock(b, n, len(n.dirParts)-1)
			}
		}
		out.write(b)
	}
	out.zeros(img.metaEnd - out.at)
}

func (img *image) appendInode(b []byte, n *inode, e *Entry, ino uint32) []byte {
	le := binary.LittleEndian
	b = le.AppendUint16(b, 1|n.layout<<1) // extended inode
	count := uint16(0)
	if n.xattr > 0 {
		count = uint16((n.xattr-erofsXattrHeader)/4 + 1)
	}
	b = le.AppendUint16(b, count)
	b = le.AppendUint16(b, uint16(e.Mode))
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, n.size)
	switch {
	case n.layout == layoutChunked:
		b = le.AppendUint32(b, uint32(chunkBits(n.size)))
	case n.size > 0:
		b = le.AppendUint32(b, uint32(img.metaEnd/erofsBlock+n.block))
	default:
		b = le.AppendUint32(b, uint32(e.Rdev))
	}
	sec, nsec := e.MTime/1e9, e.MTime%1e9
	if nsec < 0 {
		sec, nsec = sec-1, nsec+1e9
	}
	b = le.AppendUint32(b, ino)
	b = le.AppendUint32(b, e.UID)
	b = le.AppendUint32(b, e.GID)
	b = le.AppendUint64(b, uint64(sec))
	b = le.AppendUint32(b, uint32(nsec))
	b = le.AppendUint32(b, n.nlink)
	return append(b, make([]byte, 16)...)
}

// writeDirs writes the blocks that follow the metadata, in the order in which
// place has counted them.
func (img *image) writeDirs(out *imageWriter) {
	var b []byte
	for i := range img.inodes {
		n, e := &img.inodes[i], &img.entries[i]
		if n.first != i || out.err != nil {
			continue
		}
		switch typ := e.Mode & ModeType; {
		case typ == ModeSymlink && n.layout == layoutPlain:
			out.write(e.Link)
			out.zeros(-out.at % erofsBlock)
		case typ == ModeDir:
			parts := len(n.dirParts)
			if n.layout == layoutInline {
				parts--
			}
			for p := range parts {
				b = img.appendDirBlock(b[:0], n, p)
				out.write(b)
				out.zeros(-out.at % erofsBlock)
			}
		}
	}
}

// imageWriter writes sequentially and remembers where it is and what failed.
type imageWriter struct {
	w   *bufio.Writer
	at  uint64
	err error
}

func (o *imageWriter) write(b []byte) {
	if o.err != nil {
		return
	}
	var n int
	n, o.err = o.w.Write(b)
	o.at += uint64(n)
}

func (o *imageWriter) zeros(n uint64) {
	var z [erofsBlock]byte
	for n > 0 && o.err == nil {
		c := min(n, uint64(len(z)))
		o.write(z[:c])
		n -= c
	}
}
