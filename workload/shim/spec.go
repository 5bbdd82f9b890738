package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/supervise"
	"github.com/zero-os/zos/workload/control"
)

// Spec is what a shim is told. The node daemon writes it before the shim starts.
type Spec struct {
	Engine string          `json:"engine,omitempty"` // an Engine… constant; "" is EngineRunc
	Config json.RawMessage `json:"config,omitempty"` // the engine's own part, of EngineMachine

	ID       string `json:"id"`        // runc's name of the container
	Runc     string `json:"runc"`      // path of the program
	RuncRoot string `json:"runc_root"` // runc's own state directory
	Cgroup   string `json:"cgroup"`    // absolute path of the container's cgroup
	Plan     string `json:"plan"`      // hex digest of the plan.Workload; names what runs

	Life       Life `json:"life"`
	NoNewPrivs bool `json:"no_new_privs"` // must be found in the running process

	UID uint32 `json:"uid"` // host ids that the container's process runs as; own the FIFOs
	GID uint32 `json:"gid"`

	// Limits are set when the program runs, and at every change of the spec.
	Limits control.Limits `json:"limits"`

	Upper    string `json:"upper"`     // path in the file system that the container writes to, for disk-full
	LogDir   string `json:"log_dir"`   // the log ring
	LogBound int64  `json:"log_bound"` // bytes
	LogRate  int64  `json:"log_rate"`  // bytes per second read from the container, 0: 4 MiB
	Exits    string `json:"exits"`     // process 1's records of orphans
	Final    string `json:"final"`     // file for the last status once the policy says that it is over

	Backoff supervise.Backoff `json:"backoff"`
}

// State of a container as its shim sees it.
type State string

// The states.
const (
	Starting  State = "starting"
	Running   State = "running"
	Ending    State = "ending"    // its shim ends it, for Cause; its policy says what comes then
	Waiting   State = "backoff"   // will be started at NextTry
	Exhausted State = "exhausted" // left failed; its shim waits for a restart by hand
	Over      State = "over"      // ended, and its policy says not again; the shim has gone
	Stopping  State = "stopping"  // asked to end it
	Stopped   State = "stopped"   // ended because asked; the shim has gone
)

// Reasons of a state, problem codes.
const (
	ReasonStart     = "start-failed"       // no instance came to be
	ReasonExited    = "exited"             // it ended by itself, or its code isn't known
	ReasonSignal    = "killed"             // a signal ended it that its shim did not send
	ReasonOOM       = "oom-killed"         // it used more memory than its limit
	ReasonDiskFull  = "disk-full"          // it failed with its disk used up
	ReasonPanic     = "guest-panic"        // a machine's kernel panicked
	ReasonVMM       = "vmm-died"           // what runs a machine died: its monitor, or its file server
	ReasonUnhealthy = "unhealthy"          // its health check failed too often
	ReasonDeadline  = "deadline-exceeded"  // it ran for longer than its plan allows
	ReasonAttempts  = "attempts-exhausted" // too many starts in a row failed
	ReasonRestart   = "restarted"          // somebody asked for it
)

// CodeUnsupported is the problem of a request that an engine can't answer, CodeNotRunning
// that of one for a workload that does not run now.
const (
	CodeUnsupported = "control-unsupported"
	CodeNotRunning  = "not-running"
)

// Status is what a shim last wrote.
type Status struct {
	Plan     string       `json:"plan"` // the Spec's
	State    State        `json:"state"`
	Shim     process.Ref  `json:"shim"`
	Process  process.Ref  `json:"process"` // the container's first process; zero if none
	Exit     process.Exit `json:"exit"`    // how it last ended
	Reason   string       `json:"reason"`  // why it last ended or could not start; "" before that
	Detail   string       `json:"detail"`
	Restarts int          `json:"restarts"` // starts beyond the first
	Failures int          `json:"failures"` // starts in a row that failed
	Pauses   int          `json:"pauses"`   // in a row, for the backoff
	Cause    string       `json:"cause"`    // of Ending: the reason that its end will have
	Started  time.Time    `json:"started"`  // when the present or last run was begun
	Ran      time.Time    `json:"ran"`      // when its program ran
	NextTry  time.Time    `json:"next_try"`
	Checked  bool         `json:"checked"` // Healthy says whether it is; else nothing does
	Healthy  bool         `json:"healthy"`
}

// maxFile bounds spec and status files.
const maxFile = 256 << 10

// Names in a shim's directory.
const (
	specFile   = "spec.json"
	statusFile = "status.json"
	lockFile   = "lock"
	runcLog    = "runc.log"
	errFile    = "shim.err"
	pidFile    = "pid"
	// BundleDir holds config.json and rootfs.
	BundleDir = "bundle"
)

// Runtime drives runc for the container of the spec.
func (s Spec) Runtime() Runtime {
	return Runtime{Runc: s.Runc, Root: s.RuncRoot, ID: s.ID, Cgroup: s.Cgroup}
}

// WriteSpec stores the spec of the shim in dir.
func WriteSpec(dir string, s Spec) error { return WriteJSON(filepath.Join(dir, specFile), s) }

// ReadSpec reads it back.
func ReadSpec(dir string) (Spec, error) {
	var s Spec
	return s, ReadJSON(filepath.Join(dir, specFile), &s)
}

// ReadStatus reads what the shim in dir last wrote; fs.ErrNotExist if nothing yet.
func ReadStatus(dir string) (Status, error) {
	var s Status
	return s, ReadJSON(filepath.Join(dir, statusFile), &s)
}

// WriteJSON replaces a small file by the JSON of v in one step.
func WriteJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(append(b, '\n'))
	// On disk before the rename: a power cut must not leave an empty file there.
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// ReadJSON reads what WriteJSON wrote; fs.ErrNotExist if nothing was.
func ReadJSON(path string, v any) error {
	b, err := readBounded(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
