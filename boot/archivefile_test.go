package boot_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/linux/cpio"
	"github.com/zero-os/zos/problem"
)

func TestArchiveComesBackFromItsInitrd(t *testing.T) {
	a := testArchive(t, 1)
	b, err := boot.ArchiveInitrd(a)
	if err != nil {
		t.Fatal(err)
	}
	if len(b)%512 != 0 {
		t.Errorf("%d bytes are not padded to 512: under UEFI the archive would vanish", len(b))
	}
	got, err := boot.ReadArchiveInitrd(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(a, got); d != "" {
		t.Error(d)
	}
}

func TestDamagedArchivesAreNamed(t *testing.T) {
	other := testArchive(t, 2)
	for name, change := range map[string]func(*boot.Archive){
		"unknown format":          func(a *boot.Archive) { a.V = 2 },
		"no genesis":              func(a *boot.Archive) { a.Genesis = nil },
		"another grid's genesis":  func(a *boot.Archive) { a.Genesis = other.Genesis },
		"another grid's farm":     func(a *boot.Archive) { a.Farm = other.Farm },
		"another grid's slot":     func(a *boot.Archive) { a.Slots = other.Slots },
		"a farm as a slot":        func(a *boot.Archive) { a.Slots = []contract.Signed{a.Farm} },
		"no farm":                 func(a *boot.Archive) { a.Farm = contract.Signed{} },
		"hub without a scheme":    func(a *boot.Archive) { a.Hubs = []string{"10.0.2.2:80"} },
		"hub with a wrong one":    func(a *boot.Archive) { a.Hubs = []string{"file:///etc/passwd"} },
		"hub without a host":      func(a *boot.Archive) { a.Hubs = []string{"http://"} },
		"rendezvous over http":    func(a *boot.Archive) { a.Rendezvous = []string{"http://10.0.2.2"} },
		"rendezvous in the clear": func(a *boot.Archive) { a.Rendezvous = []string{"nats://10.0.2.2:4222"} },
		"nine rendezvous servers": func(a *boot.Archive) { a.Rendezvous = slices.Repeat([]string{"tls://10.0.2.2:443"}, 9) },
		"too many hubs":           func(a *boot.Archive) { a.Hubs = strings.Split(strings.Repeat("http://h ", 40), " ")[:40] },
		"a long address":          func(a *boot.Archive) { a.Ledgers = []string{"http://" + strings.Repeat("a", 2000)} },
		"an empty time server":    func(a *boot.Archive) { a.NTP = []string{""} },
		"too many slots":          func(a *boot.Archive) { a.Slots = make([]contract.Signed, boot.MaxSlots+1) },
	} {
		a := testArchive(t, 1)
		change(&a)
		if _, err := boot.EncodeArchive(a); problem.Code(err) != "archive-damaged" {
			t.Errorf("%s: encoded with %v", name, err)
		}
		b, err := canon.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := boot.DecodeArchive(b); problem.Code(err) != "archive-damaged" {
			t.Errorf("%s: decoded with %v", name, err)
		}
	}
}

func TestArchiveInitrdWithoutArchiveIsNamed(t *testing.T) {
	var b bytes.Buffer
	if err := cpio.Write(&b, []cpio.Entry{cpio.File("other", 0o644, []byte("x"))}); err != nil {
		t.Fatal(err)
	}
	good, err := boot.ArchiveInitrd(testArchive(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"no such file": b.Bytes(), "nothing": nil, "cut": good[:len(good)/2], "too large": make([]byte, 8<<20),
	} {
		if _, err := boot.ReadArchiveInitrd(b); problem.Code(err) != "archive-damaged" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadArchiveInitrd(f *testing.F) {
	b, err := boot.ArchiveInitrd(testArchive(f, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:300])
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := boot.ReadArchiveInitrd(b)
		if err != nil {
			return
		}
		if _, err := boot.ArchiveInitrd(a); err != nil {
			t.Errorf("what was read cannot be written: %v", err)
		}
	})
}
