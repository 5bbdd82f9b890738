package agent

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network/path"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
)

// Status tells how a network is now, false if there is none of this id.
func (a *Agent) Status(id canon.Hash) (Status, bool) {
	t := a.tenant(id)
	if t == nil {
		return Status{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone {
		return Status{}, false
	}
	now := a.cfg.Now()
	s := Status{ID: t.id, Name: t.name}
	counts := map[*device]map[wireguard.Key]wireguard.PeerStats{}
	for _, d := range t.devices {
		s.KeyEpoch = d.epoch
		ds := DeviceStatus{
			Name: d.wg.Name(), Engine: d.wg.Engine(), KeyEpoch: d.epoch, PublicKey: d.wg.PublicKey(), Port: d.wg.Port(), Since: d.since,
		}
		for addr := range d.observed {
			ds.Observed = append(ds.Observed, addr)
		}
		slices.SortFunc(ds.Observed, netip.AddrPort.Compare)
		s.Devices = append(s.Devices, ds)
		counts[d] = map[wireguard.Key]wireguard.PeerStats{}
		stats, err := d.wg.Stats()
		if err != nil {
			continue // Ensure makes it again
		}
		for _, c := range stats {
			counts[d][c.PublicKey] = c
		}
	}
	for _, p := range t.peers {
		s.Peers = append(s.Peers, t.peerStatus(now, p, counts))
	}
	slices.SortFunc(s.Peers, func(a, b PeerStatus) int { return bytes.Compare(a.Slot[:], b.Slot[:]) })
	return s, true
}

func (t *tenant) peerStatus(now time.Time, p *peer, counts map[*device]map[wireguard.Key]wireguard.PeerStats) PeerStatus {
	s := PeerStatus{Slot: p.slot}
	used := p.active
	if used == nil {
		used = t.newest()
	}
	for _, d := range t.devices {
		l := d.links[p.slot]
		if l == nil {
			continue
		}
		c := counts[d][l.key]
		s.Received += c.RxBytes
		s.Sent += c.TxBytes
		if !l.theirs.ID.IsZero() {
			s.NewestEpoch, s.NewestKey = d.epoch, l.theirs.Key()
		}
		if d != used {
			continue
		}
		s.Device = d.wg.Name()
		if !l.key.IsZero() {
			s.Path = PathRelay
			if l.path.IsValid() {
				s.Path, s.Address = PathDirect, l.path
			}
			if l.machine != nil {
				if st, _, rtt := l.machine.State(); st == path.Direct {
					s.RTT = rtt
				}
			}
		}
		s.Handshake = c.LastHandshake
		if !s.Handshake.IsZero() {
			s.KeyEpoch = d.epoch
		}
		if !l.pskExpired {
			s.PSK = l.pskAt
		}
		if err := l.wrong(now, s.Handshake); err != nil {
			s.Code, s.Message = problem.Code(err), err.Error()
		}
	}
	return s
}

// wrong tells what is wrong with a peer now, nil if nothing.
func (l *link) wrong(now time.Time, handshake time.Time) error {
	var relay error
	if to := (*l.device.byKey.Load())[l.key]; to != nil && !l.path.IsValid() {
		if p := to.failed.Load(); p != nil {
			relay = *p
		}
	}
	name := l.slot.Short()
	switch {
	case l.pskExpired:
		return problem.New("psk-expired", "the keys with slot %s could not be renewed and are void", name)
	case l.failure != nil:
		return fmt.Errorf("agree keys with slot %s: %w", name, l.failure)
	case l.key.IsZero() && l.fails > remindFrames:
		return problem.New("peer-silent", "slot %s has not answered %d times", name, l.fails)
	case l.key.IsZero():
		return nil // it has just begun
	case relay != nil:
		return problem.New("relay-unreachable", "slot %s is reached through the relay only, and that fails: %w", name, relay)
	case handshake.IsZero() && now.Sub(l.installed) > awaitHandshake:
		return problem.New("peer-silent", "keys with slot %s are agreed, but it has not shaken hands", name)
	case !handshake.IsZero() && now.Sub(handshake) > silent && now.Sub(l.installed) > silent:
		return problem.New("peer-silent", "the last handshake with slot %s is %s old", name, now.Sub(handshake).Round(time.Second))
	}
	return nil
}
