package container

import (
	"context"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/life"
	"github.com/zero-os/zos/workload/shim"
)

// digests returns the digest of a workload's plan, and that of the part of it which
// only a new start can change: all but its limits, its life, and its place among the
// other workloads.
func digests(w plan.Workload, c Parts) (whole, core string, err error) {
	b, err := canon.Marshal(w)
	if err != nil {
		return "", "", fmt.Errorf("encode plan: %w", err)
	}
	w.Config, w.Set, w.After = c.Core, "", nil
	if c.machine() {
		// A guest has its memory and its processors for good.
		w.Resources.CPU = uint64(processors(w.Resources.CPU))
	} else {
		w.Resources = plan.Resources{}
	}
	fixed, err := canon.Marshal(w)
	if err != nil {
		return "", "", fmt.Errorf("encode plan: %w", err)
	}
	return canon.Sum(b).String(), canon.Sum(fixed).String(), nil
}

// adapt makes what runs live by a plan that differs from its own in nothing that
// needs a new start. It returns false if that can't be done. Broken off anywhere,
// it is done again by the next Ensure. An error leaves what runs as it was.
func (k *Kind) adapt(ctx context.Context, d workload.Desired, c Parts, p place, rec record, want string) (bool, error) {
	spec, err := shim.ReadSpec(p.run)
	if err != nil || d.Plan.Resources.Disk < rec.Disk {
		return false, nil
	}
	st, err := shim.ReadStatus(p.run)
	if err != nil || st.State == shim.Exhausted || st.State == shim.Over || st.State == shim.Stopping || st.State == shim.Stopped {
		return false, nil // a new version is a new chance
	}
	var config specs.Spec
	if err := shim.ReadJSON(p.config, &config); err != nil || config.Linux == nil || config.Linux.Resources == nil {
		return false, nil
	}
	if !c.machine() {
		limit(config.Linux.Resources, d.Plan.Resources)
	}
	if d.Plan.Resources.Disk > rec.Disk {
		if ok, err := mounted(p.disk); err != nil || !ok {
			return false, err
		}
		if err := k.growDisk(p.image, p.disk, d.Plan.Resources.Disk); problem.Code(err) == codeDiskFull {
			return false, err // a new start would find no more room, and have ended what runs
		} else if err != nil {
			k.cfg.Log.Warn("grow the disk of what runs", "workload", p.key, "error", err)
			return false, nil
		}
	}
	spec.Plan, spec.Life, spec.Limits = want, k.life(c), life.Limits(d.Plan.Resources)
	if err := shim.WriteJSON(p.config, config); err != nil {
		return false, nil
	}
	if err := shim.WriteSpec(p.run, spec); err != nil {
		return false, nil
	}
	// One that died meanwhile is replaced, and the next one reads what is written.
	if shim.Alive(p.run) && !k.reload(ctx, p) && shim.Alive(p.run) {
		return false, nil
	}
	k.cfg.Log.Info("a new version changes what runs without a new start", "workload", p.key)
	return true, nil
}

// stayOver makes the end of a workload that is over that of the plan want, which
// differs from its own in nothing that needs a new start. It returns false if none is
// over, or the new life wants it to run. The record, which the caller writes, follows.
func (k *Kind) stayOver(c Parts, p place, rec record, want string) bool {
	var final shim.Status
	if shim.ReadJSON(p.final, &final) != nil || final.Plan != rec.Plan || !final.Done(k.life(c)) {
		return false
	}
	final.Plan = want
	return shim.WriteJSON(p.final, final) == nil
}

// reload tells a shim that its spec has changed; false if what runs needs a new start.
func (k *Kind) reload(ctx context.Context, p place) bool {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	conn, err := shim.Dial(ctx, p.run)
	if err == nil {
		var code int
		code, err = control.Ask(ctx, conn, control.Request{Verb: control.VerbReload}, nil)
		if err == nil {
			return code == 0
		}
	}
	k.cfg.Log.Warn("a shim does not take a new version", "workload", p.key, "error", err)
	return false
}

// life is the plan's; the configured grace, which only tests set, comes before it.
func (k *Kind) life(c Parts) shim.Life {
	l := life.Of(c.Life)
	if k.cfg.Grace > 0 {
		l.Grace = k.cfg.Grace
	}
	return l
}

// limit sets the limits of a container that isn't started yet.
func limit(l *specs.LinuxResources, r plan.Resources) {
	memory, pids := int64(r.Memory), int64(r.PIDs)
	l.Memory = &specs.LinuxMemory{Limit: &memory, Swap: &memory} // together: no swap
	l.Pids = &specs.LinuxPids{Limit: &pids}
}
