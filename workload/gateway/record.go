package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// maxRecord bounds a record in bytes: a plan and a little more.
const maxRecord = plan.MaxSize + 4096

// record is what is written down of a gateway, so that the next daemon knows what
// is served before anybody tells it.
type record struct {
	Version uint64     `cbor:"version"`
	Plan    *plan.Plan `cbor:"plan"`
	Netns   string     `cbor:"netns"` // path of its pinned namespace; "" until it is attached
}

var nameRE = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

func (k *Kind) recordPath(id workload.ID) string {
	return filepath.Join(k.cfg.Run, "w", id.Contract.String()+"-"+id.Name+".cbor")
}

func (k *Kind) writeRecord(id workload.ID, r record) error {
	b, err := canon.Marshal(r)
	if err != nil {
		return fmt.Errorf("write down a gateway: %w", err)
	}
	return replace(k.recordPath(id), b)
}

func (k *Kind) readRecord(id workload.ID) (record, error) {
	var r record
	b, err := os.ReadFile(k.recordPath(id))
	if err != nil {
		return r, fmt.Errorf("read what was written down of a gateway: %w", err)
	}
	return r, canon.UnmarshalLimit(b, maxRecord, &r)
}

// records lists the gateways of which something is written down.
func (k *Kind) records() ([]workload.ID, error) {
	entries, err := os.ReadDir(filepath.Join(k.cfg.Run, "w"))
	if err != nil {
		return nil, fmt.Errorf("list gateways: %w", err)
	}
	var out []workload.ID
	for _, e := range entries {
		if id, ok := parseID(e.Name()); ok {
			out = append(out, id)
		}
	}
	return out, nil
}

func parseID(file string) (workload.ID, bool) {
	name, ok := strings.CutSuffix(file, ".cbor")
	if !ok {
		return workload.ID{}, false
	}
	contract, name, ok := strings.Cut(name, "-")
	h, err := canon.ParseHash(contract)
	return workload.ID{Contract: h, Name: name}, ok && err == nil && nameRE.MatchString(name)
}

// desired is the workload as the record has it.
func (r record) desired(id workload.ID) (workload.Desired, bool) {
	if r.Plan == nil {
		return workload.Desired{}, false
	}
	for _, w := range r.Plan.Workloads {
		if w.Name == id.Name && w.Kind == plan.KindGateway {
			return workload.Desired{ID: id, Version: r.Version, Plan: w, Deployment: r.Plan}, true
		}
	}
	return workload.Desired{}, false
}

// replace writes a small file in one step.
func replace(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", filepath.Base(path), err), os.Remove(f.Name()))
	}
	return nil
}

// processRef is which process was last started.
func (k *Kind) processRef() process.Ref {
	b, err := os.ReadFile(filepath.Join(k.cfg.Run, processFile))
	if err != nil {
		return process.Ref{}
	}
	r, err := process.ParseRef(strings.TrimSpace(string(b)))
	if err != nil {
		return process.Ref{}
	}
	return r
}

func (k *Kind) writeProcessRef(r process.Ref) error {
	path := filepath.Join(k.cfg.Run, processFile)
	if r.IsZero() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return replace(path, []byte(r.String()+"\n"))
}
