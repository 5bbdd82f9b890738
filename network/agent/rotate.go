package agent

import (
	"context"
	"slices"
	"time"
)

// rotate makes the device of a new epoch when its time has come, and closes the
// one before when it is not needed any more. It returns when it is due again.
// t.mu is held.
func (t *tenant) rotate(ctx context.Context, now time.Time) time.Time {
	next := now.Add(idle)
	if t.rotating || !t.begun {
		return next
	}
	epoch := t.epochs.at(now)
	if t.wanted > epoch && t.epochs.early(t.wanted, now) {
		epoch = t.wanted
	}
	newest := t.newest()
	if newest == nil || newest.epoch < epoch {
		if now.Before(t.retryAt) {
			return t.retryAt
		}
		// A device of two epochs ago has the new one's name.
		old := slices.Clone(t.devices[:max(len(t.devices)-1, 0)])
		t.rotating = true
		t.agent.work.Go(func() { t.turn(ctx, epoch, old) })
		return next
	}
	if at := t.epochs.begin(newest.epoch + 1); at.Before(next) {
		next = at
	}
	if len(t.devices) < 2 {
		return next
	}
	p := t.agent.cfg.Periods
	// The overlap of a device that was made late is not shorter for that.
	begin := t.epochs.begin(newest.epoch)
	if newest.since.After(begin) {
		begin = newest.since
	}
	end := begin.Add(p.Overlap)
	if !t.movedAt.IsZero() {
		// This node has moved to the newer device. Others may be later: as long as
		// they send by the older one, it stays.
		quiet := t.movedAt
		for _, d := range t.devices[:len(t.devices)-1] {
			if d.heardAt.After(quiet) {
				quiet = d.heardAt
			}
		}
		if quiet = quiet.Add(p.Linger); quiet.Before(end) {
			end = quiet
		}
	}
	if now.Before(end) {
		if end.Before(next) {
			next = end
		}
		return next
	}
	old := slices.Clone(t.devices[:len(t.devices)-1])
	t.rotating = true
	t.agent.work.Go(func() { t.turn(ctx, 0, old) })
	return next
}

// replace makes a device anew that ceased to answer: somebody deleted it. t.mu is
// held.
func (t *tenant) replace(ctx context.Context, d *device, now time.Time, err error) {
	if t.rotating || now.Before(t.retryAt) {
		return
	}
	t.retryAt = now.Add(time.Second)
	t.agent.log.Warn("a WireGuard device was lost, it is made again", "network", t.name, "interface", d.wg.Name(), "error", err)
	epoch := uint64(0)
	if d == t.newest() {
		epoch = d.epoch
	}
	t.rotating = true
	t.agent.work.Go(func() { t.turn(ctx, epoch, []*device{d}) })
}

// turn closes devices whose epoch is over, and makes that of a new one unless
// epoch is 0 or Ensure has made it. It runs in a goroutine of its own: both take
// time.
func (t *tenant) turn(ctx context.Context, epoch uint64, old []*device) {
	t.ensure.Lock()
	defer t.ensure.Unlock()
	defer t.agent.poke()
	defer func() {
		t.mu.Lock()
		t.rotating = false
		t.mu.Unlock()
	}()
	if t.ended() {
		return
	}
	t.retire(old)
	t.mu.Lock()
	newest := t.newest()
	t.mu.Unlock()
	if epoch == 0 || newest != nil && newest.epoch >= epoch {
		return
	}
	if err := t.create(ctx, epoch); err != nil {
		t.agent.log.Warn("change the key of a network", "network", t.name, "error", err)
		t.mu.Lock()
		t.retryAt = t.agent.cfg.Now().Add(time.Second)
		t.mu.Unlock()
	}
}

// retire closes devices; peers that had not moved yet have to.
func (t *tenant) retire(old []*device) {
	t.mu.Lock()
	closing := old[:0]
	for _, d := range old {
		i := slices.Index(t.devices, d)
		if i < 0 {
			continue
		}
		t.devices = slices.Delete(t.devices, i, i+1)
		d.unpublish()
		closing = append(closing, d)
		for _, p := range t.peers {
			if p.active == d {
				p.active = nil
			}
		}
	}
	if err := t.syncRoutes(); err != nil {
		t.agent.log.Warn("set the routes of a network", "network", t.name, "error", err)
	}
	t.mu.Unlock()
	for _, d := range closing {
		if err := d.wg.Close(); err != nil {
			t.agent.log.Warn("close the device of an old key", "network", t.name, "error", err)
		}
		t.agent.log.Info("an old key of a network is deleted", "network", t.name, "key_epoch", d.epoch)
	}
}

// takeOver makes links of the peers that an adopted device has: their sessions
// go on while new keys are agreed. Whose address ranges are not those of a node
// of the network is removed. t.mu is held.
func (d *device) takeOver(now time.Time) error {
	t := d.tenant
	stats, err := d.wg.Stats()
	if err != nil {
		return err
	}
	for _, s := range stats {
		var l *link
		for slot, p := range t.peers {
			if len(p.prefixes) > 0 && slices.Contains(s.AllowedIPs, p.prefixes[0]) && d.links[slot] != nil && d.links[slot].key.IsZero() {
				l = d.links[slot]
			}
		}
		if l == nil {
			if err := d.wg.RemovePeer(s.PublicKey); err != nil {
				return err
			}
			continue
		}
		l.key, l.ips = s.PublicKey, s.AllowedIPs
		l.installed, l.retriggers = now, maxRetriggers
		// Its preshared key is not known here, and its age neither: until the
		// exchange it stays; when something else must be set before that, it goes.
		secret(&l.psk)
		l.pskExpiry = now.Add(t.agent.cfg.Periods.MaxPSKAge)
		l.handshake, l.rx, l.tx = s.LastHandshake, s.RxBytes, s.TxBytes
		if !s.Relayed && s.Endpoint.IsValid() {
			l.path, l.adopted = s.Endpoint, now.Add(adoptedPath)
		}
	}
	d.index()
	return nil
}
