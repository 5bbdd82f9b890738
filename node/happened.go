package node

import (
	"context"
	"sync"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/events"
	"github.com/zero-os/zos/workload/shim"
)

// happened lists what a change of a workload's status tells.
func happened(before, now workload.Status) []events.Event {
	var out []events.Event
	add := func(kind string) {
		out = append(out, events.Event{Kind: kind, Version: now.Version, Reason: now.Reason, Detail: now.Detail})
	}
	if now.Reason == codeReturned && before.Reason != codeReturned {
		add(events.Returned)
	}
	if now.Reason == codeWaiting && (before.Reason != codeWaiting || before.Detail != now.Detail) {
		add(events.Waiting)
	}
	changed := before.State != now.State || before.Version != now.Version
	switch now.State {
	case contract.StateRunning:
		if before.Version != 0 && before.Version != now.Version && before.Reason != codeReturned && now.Reason != codeReturned {
			add(events.Updated)
		} else if changed && before.State != contract.StateRunning {
			add(events.Started)
		} else if now.Restarts > before.Restarts {
			add(events.Restarted)
		}
		if before.Ready && !now.Ready && !changed {
			add(events.Unhealthy)
		}
	case contract.StateExited:
		if changed {
			add(events.Exited)
		}
	case contract.StateFailed:
		if changed || before.Reason != now.Reason || now.Restarts > before.Restarts {
			switch now.Reason {
			case shim.ReasonOOM:
				add(events.OOM)
			case shim.ReasonUnhealthy:
				add(events.Unhealthy)
			default:
				add(events.Failed)
			}
		}
	case contract.StateGone:
		if changed {
			add(events.Gone)
		}
	}
	if now.Ready && (!before.Ready || changed) {
		add(events.Ready)
	}
	for i := range out {
		if out[i].Kind == events.Exited || out[i].Kind == events.Failed || out[i].Kind == events.OOM {
			out[i].Code = int64(now.ExitCode)
		}
	}
	return out
}

// diary writes what happens to workloads into their rings. It must not block long: a
// ring is a file.
type diary struct {
	book *events.Book
	warn func(error)

	mu   sync.Mutex
	last map[workload.ID]workload.Status
	// known are the contracts that are believed: others' rings are not made again.
	known map[string]bool
}

func newDiary(dir string, warn func(error)) *diary {
	return &diary{book: events.Open(dir), warn: warn, last: map[workload.ID]workload.Status{}}
}

// keep says which contracts are believed, and forgets what happened in others.
func (d *diary) keep(contracts []canon.Hash) {
	known := make(map[string]bool, len(contracts))
	for _, id := range contracts {
		known[id.String()] = true
	}
	d.mu.Lock()
	d.known = known
	d.mu.Unlock()
	if err := d.book.Forget(func(id string) bool { return known[id] }); err != nil {
		d.warn(err)
	}
}

// changed takes a new status. The first one of a workload after the daemon's start is
// compared with what the ring says that it was.
func (d *diary) changed(id workload.ID, before, now workload.Status) {
	d.mu.Lock()
	if before == (workload.Status{}) {
		if _, seen := d.last[id]; !seen {
			before = d.recall(id)
		}
	}
	if d.last[id] = now; now.State == contract.StateGone {
		delete(d.last, id)
	}
	d.mu.Unlock()
	for _, e := range happened(before, now) {
		d.add(id, e)
	}
}

func (d *diary) add(id workload.ID, e events.Event) {
	d.mu.Lock()
	known := d.known[id.Contract.String()]
	d.mu.Unlock()
	if !known {
		return
	}
	if err := d.book.Add(id, e); err != nil {
		d.warn(err)
	}
}

// recall makes of the newest events what the status was when they were written.
func (d *diary) recall(id workload.ID) workload.Status {
	var s workload.Status
	for from := uint64(1); ; {
		list, next, err := d.book.Read(id, from, 256)
		if err != nil || next == from {
			return s
		}
		from = next
		for _, e := range list {
			switch e.Kind {
			case events.Started, events.Updated, events.Restarted:
				s = workload.Status{State: contract.StateRunning, Version: e.Version}
			case events.Ready:
				if s.Ready = true; s.State == "" {
					s.State, s.Version = contract.StateRunning, e.Version
				}
			case events.Unhealthy:
				s.Ready = false
			case events.Returned:
				s.Version = e.Version
			case events.Exited:
				s = workload.Status{State: contract.StateExited, Version: e.Version, Ready: s.Ready && e.Code == 0}
			case events.Failed, events.OOM:
				s = workload.Status{State: contract.StateFailed, Version: e.Version}
			case events.Gone:
				s = workload.Status{}
			default:
				continue
			}
			s.Reason, s.Detail = e.Reason, e.Detail
		}
	}
}

// events sends what happened to workloads, and follows it if asked to.
func (n *Node) events(ctx context.Context, q bus.Query, send func([]byte) error) error {
	p, err := protocol.DecodeEventsParams(q.Params)
	if err != nil {
		return err
	}
	names, err := n.named(q.Contract, p.Workload)
	if err != nil {
		return err
	}
	var mu sync.Mutex // of send
	tell := func(name string, list []events.Event) error {
		var chunk protocol.EventChunk
		for _, e := range list {
			if e.Time.UnixNano() >= p.Since {
				chunk.Events = append(chunk.Events, shown(name, e))
			}
		}
		if len(chunk.Events) == 0 {
			return nil
		}
		b, err := canon.Marshal(chunk)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		return send(b)
	}
	next := map[string]uint64{}
	for _, name := range names {
		from := uint64(1)
		if p.Workload != "" {
			from = max(1, p.After+1)
		}
		for {
			list, after, err := n.diary.book.Read(workload.ID{Contract: q.Contract, Name: name}, from, protocol.MaxEvents)
			if err != nil {
				return err
			}
			if after == from {
				break
			}
			if from = after; ctx.Err() != nil {
				return ctx.Err()
			}
			if err := tell(name, list); err != nil {
				return err
			}
		}
		next[name] = from
	}
	if !p.Follow {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for _, name := range names {
		all.Go(func() {
			for e, err := range n.diary.book.Follow(ctx, workload.ID{Contract: q.Contract, Name: name}, next[name]) {
				if err == nil {
					err = tell(name, []events.Event{e})
				}
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// shown is an event as it travels.
func shown(name string, e events.Event) protocol.Event {
	out := protocol.Event{
		Workload: name, Sequence: e.Sequence, Time: e.Time.UnixNano(), Kind: e.Kind, Version: e.Version, Reason: e.Reason,
		Detail: e.Detail, Code: e.Code, Who: e.Who, Argv: e.Argv,
	}
	if e.Request != "" {
		out.Request, _ = canon.ParseHash(e.Request) // checked when it was read
	}
	return out
}
