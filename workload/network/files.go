package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/workload"
)

// Prefixes of names in the run directory.
const (
	routerPrefix    = "r-"
	containerPrefix = "w-"
	gatewayPrefix   = "g-"
)

// record is what a router was last made of.
type record struct {
	Version uint64 `json:"version"` // of the contract
	View    View   `json:"view"`
}

// maxRecord bounds a record, in bytes: several times what the largest plan makes.
const maxRecord = 8 << 20

// nameRE is the form of names in plans. They become path elements here, so it is
// checked again.
var nameRE = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// path of something of a router or workload in the run directory.
func (k *Kind) path(prefix string, id workload.ID, suffix string) string {
	return filepath.Join(k.cfg.Run, prefix+id.Contract.String()+"-"+id.Name+suffix)
}

// parse reads the id in a name made by path.
func parse(prefix, name string) (workload.ID, bool) {
	const digits = 2 * canon.HashSize
	rest, ok := strings.CutPrefix(name, prefix)
	rest, _, _ = strings.Cut(rest, ".")
	if !ok || len(rest) < digits+2 || rest[digits] != '-' || !nameRE.MatchString(rest[digits+1:]) {
		return workload.ID{}, false
	}
	contract, err := canon.ParseHash(rest[:digits])
	if err != nil || contract.String() != rest[:digits] {
		return workload.ID{}, false
	}
	return workload.ID{Contract: contract, Name: rest[digits+1:]}, true
}

// list names the routers or workloads of which anything is in the run directory.
func (k *Kind) list(prefix string) ([]workload.ID, error) {
	entries, err := os.ReadDir(k.cfg.Run)
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	var ids []workload.ID
	seen := map[workload.ID]bool{}
	for _, e := range entries {
		if id, ok := parse(prefix, e.Name()); ok && !seen[id] {
			ids, seen[id] = append(ids, id), true
		}
	}
	return ids, nil
}

// readRecord reads what was last made of a router; fs.ErrNotExist if nothing.
func (k *Kind) readRecord(id workload.ID) (record, error) {
	var r record
	return r, readJSON(k.path(routerPrefix, id, ".json"), &r)
}

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err == nil && len(b) > maxRecord {
		err = fmt.Errorf("more than %d bytes", maxRecord)
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return writeFile(path, b, 0o600)
}

// writeFile replaces a file in one step. The directory is in memory, so there is
// nothing to sync.
func writeFile(path string, b []byte, mode os.FileMode) error {
	if err := os.WriteFile(path+".tmp", b, mode); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// fill writes a file that others hold mounted: the same file gets another content,
// if it has another one.
func fill(path string, b []byte) error {
	if have, err := os.ReadFile(path); err == nil && string(have) == string(b) {
		return nil
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	// Whatever the mask of this process is: its readers are other users.
	if err := os.Chmod(path, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// dup makes a descriptor of our own.
func dup(fd int) (*os.File, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep a network namespace: %w", err)
	}
	return os.NewFile(uintptr(n), "netns"), nil
}
