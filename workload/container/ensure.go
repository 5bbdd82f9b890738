package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/shim"
)

// settle is how long Ensure waits for a fresh shim to tell how the first start
// went. A start that takes longer, because files are being fetched, goes on.
const settle = 30 * time.Second

// Ensure implements workload.Kind. It returns nil once a shim looks after the
// workload, or its restart policy is satisfied; Observe tells how it goes from
// there. A first start that fails while Ensure looks on is its error.
func (k *Kind) Ensure(ctx context.Context, d workload.Desired) error {
	c, err := k.form.Decode(d)
	if err != nil {
		return err
	}
	if err := k.ensure(ctx, d, c); err != nil {
		return fmt.Errorf("ensure %s %s of contract %s: %w", k.form.Noun(), d.ID.Name, d.ID.Contract.Short(), err)
	}
	return nil
}

func (k *Kind) ensure(ctx context.Context, d workload.Desired, c Parts) error {
	if c.machine() && k.cfg.Machines == nil {
		return noMachines()
	}
	p := k.place(d.ID)
	want, core, err := digests(d.Plan, c)
	if err != nil {
		return err
	}
	rec, err := readRecord(p)
	known := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		if written, lerr := hasLayers(p); lerr != nil || written {
			return errors.Join(fmt.Errorf("its record is damaged, and what it has written is left alone: remove the workload to start afresh: %w", err), lerr)
		}
		k.cfg.Log.Warn("container record is damaged: starting afresh", "workload", p.key, "error", err)
	}
	if len(c.Networks) > 0 && (k.cfg.Networks == nil || c.machine() && k.cfg.Machines.Networks == nil) {
		return problem.New(CodeInvalid, "it wants %d networks, and this node has none", len(c.Networks))
	}
	if known && rec.Plan != want && rec.Core == core {
		live := k.stayOver(c, p, rec, want)
		if !live {
			if live, err = k.adapt(ctx, d, c, p, rec, want); err != nil {
				return err
			}
		}
		if live {
			rec.Plan, rec.Disk = want, max(rec.Disk, d.Plan.Resources.Disk)
		}
	}
	if known && k.stands(ctx, p, rec, want) && k.mend(ctx, d, c, p) {
		return k.setVersion(p, rec, want, core, d.Version)
	}
	// Whatever runs is something else, or half of something.
	if err := k.end(ctx, p); err != nil {
		return err
	}
	rec, err = k.prepareData(p, rec, known, record{
		Version: d.Version, Plan: want, Core: core, Flist: c.Flist, Disk: d.Plan.Resources.Disk, Networks: len(c.Networks) > 0, Isolation: c.Isolation,
		Damages: k.cfg.Rootfs.Damages(),
	})
	if err != nil {
		return err
	}
	r := &Run{Kind: k, Desired: d, Parts: c, place: p, rec: rec, want: want}
	if err := r.prepare(ctx); err != nil {
		return errors.Join(err, k.end(context.WithoutCancel(ctx), p))
	}
	return k.launch(ctx, p, c.Flist)
}

// stands tells whether the workload with this plan is looked after, or over. A
// container without a shim gets a new one, which adopts it. One that has failed, and
// whose mount may hold damaged files that were removed since, does not stand.
func (k *Kind) stands(ctx context.Context, p place, rec record, want string) bool {
	var final shim.Status
	if shim.ReadJSON(p.final, &final) == nil && final.Plan == want {
		return true
	}
	spec, err := shim.ReadSpec(p.run)
	if err != nil || spec.Plan != want {
		return false
	}
	if shim.Alive(p.run) {
		// One that an Ensure before was killed over has not been told yet.
		st, err := shim.ReadStatus(p.run)
		if err == nil && (st.State == shim.Waiting || st.State == shim.Exhausted) && rec.Damages != k.cfg.Rootfs.Damages() {
			k.cfg.Log.Warn("it failed, and damaged files were removed since it was mounted: starting it anew", "workload", p.key, "reason", st.Detail)
			return false
		}
		return err != nil || st.Plan == want || k.reload(ctx, p)
	}
	st, err := shim.ReadStatus(p.run)
	if err != nil || st.State == shim.Stopping || st.State == shim.Stopped {
		return false
	}
	if ok, err := mounted(p.rootfs); err != nil || !ok {
		return false
	}
	k.cfg.Log.Warn("shim is gone: starting another that adopts its container", "workload", p.key, "shim", st.Shim.PID)
	if err := shim.Launch(k.cfg.Shim, p.run, k.shims); err != nil {
		k.cfg.Log.Warn("start adopting shim", "workload", p.key, "error", err)
		return false
	}
	wait, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	_, err = shim.Await(wait, p.run, func(now shim.Status) bool { return now.Shim != st.Shim })
	return err == nil
}

