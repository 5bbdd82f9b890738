// Package life says in a shim's terms what a plan says of a workload's life and
// limits, for every kind that shims keep running. It is apart from package shim,
// which must stay small and knows no plans.
package life

import (
	"time"

	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/shim"
)

// Of translates the life of a valid plan.
func Of(l plan.Life) shim.Life {
	out := shim.Life{
		Restart: l.Restart, Attempts: int(l.Attempts), Deadline: time.Duration(l.Deadline) * time.Second,
		Signal: int(l.Signal), Grace: time.Duration(l.Grace) * time.Second,
	}
	if h := l.Health; h != nil {
		out.Health = &shim.Health{
			Probe:    control.Probe{Kind: h.Kind, Args: h.Args, Port: h.Port, Path: h.Path, Timeout: int64(h.Timeout)},
			Interval: time.Duration(h.Interval) * time.Millisecond, Retries: int(h.Retries), Start: time.Duration(h.Start) * time.Millisecond,
		}
	}
	return out
}

// Limits are those that can change while a workload runs.
func Limits(r plan.Resources) control.Limits {
	return control.Limits{CPU: r.CPU, Memory: r.Memory, PIDs: r.PIDs}
}
