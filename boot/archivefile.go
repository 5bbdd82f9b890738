package boot

import (
	"bytes"
	"fmt"
	"net/url"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/linux/cpio"
	"github.com/zero-os/zos/problem"
)

// Bounds of an Archive. It is read before anything is trusted.
const (
	MaxArchive = 4 << 20 // bytes
	MaxSlots   = 4096
	// MaxRendezvous is how many rendezvous servers a node keeps links to.
	MaxRendezvous = 8
	maxAddresses  = 32
	maxAddress    = 1024 // bytes
)

// EncodeArchive returns the archive's canonical bytes, after the checks that
// DecodeArchive makes.
func EncodeArchive(a Archive) ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	b, err := canon.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("encode the grid's archive: %w", err)
	}
	if len(b) > MaxArchive {
		return nil, problem.New("archive-damaged", "the grid's archive has %d bytes, at most %d are allowed", len(b), MaxArchive)
	}
	return b, nil
}

// DecodeArchive reads canonical archive bytes and checks their form: version,
// genesis, counts, the kinds of the statements, the shape of the addresses. It verifies no signature;
// firststage.OpenArchive does. Errors have the code "archive-damaged".
func DecodeArchive(b []byte) (Archive, error) {
	var a Archive
	if err := canon.UnmarshalLimit(b, MaxArchive, &a); err != nil {
		return Archive{}, problem.New("archive-damaged", "read the grid's archive: %w", err)
	}
	if err := a.check(); err != nil {
		return Archive{}, err
	}
	return a, nil
}

func (a Archive) check() error {
	bad := func(format string, args ...any) error {
		return problem.New("archive-damaged", "the grid's archive: "+format, args...)
	}
	if a.V != contract.Version {
		return bad("format %d, this software knows %d", a.V, contract.Version)
	}
	if _, err := contract.DecodeGenesis(a.Genesis); err != nil {
		return bad("%w", err)
	}
	grid := canon.Sum(a.Genesis)
	kind := func(s contract.Signed, want string) error {
		h, err := contract.Peek(s.Statement)
		switch {
		case err != nil:
			return bad("%w", err)
		case h.Kind != want:
			return bad("a statement of kind %.64q where %s belongs", h.Kind, want)
		case h.Grid != grid:
			return bad("a statement of grid %s in the archive of %s", h.Grid.Short(), grid.Short())
		}
		return nil
	}
	if err := kind(a.Farm, contract.KindFarm); err != nil {
		return err
	}
	if len(a.Slots) > MaxSlots {
		return bad("%d slots, at most %d are allowed", len(a.Slots), MaxSlots)
	}
	for _, s := range a.Slots {
		if err := kind(s, contract.KindSlot); err != nil {
			return err
		}
	}
	for _, list := range []struct {
		name    string
		urls    []string
		schemes []string
		most    int
	}{
		{"hubs", a.Hubs, []string{"http", "https"}, maxAddresses},
		{"ledgers", a.Ledgers, []string{"http", "https"}, maxAddresses},
		{"rendezvous servers", a.Rendezvous, []string{"tls"}, MaxRendezvous},
	} {
		if len(list.urls) > list.most {
			return bad("%d %s, at most %d are allowed", len(list.urls), list.name, list.most)
		}
		for _, u := range list.urls {
			if err := checkURL(u, list.schemes); err != nil {
				return bad("%s: %w", list.name, err)
			}
		}
	}
	if len(a.NTP) > maxAddresses {
		return bad("%d time servers, at most %d are allowed", len(a.NTP), maxAddresses)
	}
	for _, n := range a.NTP {
		if n == "" || len(n) > maxAddress {
			return bad("time server %.80q is no address", n)
		}
	}
	return nil
}

func checkURL(s string, schemes []string) error {
	u, err := url.Parse(s)
	if err != nil || len(s) > maxAddress || u.Host == "" {
		return fmt.Errorf("%.80q is no URL with a host", s)
	}
	for _, scheme := range schemes {
		if u.Scheme == scheme {
			return nil
		}
	}
	return fmt.Errorf("%.80q: want scheme %v", s, schemes)
}

// ArchiveInitrd is the archive as the boot source serves it: an uncompressed
// cpio with the one file ArchivePath, padded so that it can stand behind
// another initrd.
func ArchiveInitrd(a Archive) ([]byte, error) {
	b, err := EncodeArchive(a)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := cpio.Write(&out, []cpio.Entry{cpio.File(ArchivePath[1:], 0o644, b)}); err != nil {
		return nil, fmt.Errorf("pack the grid's archive: %w", err)
	}
	return out.Bytes(), nil
}

// ReadArchiveInitrd is the inverse of ArchiveInitrd.
func ReadArchiveInitrd(b []byte) (Archive, error) {
	if len(b) > MaxArchive+64<<10 {
		return Archive{}, problem.New("archive-damaged", "the grid's archive: %d bytes are too many", len(b))
	}
	entries, err := cpio.Read(b)
	if err != nil {
		return Archive{}, problem.New("archive-damaged", "the grid's archive: %w", err)
	}
	for _, e := range entries {
		if "/"+e.Name == ArchivePath {
			return DecodeArchive(e.Data)
		}
	}
	return Archive{}, problem.New("archive-damaged", "the grid's archive: no %s in it", ArchivePath)
}