// mend makes a container that stands reach its networks again, if it does not. It
// returns false if that needs a new start: the namespace that it runs in can't be
// found any more.
func (k *Kind) mend(ctx context.Context, d workload.Desired, c Parts, p place) bool {
	if len(c.Networks) == 0 {
		return true
	}
	if _, err := os.Stat(p.final); err == nil {
		return true // it has ended, and its namespace with it
	}
	if err := k.cfg.Networks.Attached(p.id); err == nil {
		return true
	} else if errors.Is(err, fs.ErrNotExist) {
		k.cfg.Log.Warn("a container's network namespace is gone: starting it anew", "workload", p.key, "error", err)
		return false
	}
	if err := k.attachAgain(ctx, d, c); err != nil {
		k.cfg.Log.Warn("attach a running container to its networks again", "workload", p.key, "error", err)
	}
	return true
}

// setVersion notes the version and the plan that what runs is by.
func (k *Kind) setVersion(p place, rec record, want, core string, version uint64) error {
	old, err := readRecord(p)
	rec.Plan, rec.Core, rec.Version = want, core, version
	if err == nil && rec == old {
		return nil
	}
	return writeRecord(p, rec)
}

// prepareData makes the workload's directory on the data disk what next says,
// keeping the range of user ids, and the writable layer if it may be kept.
func (k *Kind) prepareData(p place, old record, known bool, next record) (record, error) {
	if err := os.Remove(p.final); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return record{}, fmt.Errorf("forget how it ended: %w", err)
	}
	// What a guest has written the node's kernel never reads, and the reverse has
	// another layout: another class starts with an empty layer.
	if !known || old.Flist != next.Flist || old.Disk > next.Disk || old.class() != next.class() {
		// The record still names the old flist until the layer is gone.
		if err := removeLayers(p); err != nil {
			return record{}, err
		}
	}
	if !known {
		return k.allot(p, next)
	}
	next.IDBase = old.IDBase
	return next, writeRecord(p, next)
}

// launch starts the shim and waits until the container runs, is over, or has
// failed to start.
func (k *Kind) launch(ctx context.Context, p place, flist canon.Hash) error {
	if err := shim.Launch(k.cfg.Shim, p.run, k.shims); err != nil {
		return problem.New(shim.ReasonStart, "%w", err)
	}
	wait, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	st, err := shim.Await(wait, p.run, func(s shim.Status) bool { return s.State != shim.Starting })
	if err != nil {
		if wait.Err() != nil && ctx.Err() == nil && shim.Alive(p.run) {
			return nil // it is still at it
		}
		return problem.New(shim.ReasonStart, "%w", err)
	}
	if st.State == shim.Waiting && st.Reason == shim.ReasonStart {
		code, detail := k.reason(flist, st)
		return problem.New(code, "%s", detail)
	}
	return nil
}

// reason is why a container is not running. When its files could not be read, that
// comes before what the program made of it.
func (k *Kind) reason(flist canon.Hash, st shim.Status) (code, detail string) {
	if st.Reason == shim.ReasonStart || st.Reason == shim.ReasonExited && st.Exit.Code != 0 {
		code, detail := k.cfg.Rootfs.Failure(flist)
		if code == "" {
			code, detail = k.cfg.Rootfs.Damage(flist, st.Started)
		}
		if code != "" {
			return code, detail + " (" + st.Detail + ")"
		}
	}
	return st.Reason, st.Detail
}
