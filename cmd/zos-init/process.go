package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/reap"
)

// program is what process 1 starts.
type program struct {
	name string // also of its cgroup
	path string
	args []string
	oom  int // oom_score_adj, -1000 to 1000
}

// How long to wait before a program that died is started again.
const (
	firstWait = 100 * time.Millisecond
	lastWait  = 10 * time.Second
	// steady is how long a program must have run to count as well again.
	steady = time.Minute
)

// process is a program and what runs of it.
type process struct {
	program
	pid       int    // 0: not running
	startTime uint64 // as package reap has it
	out       *os.File
	started   time.Time
	due       time.Time     // when to start it again
	wait      time.Duration // the pause before that
}

// ended notes that the process is gone, and when the next one is due.
func (p *process) ended() {
	if p.wait == 0 || time.Since(p.started) > steady {
		p.wait = firstWait
	} else {
		p.wait = min(2*p.wait, lastWait)
	}
	p.pid, p.startTime, p.out = 0, 0, nil
	p.due = time.Now().Add(p.wait)
}

// cgroups is where the cgroups of the node's own programs are, beside the workloads'.
const cgroups = "/sys/fs/cgroup/zos"

// ownWeight is the share of processors of each of our own programs when there is not
// enough for all; a workload has 100. However many want to compute at once, what holds
// the node's promises comes first: it needs little, but that in time.
const ownWeight = "10000" // the most there is: Documentation/admin-guide/cgroup-v2.rst

// start starts the program in its own session and cgroup; its output goes to l.
func (p *process) start(l *lines) error {
	p.started = time.Now()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return errors.Join(err, r.Close())
	}
	defer null.Close()
	attr := &syscall.SysProcAttr{Setsid: true}
	// A kernel without cgroup v2 where we expect it is no reason not to run.
	if group, err := openCgroup(p.name); err == nil {
		defer group.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(group.Fd())
	}
	pid, err := syscall.ForkExec(p.path, append([]string{p.path}, p.args...), &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/bin", "HOME=/", "GOTRACEBACK=single"},
		Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
		Sys:   attr,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("execute %s: %w", p.path, err), r.Close())
	}
	p.pid, p.out = pid, r
	// The child is ours to reap, so its entry is there even if it has ended.
	if s, err := reap.ReadStat(pid); err == nil {
		p.startTime = s.Start
	}
	if err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(strconv.Itoa(p.oom)), 0); err != nil {
		l.console.Printf("%s: protect from the out-of-memory killer: %v", p.name, err)
	}
	l.follow(p.name, r)
	return nil
}

// openCgroup makes the cgroup of one of our own programs and opens it.
func openCgroup(name string) (*os.File, error) {
	dir := filepath.Join(cgroups, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// Without the controller, which harden has reported, all share alike.
	if err := os.WriteFile(filepath.Join(dir, "cpu.weight"), []byte(ownWeight), 0); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("give %s its share of processors: %w", name, err)
	}
	return os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
}
