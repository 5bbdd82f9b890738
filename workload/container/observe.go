package container

import (
	"context"
	"fmt"
	"time"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/machine"
	"github.com/zero-os/zos/workload/shim"
)

// steady is how long a container that was started again must run before it counts
// as running. Otherwise one that ends at once would be "running" and "failed" by
// turns, and every turn would be a receipt.
const steady = 5 * time.Second

// ReasonShimLost is the reason of a container that runs without its shim; the next
// Ensure gives it another.
const ReasonShimLost = "shim-lost"

// ReasonDetached is the reason of a container that runs and has not all of its
// networks; the next Ensure attaches it again.
const ReasonDetached = "network-detached"

// Observe implements workload.Kind. It looks at the data disk, the run directory,
// runc's state and the cgroup tree, so whatever part of a workload is left, it is
// found. It changes nothing and may run at any time.
func (k *Kind) Observe(ctx context.Context) (map[workload.ID]workload.Status, error) {
	stored, err := k.stored()
	if err != nil {
		return nil, err
	}
	out := map[workload.ID]workload.Status{}
	for _, id := range stored {
		out[id] = workload.Status{}
	}
	groups, err := cgroup.At(k.cfg.CgroupParent).Children()
	if err != nil {
		return nil, err
	}
	keys := groups
	for _, dir := range []string{k.cfg.Run, k.cfg.RuncRoot} {
		ents, err := readDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range ents {
			keys = append(keys, e.Name())
		}
	}
	for _, key := range keys {
		if id, err := parseKey(key); err == nil {
			out[id] = workload.Status{}
		}
	}
	if k.cfg.Networks != nil {
		attached, err := k.cfg.Networks.List()
		if err != nil {
			return nil, err
		}
		for _, id := range attached {
			out[id] = workload.Status{}
		}
	}
	for id := range out {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("observe workloads: %w", err)
		}
		out[id] = k.look(id)
	}
	return out, nil
}

// look is the status of one workload of which something is there.
func (k *Kind) look(id workload.ID) workload.Status {
	p := k.place(id)
	rec, err := readRecord(p)
	if err != nil {
		return workload.Status{State: contract.StatePending, Detail: "remnants only"}
	}
	base := workload.Status{State: contract.StatePending, Version: rec.Version, Verity: rec.Verity, Isolation: rec.class()}
	alive := shim.Alive(p.run)
	st, err := shim.ReadStatus(p.run)
	if err != nil || st.Plan != rec.Plan {
		var final shim.Status
		if shim.ReadJSON(p.final, &final) == nil && final.Plan == rec.Plan {
			return k.ended(base, rec, final)
		}
		base.Detail = "not started"
		if alive {
			base.Detail = "starting"
		}
		return base
	}
	base.Restarts = uint64(max(0, st.Restarts))
	running := st.State == shim.Running && st.Process.Alive()
	switch {
	case alive && running && st.Restarts == 0 && shim.Entering(st.Process.PID):
		// runc has left, and the kernel waits for the program's file.
		base.Detail = "waiting for its program to be fetched"
		if code, detail := k.cfg.Rootfs.Failure(rec.Flist); code != "" {
			base.State, base.Reason, base.Detail = contract.StateFailed, code, detail
		}
	case st.State == shim.Over:
		return k.ended(base, rec, st)
	case st.State == shim.Exhausted:
		base.State, base.ExitCode, base.Reason = contract.StateFailed, st.Exit.Code, shim.ReasonAttempts
		code, detail := k.reason(rec.Flist, st)
		base.Detail = fmt.Sprintf("%d starts in a row failed, the last one by %s: %s", st.Failures, code, detail)
	case !alive && running:
		base.Reason, base.Detail = ReasonShimLost, "the container runs, its shim has died and will be replaced"
	case !alive:
		base.Reason, base.Detail = ReasonShimLost, "the shim has died and will be replaced"
	case running && st.Restarts > 0 && (time.Since(st.Started) < steady || shim.Entering(st.Process.PID)), st.State == shim.Waiting, st.State == shim.Starting && st.Restarts > 0:
		base.State, base.ExitCode = contract.StateFailed, st.Exit.Code
		base.Reason, base.Detail = k.reason(rec.Flist, st)
	case running:
		base.State, base.Ready = contract.StateRunning, st.Ready(time.Now())
		if st.Checked && !base.Ready {
			base.Detail = "its health check has not passed"
		}
		if rec.Networks && k.cfg.Networks != nil {
			if err := k.cfg.Networks.Attached(id); err != nil {
				base.State, base.Reason, base.Detail, base.Ready = contract.StatePending, ReasonDetached, err.Error(), false
			}
		}
		if machine.Stalled(p.run) {
			base.State, base.Reason, base.Ready = contract.StateFailed, shim.ReasonDiskFull, false
			base.Detail = "the machine wrote more than its disk limit, and waits, paused; give it a larger disk, or restart it to make room"
		}
	case st.State == shim.Running:
		base.Detail = "has just ended"
	case st.State == shim.Starting:
		base.Detail = "starting"
		if code, detail := k.cfg.Rootfs.Failure(rec.Flist); code != "" {
			base.State, base.Reason, base.Detail = contract.StateFailed, code, detail
		}
	case st.State == shim.Ending:
		base.Detail = "being ended: " + st.Cause
	default:
		base.Detail = "stopping"
	}
	return base
}

// ended is the status of a container whose restart policy is satisfied.
func (k *Kind) ended(base workload.Status, rec record, st shim.Status) workload.Status {
	base.State, base.ExitCode, base.Ready = contract.StateExited, st.Exit.Code, st.Ready(time.Now())
	base.Reason, base.Detail = k.reason(rec.Flist, st)
	return base
}
