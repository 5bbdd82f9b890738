package shim

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/logs"
)

// Names of engines in a Spec.
const (
	EngineRunc    = "runc"    // an OCI container; also what "" means
	EngineMachine = "machine" // a virtual machine
)

// Engine runs the instances of one workload, one at a time. Everything of it lies
// below the shim's directory, in the workload's cgroup and in runc's state, so that
// it can be found again by a shim that comes later: an Engine may remember nothing
// that the kernel, runc or a file in that directory could not tell again.
//
// The shim calls it from one goroutine. Each shim opens one Engine and closes it
// without ending what runs.
type Engine interface {
	// Adopt returns the instance that an earlier shim left running. known is its first
	// process as that shim wrote it down, or zero if it wrote none. It returns nil
	// where there is none, or one that can't be told to be the workload as it must
	// be; the shim then calls Missed, if known is set, and Clean.
	Adopt(ctx context.Context, s Spec, known process.Ref) (Instance, error)
	// Missed says how an instance ended that no shim watched, by what is left of it.
	Missed(ctx context.Context, s Spec, known process.Ref) Ended
	// Start makes a new instance of s. It returns when the workload's own program is
	// about to run, confined as it must be. On an error the shim calls Clean. It is
	// broken off when ctx ends.
	Start(ctx context.Context, s Spec) (Instance, error)
	// Clean ends and removes whatever there is of any instance: processes, runc's
	// state, cgroups, sockets; never the disk. It is idempotent and has about a minute.
	Clean(ctx context.Context) error
	// Close lets go of the engine's own files and goroutines. What runs goes on.
	Close() error
}

// Instance is one run of a workload. Its methods may be called at the same time from
// several goroutines, except Wait and Release.
type Instance interface {
	// Process names the run: the container's first process, or the machine's monitor.
	Process() process.Ref
	// Wait returns when it has ended, and how; processes are reaped then, and the cgroup
	// is still there. When ctx ends first it returns ctx's error, and may be called again.
	Wait(ctx context.Context) (Ended, error)
	// Stop asks it to end: sig is the first signal of the workload's plan, for its first
	// process. It doesn't wait. The shim kills what is still there after grace.
	Stop(ctx context.Context, sig unix.Signal) error
	// Signal sends a signal to the workload's first process.
	Signal(ctx context.Context, sig unix.Signal) error
	// Kill ends all of it by force and returns when the kernel has done so; Wait then
	// returns at once.
	Kill(ctx context.Context) error
	// Probe tries a health check once, from inside; nil says that it passed. ctx ends
	// with the check's timeout.
	Probe(ctx context.Context, p control.Probe) error
	// Resize applies limits to what runs. false says that it needs a new start, and
	// nothing has changed.
	Resize(ctx context.Context, l control.Limits) (live bool, err error)
	// Stats counts. The shim itself fills in Restarts, StartMillis, Uptime and the disk.
	Stats(ctx context.Context) (control.Stats, error)
	// Serve answers a request that needs frames: VerbExec, VerbConsole, VerbGet or
	// VerbPut. An error is sent by the caller. ctx ends when the instance has ended.
	Serve(ctx context.Context, c *control.Conn, r control.Request) error
	// Release lets go of it without touching it.
	Release()
}

// Ended is how a run ended.
type Ended struct {
	Exit   process.Exit
	Reason string // a Reason… constant; "" means ReasonExited, or ReasonSignal by Exit
	Detail string // one line for people; "" means what Exit says
}

// Host is what a shim gives to its engine.
type Host struct {
	Dir  string       // the shim's directory
	Ring *logs.Writer // where the workload's output goes; the shim closes it
}

// Opener makes an Engine. It does nothing yet to what may run.
type Opener func(ctx context.Context, h Host, s Spec) (Engine, error)

// Engines are the ones that a program has, by name.
type Engines map[string]Opener
