package soak

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/zero-os/zos/spec/plan"
)

// Fault is what befalls a workload once in its life.
type Fault string

// The faults. Those that kill do so with SIGKILL.
const (
	None       Fault = "none"
	Daemon     Fault = "zosd"      // kill the node daemon; a fresh process takes over
	Replace    Fault = "replaced"  // the node daemon ends and another begins
	Shim       Fault = "shim"      // kill the workload's shim
	Runc       Fault = "runc"      // kill the container runtime at work, its init included
	Init       Fault = "init"      // kill the container's first process
	Monitor    Fault = "vmm"       // kill the machine's monitor
	FileServer Fault = "virtiofsd" // kill the machine's file server
	Agent      Fault = "agent"     // end the guest's process 1, which the guest's kernel does not survive
	Full       Fault = "disk-full" // the data disk has no byte left for a while
	Clock      Fault = "clock"     // the node's clock jumps
)

// Moment is the state of a workload in which its fault strikes.
type Moment string

// The moments, in their order. Recorded to Configured are steps of Ensure; Starting
// to Stopping are the shim's states.
const (
	Recorded   Moment = "recorded"   // its record is on the disk
	Layered    Moment = "layered"    // its writable layer is there
	Mounted    Moment = "mounted"    // its root file system is mounted
	Configured Moment = "configured" // its shim's spec is written
	Starting   Moment = "starting"   // its shim is there
	Created    Moment = "created"    // the runtime has made the container
	Running    Moment = "running"
	Ready      Moment = "ready"    // its health check has passed
	Waiting    Moment = "waiting"  // it failed, and will be started again
	Ending     Moment = "ending"   // a restart by hand ends it
	Stopping   Moment = "stopping" // Remove ends it
	Removing   Moment = "removing" // it has ended, its data is being deleted
)

// Strike is a fault at a moment.
type Strike struct {
	Fault  Fault
	Moment Moment
}

func (s Strike) String() string { return string(s.Fault) + " when " + string(s.Moment) }

// Strikes are all that make sense for a class of isolation. Each comes once in as many
// cycles as there are.
func Strikes(isolation string) []Strike {
	if isolation == plan.IsolationMicroVM {
		return []Strike{
			{Monitor, Running}, {FileServer, Running}, {Agent, Running}, {Shim, Running}, {Daemon, Created},
			{FileServer, Created}, {Monitor, Created}, {Full, Running}, {Clock, Running}, {Shim, Created},
			{Daemon, Running}, {Monitor, Stopping}, {Shim, Stopping}, {Daemon, Stopping}, {None, Running}, {Replace, Running},
		}
	}
	out := []Strike{{None, Running}, {Runc, Starting}, {Runc, Created}, {Init, Created}}
	for _, m := range []Moment{Recorded, Layered, Mounted, Configured, Starting, Created, Running, Ready, Waiting, Ending, Stopping, Removing} {
		out = append(out, Strike{Daemon, m}, Strike{Full, m}, Strike{Clock, m})
		switch m {
		case Starting, Created:
			out = append(out, Strike{Shim, m})
		case Running, Ready, Ending:
			out = append(out, Strike{Shim, m}, Strike{Init, m}, Strike{Replace, m})
		case Waiting:
			out = append(out, Strike{Shim, m}, Strike{Replace, m})
		case Stopping:
			out = append(out, Strike{Shim, m}, Strike{Init, m})
		}
	}
	return out
}

// Program is what a workload does.
type Program string

// The programs.
const (
	Serve    Program = "serve"    // for ever; ends when asked to
	Stubborn Program = "stubborn" // the same, and has to be killed
	Crash    Program = "crash"    // exits with a code, and serves from its third run on
	Exit     Program = "exit"     // a job
	Hog      Program = "hog"      // takes more memory than it may
	Fill     Program = "fill"     // writes more than its disk holds
)

// Cycle is one workload from its creation to its removal.
type Cycle struct {
	N         int
	Isolation string
	Strike
	Program Program
	Code    int           // exit code of Crash and Exit
	Jump    time.Duration // of Clock

	CPU, Memory, Disk, PIDs uint64 // as in plan.Resources; Memory without what a machine needs
	Files, Secrets          int
	Health                  string // a plan.Check… constant; "" is none
	Network                 bool
}

// Name is the workload's.
func (c Cycle) Name() string { return fmt.Sprintf("soak-%d", c.N) }

func (c Cycle) String() string {
	s := fmt.Sprintf("cycle %d: %s, %s, %s", c.N, c.Isolation, c.Program, c.Strike)
	if c.Fault == Clock {
		s += " by " + c.Jump.String()
	}
	return s + fmt.Sprintf(", cpu %d, memory %d MiB, disk %d MiB, %d processes, %d files, %d secrets, health %q, network %t",
		c.CPU, c.Memory>>20, c.Disk>>20, c.PIDs, c.Files, c.Secrets, c.Health, c.Network)
}

// Job tells whether the workload is over once it has run.
func (c Cycle) Job() bool { return c.Program == Exit || c.Program == Hog || c.Program == Fill }

// Draw is the nth cycle, from 0, of a seed: the same for ever.
func Draw(seed uint64, isolation string, n int) Cycle {
	strikes := Strikes(isolation)
	round, at := uint64(n/len(strikes)), n%len(strikes)
	order := rand.New(rand.NewPCG(seed, round<<1|1)).Perm(len(strikes))
	r := rand.New(rand.NewPCG(seed, uint64(n)<<1))
	c := Cycle{
		N: n, Isolation: isolation, Strike: strikes[order[at]],
		Code: 1 + r.IntN(120), Jump: []time.Duration{24 * time.Hour, -24 * time.Hour, 90 * time.Second, -90 * time.Second}[r.IntN(4)],
		CPU: 300 + r.Uint64N(8)*100, Memory: (24 + r.Uint64N(5)*8) << 20, Disk: (64 + r.Uint64N(3)*16) << 20, PIDs: 32 + r.Uint64N(64),
		Files: r.IntN(4), Secrets: r.IntN(4), Network: r.IntN(4) == 0,
	}
	c.Health = []string{"", "", plan.CheckHTTP, plan.CheckTCP}[r.IntN(4)]
	programs := []Program{Serve, Serve, Serve, Stubborn, Crash, Exit, Hog, Fill}
	if isolation == plan.IsolationMicroVM {
		programs = []Program{Serve} // a nested machine takes its time to start
	}
	c.Program = programs[r.IntN(len(programs))]
	switch {
	case c.Moment == Waiting:
		c.Program, c.Health = Crash, ""
	case c.Moment == Ending, c.Moment == Stopping && isolation == plan.IsolationNamespace:
		c.Program = Stubborn
	case c.Moment == Ready:
		c.Program = Serve
		if c.Health == "" {
			c.Health = plan.CheckHTTP
		}
	case c.Moment == Running || c.Fault == Init:
		c.Program = Serve // a job may be over before it is seen
	}
	if c.Job() || c.Program == Crash {
		c.Health = ""
	}
	return c
}
