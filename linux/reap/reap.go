// Package reap collects the children of process 1 and keeps what they ended
// with, so that a daemon that was away when its workload ended can still learn
// how.
//
// A process is identified by its pid and its start time, because pids are used
// again.
package reap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// MaxExits is how many exits a directory keeps; the oldest go first. It bounds
// the memory that a workload which forks without end can use up.
const MaxExits = 4096

// Exit is how a process ended.
type Exit struct {
	PID    int
	Start  uint64 // clock ticks after boot, field 22 of /proc/PID/stat
	Comm   string // its name, at most 15 bytes, not to be trusted
	Code   int    // exit code, or -1 if a signal ended it
	Signal int    // the signal, or 0
	Time   time.Time
}

// String says it in a few words.
func (e Exit) String() string {
	if e.Signal != 0 {
		return fmt.Sprintf("%s (pid %d) ended by signal %d (%s)", e.Comm, e.PID, e.Signal, unix.SignalName(unix.Signal(e.Signal)))
	}
	return fmt.Sprintf("%s (pid %d) exited with %d", e.Comm, e.PID, e.Code)
}

// Next reaps one ended child of this process; ok is false when none has ended.
func Next() (e Exit, ok bool, err error) {
	for {
		// First look, then reap: /proc/PID/stat is there only before.
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return Exit{}, false, nil
		case err != nil:
			return Exit{}, false, fmt.Errorf("look for ended children: %w", err)
		}
		pid := infoPID(&info)
		if pid == 0 {
			return Exit{}, false, nil
		}
		e = Exit{PID: pid, Code: -1, Time: time.Now()}
		if s, err := ReadStat(pid); err == nil {
			e.Start, e.Comm = s.Start, s.Comm
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECHILD) {
				continue
			}
			return Exit{}, false, fmt.Errorf("reap %d: %w", pid, err)
		}
		if status.Signaled() {
			e.Signal = int(status.Signal())
		} else {
			e.Code = status.ExitStatus()
		}
		return e, true, nil
	}
}

// Stat is what identifies a process and its parent.
type Stat struct {
	PID, Parent int
	Start       uint64 // clock ticks after boot
	Comm        string
	State       byte
}

// ReadStat reads /proc/PID/stat.
func ReadStat(pid int) (Stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Stat{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	return ParseStat(b)
}

var errStat = errors.New("parse process state: not the form of /proc/PID/stat")

// ParseStat parses the content of /proc/PID/stat. The name in it is chosen by
// the process and may hold anything, brackets and line breaks included.
func ParseStat(b []byte) (Stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 2 || end < open {
		return Stat{}, errStat
	}
	s := Stat{Comm: string(b[open+1 : end])}
	fields := strings.Fields(string(b[end+1:]))
	if len(fields) < 20 || len(fields[0]) != 1 {
		return Stat{}, errStat
	}
	s.State = fields[0][0]
	var err error
	if s.PID, err = strconv.Atoi(strings.TrimSpace(string(b[:open]))); err != nil {
		return Stat{}, errStat
	}
	if s.Parent, err = strconv.Atoi(fields[1]); err != nil {
		return Stat{}, errStat
	}
	if s.Start, err = strconv.ParseUint(fields[19], 10, 64); err != nil {
		return Stat{}, errStat
	}
	return s, nil
}

// Record keeps e in dir, for Read.
func Record(dir string, e Exit) error {
	prune(dir, MaxExits-1)
	text := fmt.Sprintf("%d %d %d %s\n", e.Code, e.Signal, e.Time.Unix(), strconv.Quote(e.Comm))
	path := filepath.Join(dir, name(e.PID, e.Start))
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return fmt.Errorf("record exit of %d: %w", e.PID, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("record exit of %d: %w", e.PID, err)
	}
	return nil
}

// Read returns how the process with this pid and start time ended;
// fs.ErrNotExist when it was not recorded, or not yet.
func Read(dir string, pid int, start uint64) (Exit, error) {
	b, err := os.ReadFile(filepath.Join(dir, name(pid, start)))
	if err != nil {
		return Exit{}, fmt.Errorf("read exit of %d: %w", pid, err)
	}
	e, err := parseExit(string(b))
	if err != nil {
		return Exit{}, fmt.Errorf("read exit of %d: %w", pid, err)
	}
	e.PID, e.Start = pid, start
	return e, nil
}

func parseExit(text string) (Exit, error) {
	var e Exit
	var unixTime int64
	n, err := fmt.Sscanf(text, "%d %d %d %q\n", &e.Code, &e.Signal, &unixTime, &e.Comm)
	if err != nil || n != 4 {
		return Exit{}, fmt.Errorf("parse exit %.40q: damaged", text)
	}
	e.Time = time.Unix(unixTime, 0)
	return e, nil
}

func name(pid int, start uint64) string { return fmt.Sprintf("%d-%d", pid, start) }

// prune removes the oldest files of dir beyond keep. Failing to is no reason
// not to record, so errors end it early.
func prune(dir string, keep int) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) <= keep {
		return
	}
	type aged struct {
		name string
		t    time.Time
	}
	var all []aged
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			all = append(all, aged{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return a.t.Compare(b.t) })
	for i := 0; i < len(all)-keep; i++ {
		if os.Remove(filepath.Join(dir, all[i].name)) != nil {
			return
		}
	}
}
