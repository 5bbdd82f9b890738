package machine

import (
	"fmt"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/workload/shim"
)

// ReasonHung is the reason of a machine whose agent said nothing for too long.
const ReasonHung = "guest-hung"

// failed is the exit code of a machine that ended without its program's.
const failed = 255

// facts are what was seen of a machine that has ended.
type facts struct {
	agent      bool         // it has an agent
	program    *int         // exit code of its program, as the agent told it
	startError string       // why the program could not be started, as the agent told it
	guestOOM   bool         // the guest's kernel killed for want of memory
	fileServer bool         // the file server ended before the monitor
	served     process.Exit // how the file server ended then
	hung       bool         // ended because its agent said nothing
	panicked   bool         // QMP told of a panic
	begun      bool         // it had begun to run
	hostOOM    bool         // the node's kernel killed in its cgroup for want of memory
	monitor    process.Exit
}

// verdict tells how a machine ended. What its program did comes first: whatever
// happens to a guest after that is no failure of the workload's.
func verdict(f facts) shim.Ended {
	broken := func(reason, format string, args ...any) shim.Ended {
		return shim.Ended{Exit: process.Exit{Code: failed}, Reason: reason, Detail: fmt.Sprintf(format, args...)}
	}
	if f.program != nil {
		e := shim.Ended{Exit: process.Exit{Code: *f.program}}
		if *f.program > 128 && *f.program <= 128+64 {
			e.Exit.Signal = *f.program - 128
		}
		if f.guestOOM && *f.program == 137 {
			e.Reason, e.Detail = shim.ReasonOOM, "killed for using more than its memory limit"
		}
		return e
	}
	switch {
	case f.startError != "":
		e := broken(shim.ReasonStart, "%s", f.startError)
		e.Exit.Code = 127
		return e
	case f.hostOOM:
		return broken(shim.ReasonOOM, "the machine used more than its memory limit")
	case f.fileServer:
		return broken(shim.ReasonVMM, "the file server of its root file system died (%s)", f.served)
	case f.hung:
		return broken(ReasonHung, "the guest did not answer for too long")
	case f.panicked:
		return broken(shim.ReasonPanic, "the guest's kernel panicked")
	}
	if f.monitor.Code == -1 {
		return shim.Ended{Exit: f.monitor, Detail: "ended while no shim watched; exit code unknown"}
	}
	switch vmm.EndOf(f.monitor.Code, f.monitor.Signal, f.begun) {
	case vmm.EndOff:
		if f.agent {
			return broken(shim.ReasonExited, "the guest powered off and did not tell how its program ended")
		}
		return shim.Ended{Exit: process.Exit{Code: 0}, Detail: "powered off"}
	case vmm.EndPanic:
		return broken(shim.ReasonPanic, "the guest's kernel panicked")
	case vmm.EndKill:
		return broken(shim.ReasonVMM, "the machine's monitor was killed")
	case vmm.EndStart:
		return broken(shim.ReasonStart, "the machine's monitor refused to start (%s)", f.monitor)
	}
	return broken(shim.ReasonVMM, "the machine's monitor crashed (%s)", f.monitor)
}
