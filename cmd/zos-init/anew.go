package main

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/reap"
)

// statePath is what process 1 leaves to itself when it executes itself anew.
const statePath = boot.RunDir + "/process1.cbor"

// saved is a child across an execution.
type saved struct {
	Name  string `cbor:"name"`
	PID   uint64 `cbor:"pid"`
	Start uint64 `cbor:"start"`
	Out   uint64 `cbor:"out"` // descriptor of the pipe that it prints to
}

// executeAnew replaces process 1 by the program that is at its path now. Its
// children stay its children; their pipes stay open.
func (m *machine) executeAnew() error {
	var state []saved
	var open []*os.File
	for _, p := range m.children {
		if p.pid == 0 {
			continue
		}
		s := saved{Name: p.name, PID: uint64(p.pid), Start: p.startTime}
		if fd, err := inherit(p.out); err == nil {
			open = append(open, os.NewFile(fd, p.name))
			s.Out = uint64(fd)
		} // else the child has closed its output, and there is nothing to keep
		state = append(state, s)
	}
	b, err := canon.Marshal(state)
	if err == nil {
		err = boot.WriteFile(statePath, b, 0o600)
	}
	if err == nil {
		err = become("/bin/zos-init")
	}
	for _, f := range open { // still here: it failed, and nothing has changed
		err = errors.Join(err, f.Close())
	}
	return errors.Join(err, os.Remove(statePath))
}

// inherit returns a copy of f's descriptor that survives an execution.
func inherit(f *os.File) (uintptr, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var fd int
	var dupErr error
	err = c.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD, 3) }) // without close-on-exec
	return uintptr(fd), errors.Join(err, dupErr)
}

// resume takes the children over from the program that was process 1 before, and
// tells whether there was one. Whoever is not our child any more, or another
// process by now, is started again.
func (m *machine) resume() bool {
	b, err := os.ReadFile(statePath)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	var state []saved
	if err == nil {
		err = canon.UnmarshalLimit(b, 1<<16, &state)
	}
	if err := errors.Join(err, os.Remove(statePath)); err != nil {
		m.console.Printf("resume: %v", err)
	}
	for _, s := range state {
		var out *os.File
		if s.Out != 0 {
			out = os.NewFile(uintptr(s.Out), s.Name)
		}
		for _, p := range m.children {
			if p.name != s.Name {
				continue
			}
			if stat, err := reap.ReadStat(int(s.PID)); err != nil || stat.Start != s.Start || stat.Parent != os.Getpid() {
				m.console.Printf("resume: %s is not there any more", p.name)
				continue
			}
			p.pid, p.startTime, p.started = int(s.PID), s.Start, time.Now()
			if out != nil {
				unix.CloseOnExec(int(s.Out))
				p.out = out
				m.lines.follow(p.name, out)
				out = nil
			}
		}
		if out != nil {
			_ = out.Close()
		}
	}
	return true
}
