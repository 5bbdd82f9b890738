package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/shim"
)

const recordFile = "container.json"

// record says what a workload's files on the data disk belong to. It is the first
// file made there and the last one removed.
type record struct {
	Version uint64     `json:"version"` // of the contract that was last ensured
	Plan    string     `json:"plan"`    // digest of the plan.Workload
	Core    string     `json:"core"`    // digest of the part of it that only a new start changes
	Flist   canon.Hash `json:"flist"`   // the writable layer is on top of it
	Disk    uint64     `json:"disk"`    // limit that the writable layer was made for
	IDBase  uint32     `json:"id_base"` // first of the 65536 host ids that own its files
	Verity  bool       `json:"verity"`  // what the last mount said
	// Networks says that the workload is attached to some.
	Networks bool `json:"networks"`
	// Isolation is the class that wrote the layer; "" is a namespace.
	Isolation string `json:"isolation,omitempty"`
	// Damages is what Rootfs.Damages said before the flist was mounted.
	Damages uint64 `json:"damages,omitempty"`
}

// class is whose kernel wrote the writable layer.
func (r record) class() string {
	if r.Isolation == "" {
		return plan.IsolationNamespace
	}
	return r.Isolation
}

// copySuffix ends the name of a record's copy. Without a record nobody could tell
// which flist a writable layer belongs to and whose ids own it, so a damaged file
// must not cost what the workload has written.
const copySuffix = ".copy"

// readRecord reads the record, or its copy if it is damaged; fs.ErrNotExist if there
// is none.
func readRecord(p place) (record, error) {
	var r record
	err := shim.ReadJSON(p.record, &r)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	r = record{}
	if cerr := shim.ReadJSON(p.record+copySuffix, &r); cerr != nil {
		return record{}, fmt.Errorf("%w, and so is its copy", err)
	}
	return r, nil
}

func writeRecord(p place, r record) error {
	if err := shim.WriteJSON(p.record, r); err != nil {
		return diskFull(err)
	}
	return diskFull(shim.WriteJSON(p.record+copySuffix, r))
}

// allot finds a range of user ids that no other workload on the data disk has, and
// writes it down in a new record.
func (k *Kind) allot(p place, r record) (record, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// A record that can't be read takes no range: what it belongs to starts afresh,
	// unless it runs, which its shim's directory tells.
	taken := map[uint32]bool{}
	ids, err := k.stored()
	if err != nil {
		return record{}, err
	}
	for _, id := range ids {
		if other, err := readRecord(k.place(id)); err == nil {
			taken[other.IDBase] = true
		}
	}
	runs, err := readDir(k.cfg.Run)
	if err != nil {
		return record{}, err
	}
	for _, e := range runs {
		if spec, err := shim.ReadSpec(filepath.Join(k.cfg.Run, e.Name())); err == nil {
			taken[spec.UID&^(idRange-1)] = true
		}
	}
	for base := k.cfg.IDBase; base < 1<<32-2*idRange; base += idRange {
		if taken[uint32(base)] {
			continue
		}
		r.IDBase = uint32(base)
		if err := os.MkdirAll(p.data, 0o700); err != nil {
			return record{}, diskFull(fmt.Errorf("make workload directory: %w", err))
		}
		if err := writeRecord(p, r); err != nil {
			return record{}, err
		}
		return r, nil
	}
	return record{}, errors.New("allot user ids: every range is taken")
}

// stored lists the workloads of this kind that have files on the data disk: a
// record, or nothing at all, as a crash leaves behind between mkdir and record.
func (k *Kind) stored() ([]workload.ID, error) {
	contracts, err := readDir(k.cfg.Data)
	if err != nil {
		return nil, err
	}
	var ids []workload.ID
	for _, c := range contracts {
		names, err := readDir(filepath.Join(k.cfg.Data, c.Name()))
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			id, err := parseID(c.Name(), n.Name())
			if err != nil {
				continue
			}
			files, err := readDir(k.place(id).data)
			if err != nil {
				return nil, err
			}
			ours := len(files) == 0
			for _, f := range files {
				ours = ours || f.Name() == recordFile || f.Name() == recordFile+".tmp"
			}
			if ours {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

// readDir lists a directory; one that is missing, or is none, is empty.
func readDir(dir string) ([]os.DirEntry, error) {
	ents, err := os.ReadDir(dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return ents, nil
	}
	return nil, fmt.Errorf("list workloads: %w", err)
}
