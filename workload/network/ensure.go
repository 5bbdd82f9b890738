package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	fw "github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/linux/netns"
	netplan "github.com/zero-os/zos/network"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// CodeInvalid is the problem code of a plan that no node could run.
const CodeInvalid = "plan-invalid"

// Ensure implements workload.Kind. A router that is right already is not touched,
// and what differs is changed in place: connections that the new version allows
// live on.
func (k *Kind) Ensure(ctx context.Context, d workload.Desired) error {
	v, t, err := k.decode(d)
	if err == nil {
		err = k.ensure(ctx, d, v, t)
	}
	if err != nil {
		return fmt.Errorf("ensure network %s of contract %s: %w", d.ID.Name, d.ID.Contract.Short(), err)
	}
	return nil
}

// decode reads and checks a desired router. What it returns is safe to use.
func (k *Kind) decode(d workload.Desired) (View, netplan.Topology, error) {
	invalid := func(format string, args ...any) (View, netplan.Topology, error) {
		return View{}, netplan.Topology{}, problem.New(CodeInvalid, format, args...)
	}
	if !nameRE.MatchString(d.ID.Name) || d.Plan.Name != d.ID.Name || d.Plan.Kind != plan.KindNetwork {
		return invalid("workload %.63q is not one of kind %s, or not under its own name", d.ID.Name, plan.KindNetwork)
	}
	if d.Plan.Slot != k.cfg.Slot {
		return invalid("it is for slot %s, not for this node's", d.Plan.Slot.Short())
	}
	c, err := plan.DecodeNetworkConfig(d.Plan.Config)
	if err != nil {
		return invalid("read its configuration: %w", err)
	}
	if d.ID.Name != plan.RouterName(c.Network, k.cfg.Slot) {
		return invalid("the router of network %s here is named %s", c.Network, plan.RouterName(c.Network, k.cfg.Slot))
	}
	t, err := netplan.TopologyOf(d.ID.Contract, d.Deployment, c.Network, k.cfg.Slot)
	if err != nil {
		return View{}, t, err
	}
	v, err := ViewOf(d.Deployment, c.Network, k.cfg.Slot, k.cfg.MTU)
	return v, t, err
}

func (k *Kind) ensure(ctx context.Context, d workload.Desired, v View, t netplan.Topology) error {
	defer k.lock(d.ID)()
	old, err := k.readRecord(d.ID)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.cfg.Log.Warn("network record is damaged: making it anew", "network", d.ID.Name, "error", err)
	}
	ns, _, err := netns.Pin(k.path(routerPrefix, d.ID, ""))
	if err != nil {
		return err
	}
	defer ns.Close()
	if v.Egress() {
		// The number of a link is taken when the link is there: one at a time.
		k.linking.Lock()
		defer k.linking.Unlock()
		if v.Site, err = k.site(old.View.Site); err != nil {
			return err
		}
	}
	fd := int(ns.Fd())
	if err := shape(ctx, fd, v); err != nil {
		return err
	}
	if err := k.connect(ctx, fd, v); err != nil {
		return err
	}
	// Before the agent, which may take its time: workloads of this node reach each
	// other as soon as the router is there.
	if err := writeJSON(k.path(routerPrefix, d.ID, ".json"), record{Version: d.Version, View: v}); err != nil {
		return err
	}
	k.announce()
	inode, err := inodeOf(ns)
	if err != nil {
		return err
	}
	// What one of them lacks does not keep the others back.
	entered := k.enter(ctx, d.ID, fd, inode, v)
	if entered != nil {
		entered = fmt.Errorf("ensure the way in for devices: %w", entered)
	}
	err = k.cfg.Agent.Ensure(ctx, t, fd)
	if err != nil {
		err = fmt.Errorf("ensure the network's agent: %w", err)
	} else {
		err = k.serve(ctx, d, v, ns)
	}
	err = errors.Join(entered, err)
	if l := k.of(d.ID); l != nil {
		// The record says the new version already: without this nobody would come
		// back for the rest.
		l.partial.Store(err != nil)
	}
	return err
}

// lock takes the lock of a router; the result gives it back.
func (k *Kind) lock(id workload.ID) (unlock func()) {
	k.mu.Lock()
	l := k.locks[id]
	if l == nil {
		l = &sync.Mutex{}
		k.locks[id] = l
	}
	k.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// announce wakes those who wait for a router.
func (k *Kind) announce() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.changed)
	k.changed = make(chan struct{})
}

// Remove implements workload.Kind. Each step finds what the one before left by
// asking the kernel, so it may be broken off anywhere and called again.
func (k *Kind) Remove(ctx context.Context, id workload.ID) error {
	if err := k.remove(ctx, id); err != nil {
		return fmt.Errorf("remove network %s of contract %s: %w", id.Name, id.Contract.Short(), err)
	}
	return nil
}

func (k *Kind) remove(ctx context.Context, id workload.ID) error {
	defer k.lock(id)()
	if err := errors.Join(k.silence(id), k.leave(id, true)); err != nil {
		return err
	}
	if err := k.cfg.Agent.Remove(ctx, netplan.ID(id.Contract, networkOf(id))); err != nil {
		return fmt.Errorf("remove the network's agent: %w", err)
	}
	path := k.path(routerPrefix, id, "")
	ns, err := netns.Open(path)
	switch {
	case err == nil:
		err := errors.Join(dismantle(int(ns.Fd())), ns.Close())
		if err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := netns.Unpin(path); err != nil {
		return err
	}
	// Last: while it is there, Observe shows that something is left.
	for _, f := range []string{".json.tmp", ".json"} {
		if err := os.Remove(path + f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove record: %w", err)
		}
	}
	return nil
}

// networkOf is the network in the name of a router, which ends in "-" and eight
// digits of the slot.
func networkOf(router workload.ID) string {
	return router.Name[:max(0, len(router.Name)-len(plan.RouterName("", [32]byte{})))]
}

// verify compares everything of a router that can be asked cheaply.
func (k *Kind) verify(id workload.ID, r record) error {
	ns, err := netns.Open(k.path(routerPrefix, id, ""))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := k.verifyFilter(id, int(ns.Fd()), r.View); err != nil {
		return err
	}
	if r.View.Site.Link != 0 {
		now, err := k.site(r.View.Site)
		if err != nil {
			return err
		}
		if !equalSites(now, r.View.Site) {
			return errors.New("the node's own addresses have changed")
		}
	}
	if err := netns.Do(int(ns.Fd()), func() error { return present(r.View) }); err != nil || !r.View.Entry {
		return err
	}
	e := k.entryOf(id)
	if e == nil {
		return errors.New("the way in for devices is not looked after")
	}
	return k.entered(e, id, r.View, true)
}

// verifyFilter reads the whole filter only when it may have changed.
func (k *Kind) verifyFilter(id workload.ID, ns int, v View) error {
	generation, err := fw.Namespace(ns).Generation()
	if err != nil {
		return err
	}
	l := k.of(id)
	if l != nil && l.verified.Load() == generation {
		return nil
	}
	if err := fw.Namespace(ns).Verify(Tables(v)...); err != nil {
		return err
	}
	if l != nil {
		l.verified.Store(generation)
	}
	return nil
}
