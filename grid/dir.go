package grid

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/problem"
)

// dir is the grid's directory; everything that a grid writes is below it.
type dir struct {
	path string
	lock *os.File
}

// Places in a grid's directory.
func (d dir) keys() string            { return filepath.Join(d.path, "keys") }
func (d dir) key(name string) string  { return filepath.Join(d.keys(), name) }
func (d dir) config() string          { return filepath.Join(d.path, "config") }
func (d dir) ledger() string          { return filepath.Join(d.path, "ledger") }
func (d dir) witness() string         { return filepath.Join(d.path, "witness") }
func (d dir) hub() string             { return filepath.Join(d.path, "hub") }
func (d dir) boot() string            { return filepath.Join(d.path, "boot") }
func (d dir) node(name string) string { return filepath.Join(d.path, "nodes", name) }
func (d dir) rendezvous(i int) string { return filepath.Join(d.path, "rendezvous-"+strconv.Itoa(i)) }
func (d dir) state() string           { return filepath.Join(d.path, "up.json") }

// openDir makes the directory and takes it for this process.
func openDir(path string) (dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return dir{}, fmt.Errorf("find the grid's directory %s: %w", path, err)
	}
	// A unix socket's path has at most 107 bytes; QEMU's lie some levels below.
	if len(abs) > 64 {
		return dir{}, problem.New("dir-too-long", "the path %s has %d characters, sockets below it would not fit", abs, len(abs)).
			WithFix("choose a directory of at most 64 characters")
	}
	d := dir{path: abs}
	if err := os.MkdirAll(d.keys(), 0o700); err != nil {
		return dir{}, fmt.Errorf("make the grid's directory: %w", err)
	}
	d.lock, err = os.OpenFile(filepath.Join(abs, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return dir{}, fmt.Errorf("open the grid's lock: %w", err)
	}
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := "another process"
		if pid, ok := Holder(abs); ok {
			holder = fmt.Sprintf("process %d", pid)
		}
		return dir{}, errors.Join(problem.New("grid-running", "a grid already runs in %s, by %s", abs, holder).
			WithFix("end it with: zos down --dir %s", abs), d.lock.Close())
	}
	if err := d.lock.Truncate(0); err != nil {
		return dir{}, errors.Join(fmt.Errorf("write the grid's lock: %w", err), d.lock.Close())
	}
	if _, err := d.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return dir{}, errors.Join(fmt.Errorf("write the grid's lock: %w", err), d.lock.Close())
	}
	// A grid that was killed has left its state: its process ids are others' now.
	if err := os.Remove(d.state()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return dir{}, errors.Join(fmt.Errorf("remove the state of a killed grid: %w", err), d.lock.Close())
	}
	return d, nil
}

// close lets others take the directory.
func (d dir) close() error { return d.lock.Close() }

// Holder returns the process that runs the grid in a directory, if one does.
func Holder(path string) (pid int, running bool) {
	f, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR, 0)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	// Shared, so that two who look don't take each other for the grid.
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return 0, false
	}
	b := make([]byte, 16)
	n, _ := f.ReadAt(b, 0)
	pid, err = strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return pid, err == nil && pid > 1
}
