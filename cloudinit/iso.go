package cloudinit

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// An image is ISO 9660 (ECMA-119) with one directory, and the names of its files by
// Rock Ridge (RRIP 1.09), without which they would be "META_DAT.;1". Times are zero.

const sector = 2048

type isoFile struct {
	name    string // of Rock Ridge
	content []byte
}

// Sectors of an image.
const (
	atVolume = 16 + iota
	atEnd
	atPathL
	atPathM
	atRoot
	atFiles
)

// isoImage makes an image of files, which are sorted by name and few enough for
// their directory to fit one sector.
func isoImage(label string, files []isoFile) ([]byte, error) {
	next := uint32(atFiles)
	root := directoryRecord([]byte{0}, atRoot, sector, true, rootUse())
	dir := append(append([]byte{}, root...), directoryRecord([]byte{1}, atRoot, sector, true, attributes(0o040555, 2))...)
	for i, f := range files {
		if i > 0 && files[i-1].name >= f.name || len(f.name) == 0 || len(f.name) > 100 {
			return nil, fmt.Errorf("files of an image are not sorted, or %q is no name", f.name)
		}
		use := append(attributes(0o100444, 1), susp("NM", append([]byte{0}, f.name...))...)
		dir = append(dir, directoryRecord(fmt.Appendf(nil, "FILE%d.;1", i), next, uint32(len(f.content)), false, use)...)
		next += sectors(len(f.content))
	}
	size := int(next) * sector
	if len(dir) > sector || size > MaxImage {
		return nil, errors.New("more than an image can hold")
	}
	img := make([]byte, size)
	at := func(n uint32) []byte { return img[int(n)*sector:] }
	volumeDescriptor(at(atVolume), label, next)
	copy(at(atEnd), "\xffCD001\x01")
	copy(at(atPathL), []byte{1, 0, atRoot, 0, 0, 0, 1, 0, 0, 0})
	copy(at(atPathM), []byte{1, 0, 0, 0, 0, atRoot, 0, 1, 0, 0})
	copy(at(atRoot), dir)
	next = atFiles
	for _, f := range files {
		copy(at(next), f.content)
		next += sectors(len(f.content))
	}
	return img, nil
}

func sectors(n int) uint32 { return uint32((n + sector - 1) / sector) }

// volumeDescriptor fills in the primary one (ECMA-119, 8.4).
func volumeDescriptor(d []byte, label string, total uint32) {
	pad := func(from, to int, s string) {
		for i := from; i < to; i++ {
			d[i] = ' '
		}
		copy(d[from:to], s)
	}
	copy(d, "\x01CD001\x01")
	pad(8, 40, "LINUX")
	pad(40, 72, label)
	copy(d[80:], both32(total))
	copy(d[120:], both16(1))
	copy(d[124:], both16(1))
	copy(d[128:], both16(sector))
	copy(d[132:], both32(10)) // of the path table
	binary.LittleEndian.PutUint32(d[140:], atPathL)
	binary.BigEndian.PutUint32(d[148:], atPathM)
	copy(d[156:190], directoryRecord([]byte{0}, atRoot, sector, true, nil))
	pad(190, 813, "")
	for _, from := range []int{813, 830, 847, 864} {
		copy(d[from:from+16], "0000000000000000")
	}
	d[881] = 1
}

// directoryRecord is an entry of a directory (9.1), use its system use area.
func directoryRecord(id []byte, extent, size uint32, dir bool, use []byte) []byte {
	head := 33 + len(id)
	head += head % 2
	r := make([]byte, head, head+len(use)+1)
	copy(r[2:], both32(extent))
	copy(r[10:], both32(size))
	// A time of zero is no date: the first of 1970.
	copy(r[18:], []byte{70, 1, 1, 0, 0, 0, 0})
	if dir {
		r[25] = 2
	}
	copy(r[28:], both16(1))
	r[32] = byte(len(id))
	copy(r[33:], id)
	r = append(r, use...)
	if len(r)%2 == 1 {
		r = append(r, 0)
	}
	r[0] = byte(len(r))
	return r
}

// susp is an entry of the System Use Sharing Protocol.
func susp(signature string, data []byte) []byte {
	return append([]byte{signature[0], signature[1], byte(4 + len(data)), 1}, data...)
}

// rootUse announces Rock Ridge in the root's own record.
func rootUse() []byte {
	const id = "RRIP_1991A"
	use := susp("SP", []byte{0xbe, 0xef, 0})
	use = append(use, attributes(0o040555, 2)...)
	return append(use, susp("ER", append([]byte{byte(len(id)), 0, 0, 1}, id...))...)
}

// attributes are POSIX's, of a file of root's.
func attributes(mode, linked uint32) []byte {
	data := append(both32(mode), both32(linked)...)
	return susp("PX", append(append(data, both32(0)...), both32(0)...))
}

func both32(n uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, n), n)
}

func both16(n uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, n), n)
}
