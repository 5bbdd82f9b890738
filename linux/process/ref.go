package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// ErrGone says that a process no longer exists.
var ErrGone = errors.New("no such process")

// Ref names one process of this boot for good. A pid alone may be reused; a pid
// with its start time is not.
type Ref struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/<pid>/stat
}

// String returns "<pid>-<start>", the form used in file names.
func (r Ref) String() string { return fmt.Sprintf("%d-%d", r.PID, r.Start) }

// IsZero tells whether r names nothing.
func (r Ref) IsZero() bool { return r.PID == 0 }

// ParseRef reads the form that String writes.
func ParseRef(s string) (Ref, error) {
	pid, start, ok := bytes.Cut([]byte(s), []byte("-"))
	p, err1 := strconv.ParseUint(string(pid), 10, 31)
	t, err2 := strconv.ParseUint(string(start), 10, 64)
	if !ok || err1 != nil || err2 != nil || p == 0 {
		return Ref{}, fmt.Errorf("parse process reference %.60q: want <pid>-<start time>", s)
	}
	return Ref{PID: int(p), Start: t}, nil
}

// Of returns the reference of the process that has pid now. A zombie counts: it
// keeps its pid and start time until it is reaped. The error is ErrGone when
// there is none.
func Of(pid int) (Ref, error) {
	st, err := readStat(pid)
	if err != nil {
		return Ref{}, err
	}
	return Ref{PID: pid, Start: st.start}, nil
}

// Alive tells whether the process still runs; a zombie does not.
func (r Ref) Alive() bool {
	if r.IsZero() {
		return false
	}
	st, err := readStat(r.PID)
	return err == nil && st.start == r.Start && st.state != 'Z' && st.state != 'X'
}

type stat struct {
	state byte
	start uint64
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	st, err := parseStat(b)
	if err != nil {
		return stat{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return st, nil
}

// parseStat reads a line of /proc/<pid>/stat. The second field is the command in
// parentheses and may itself hold spaces and parentheses, so the fields are
// counted from the last one.
func parseStat(b []byte) (stat, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return stat{}, errors.New("parse stat: no command field")
	}
	f := bytes.Fields(b[i+1:])
	// f[0] is field 3, the state; field 22 is f[19].
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, errors.New("parse stat: too few fields")
	}
	start, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("parse stat: start time: %w", err)
	}
	return stat{state: f[0][0], start: start}, nil
}
