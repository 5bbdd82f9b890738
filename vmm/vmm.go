package vmm

import (
	"context"
	"net"
)

// VMM is a virtual machine monitor. QEMU is the one there is.
type VMM interface {
	// Args is the command line that runs the machine, inside the VMM flist; a pure
	// function.
	Args(Config) ([]string, error)
	// Attach takes control of the running machine behind conn, a connection to
	// Config.QMP's socket. The machine lives on when the Machine is closed, and can
	// be attached again, by one at a time. events is called for each Event, in
	// order, from one goroutine; it must not block. conn belongs to the Machine,
	// and is closed if this fails.
	Attach(ctx context.Context, conn net.Conn, events func(Event)) (Machine, error)
}

// Machine controls a running machine. All methods may be called at once; each
// needs a context with a deadline, since a monitor that hangs answers nothing.
type Machine interface {
	// State tells whether the machine runs.
	State(context.Context) (State, error)
	// Pause stops the processors, Resume lets them go on, or begin.
	Pause(context.Context) error
	Resume(context.Context) error
	// Resize asks the guest to use no more than memory bytes, up to Config.Memory.
	// The guest gives back what it can, when it can: Stats tells how much. Processors
	// are limited from outside, by the cgroup.
	Resize(ctx context.Context, memory uint64) error
	// Stop presses the power button. The guest may do as it likes.
	Stop(context.Context) error
	// Kill ends the machine at once; disks are written out first, as far as they
	// were given to QEMU.
	Kill(context.Context) error
	// Stats tells what only the monitor knows. Processor time, memory and network
	// traffic are in the cgroup and at the tap.
	Stats(context.Context) (Stats, error)
	// Done is closed when the connection has ended, because the monitor did or
	// because of Close.
	Done() <-chan struct{}
	// Close gives up control. The machine runs on.
	Close()
}

// State is what a machine does.
type State string

// The states. A machine that has ended has no monitor to ask.
const (
	Running  State = "running"
	Paused   State = "paused"   // by Pause, or not begun
	Panicked State = "panicked" // the guest's kernel said that it cannot go on
	Failed   State = "failed"   // the monitor stopped it: of a disk, or of itself
	Ending   State = "ending"   // powered off, the monitor about to end
)

// EventKind says what happened.
type EventKind string

// The kinds.
const (
	EventPaused   EventKind = "paused"
	EventResumed  EventKind = "resumed"
	EventReset    EventKind = "reset"    // the guest restarted itself
	EventPanic    EventKind = "panic"    // of the guest's kernel
	EventShutdown EventKind = "shutdown" // the machine ends; Reason says why
	EventDisk     EventKind = "disk"     // an input or output error; Reason names the disk
	EventBalloon  EventKind = "balloon"  // the guest has another amount of memory; see Stats
)

// Event is something that happened to a machine.
type Event struct {
	Kind   EventKind
	Reason Reason // of EventShutdown; of EventDisk the disk's index as text
}

// Reason is why a machine ended.
type Reason string

// The reasons.
const (
	ReasonOff    Reason = "off"    // the guest powered off
	ReasonReset  Reason = "reset"  // the guest restarted, and may not
	ReasonPanic  Reason = "panic"  // the guest's kernel panicked
	ReasonKilled Reason = "killed" // by Kill
	ReasonHost   Reason = "host"   // by a signal to the monitor that it could answer
	ReasonOther  Reason = "other"  // what this package does not know
)

// Stats are figures of the monitor.
type Stats struct {
	State  State       `json:"state"`
	Memory uint64      `json:"memory"` // bytes that the guest has, ballooned ones not counted
	Disks  []DiskStats `json:"disks"`  // in the Config's order
}

// DiskStats are counts since the machine began.
type DiskStats struct {
	Reads        uint64 `json:"reads"`  // operations
	Writes       uint64 `json:"writes"` // operations
	Flushes      uint64 `json:"flushes"`
	ReadBytes    uint64 `json:"read_bytes"`
	WrittenBytes uint64 `json:"written_bytes"`
}

// End is how a machine ended, told from outside.
type End string

// The ends.
const (
	EndOff   End = "off"   // powered off, or restarted where that is an end
	EndPanic End = "panic" // the guest's kernel panicked
	EndStart End = "start" // the monitor refused to run it
	EndKill  End = "kill"  // the monitor was killed from outside, out of memory included
	EndFault End = "fault" // the monitor crashed
)

// EndOf tells how a machine ended from its monitor's exit code, the signal that
// ended it (0: none), and whether it had begun to run: a monitor that was attached
// once had. Whether a kill was the kernel's for want of memory, the cgroup knows.
func EndOf(code, signal int, begun bool) End {
	const kill, term = 9, 15
	switch {
	case signal == kill || signal == term:
		return EndKill
	case signal != 0:
		return EndFault
	case code == 0:
		return EndOff
	case !begun:
		return EndStart
	case code == 1:
		return EndPanic
	}
	return EndFault
}
