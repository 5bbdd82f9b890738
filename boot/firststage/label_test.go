package firststage

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/ext4"
)

var gridID, slotID = canon.Sum([]byte("grid")), canon.Sum([]byte("slot"))

// formatted is the start of a disk as format leaves it.
func formatted(t testing.TB, l Label) []byte {
	t.Helper()
	b, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := ext4.Volatile.Write(f, [16]byte(l.UUID), b, false); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, ext4.HeadSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	return head
}

func ourLabel() Label {
	return Label{V: 1, Grid: gridID, Slot: slotID, UUID: bytes.Repeat([]byte{7}, 16)}
}

func TestContentOfADiskIsJudgedByLabelAndSuperblock(t *testing.T) {
	head := formatted(t, ourLabel())
	with := func(change func(b []byte)) []byte {
		b := bytes.Clone(head)
		change(b)
		return b
	}
	other := ourLabel()
	other.Slot = gridID
	otherGrid := ourLabel()
	otherGrid.Grid = slotID
	noise := make([]byte, ext4.HeadSize)
	_, _ = rand.Read(noise)
	for name, c := range map[string]struct {
		head []byte
		want Content
	}{
		"ours":                          {head, Ours},
		"blank":                         {make([]byte, ext4.HeadSize), Blank},
		"empty":                         {nil, Blank},
		"noise":                         {noise, Foreign},
		"another slot":                  {formatted(t, other), OtherSlot},
		"another grid":                  {formatted(t, otherGrid), OtherSlot},
		"label without file system":     {with(func(b []byte) { clear(b[ext4.BootSize:]) }), Damaged},
		"file system without label":     {with(func(b []byte) { clear(b[:ext4.BootSize]) }), Foreign},
		"one bit of the label":          {with(func(b []byte) { b[40] ^= 1 }), Foreign},
		"file system of another UUID":   {with(func(b []byte) { b[ext4.BootSize+0x68] ^= 1 }), Damaged},
		"file system of another name":   {with(func(b []byte) { b[ext4.BootSize+0x78] ^= 1 }), Damaged},
		"file system without fs-verity": {with(func(b []byte) { b[ext4.BootSize+0x65] &^= 0x80 }), Damaged},
		"label cut off":                 {head[:60], Foreign},
	} {
		if got := ReadContent(c.head, gridID, slotID); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestLabelFitsWhereExt4LeavesRoom(t *testing.T) {
	b, err := ourLabel().Encode()
	if err != nil {
		t.Fatal(err)
	}
	// Bytes 510 and 511 must not look like a partition table's signature.
	if len(b) > 510 {
		t.Errorf("label has %d bytes", len(b))
	}
}

func FuzzReadContent(f *testing.F) {
	l := ourLabel()
	b, err := l.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("zos-data"))
	f.Add(append([]byte("zos-data\xff\xff"), make([]byte, 600)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, ok := decodeLabel(b)
		if !ok {
			return
		}
		again, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, again) {
			t.Errorf("accepted %x, which encodes as %x", b, again)
		}
		_ = ReadContent(b, l.Grid, l.Slot)
	})
}
