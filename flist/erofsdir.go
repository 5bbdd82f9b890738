package flist

import (
	"bytes"
	"encoding/binary"
	"sort"
)

// sortDirents puts names into the order by which EROFS finds them: bytes, with
// "." and ".." among the others.
func sortDirents(refs []dirRef) {
	sort.Slice(refs, func(i, j int) bool { return bytes.Compare(refs[i].name, refs[j].name) < 0 })
}

// packDirents distributes names over blocks. A block holds the fixed parts of
// its entries and then their names; an entry never crosses a block. It returns
// how many entries lie in each block, and the directory's size: full blocks
// and what the last one uses.
func packDirents(refs []dirRef) (parts []int, size uint64) {
	count, used := 0, 0
	for _, r := range refs {
		need := erofsDirent + len(r.name)
		if used+need > erofsBlock {
			parts = append(parts, count)
			count, used = 0, 0
		}
		count++
		used += need
	}
	parts = append(parts, count)
	return parts, uint64(len(parts)-1)*erofsBlock + uint64(used)
}

// appendDirBlock appends the part-th block of a directory, without padding.
func (img *image) appendDirBlock(b []byte, n *inode, part int) []byte {
	from := 0
	for _, c := range n.dirParts[:part] {
		from += c
	}
	refs := n.dirents[from : from+n.dirParts[part]]
	nameAt := erofsDirent * len(refs)
	for _, r := range refs {
		target := &img.inodes[img.inodes[r.entry].first]
		b = binary.LittleEndian.AppendUint64(b, target.nid())
		b = binary.LittleEndian.AppendUint16(b, uint16(nameAt))
		b = append(b, fileType(img.entries[r.entry].Mode), 0)
		nameAt += len(r.name)
	}
	for _, r := range refs {
		b = append(b, r.name...)
	}
	return b
}

// fileType is the type of an inode as directories state it.
func fileType(mode uint32) byte {
	switch mode & ModeType {
	case ModeRegular:
		return 1
	case ModeDir:
		return 2
	case ModeChar:
		return 3
	case ModeBlock:
		return 4
	case ModeFIFO:
		return 5
	case ModeSocket:
		return 6
	case ModeSymlink:
		return 7
	}
	return 0
}
