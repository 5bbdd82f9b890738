package yield

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/zero-os/zos/linux/cgroup"
)

// When a workload yields: it used this part of what it may, from one look to the next,
// and until it has used less than the other part in so many looks.
const (
	every = 500 * time.Millisecond
	busy  = 0.7
	calm  = 0.5
	looks = 6
)

// Watch decides about the cgroups directly below one.
type Watch struct {
	parent cgroup.Group
	known  map[string]group
	cores  float64
}

// New watches the groups below parent, those that have a limit of processor time.
func New(parent cgroup.Group) *Watch {
	return &Watch{parent: parent, known: map[string]group{}, cores: float64(runtime.NumCPU())}
}

// group is what is known of one.
type group struct {
	used  uint64 // microseconds of processor time, since it was made
	at    time.Time
	state state
}

// state is whether it yields, and in how many looks it was calm.
type state struct {
	yields bool
	calm   int
}

// next is the state after a look in which it used this part of what it may.
func (s state) next(part float64) state {
	switch {
	case part >= busy:
		return state{yields: true}
	case !s.yields:
		return state{}
	case part >= calm:
		return state{yields: true}
	case s.calm+1 >= looks:
		return state{}
	}
	return state{yields: true, calm: s.calm + 1}
}

// Look decides anew. A group that ends meanwhile is no error.
func (w *Watch) Look(now time.Time) error {
	names, err := w.parent.Children()
	if err != nil {
		return err
	}
	seen := map[string]group{}
	var errs []error
	for _, name := range names {
		g := cgroup.Group(filepath.Join(string(w.parent), name))
		limit, ok := w.limit(g)
		if !ok {
			continue
		}
		is := group{used: g.Event("cpu.stat", "usage_usec"), at: now, state: state{yields: g.Idle()}}
		was, known := w.known[name]
		switch {
		case known && is.used >= was.used && is.state.yields == was.state.yields && now.After(was.at):
			is.state = was.state.next(float64(is.used-was.used) / float64(now.Sub(was.at).Microseconds()) / limit)
			if is.state.yields == was.state.yields {
				break
			}
			if err := g.SetIdle(is.state.yields); err != nil {
				errs = append(errs, err)
				continue
			}
		case is.state.yields: // made so by an earlier watch, which ended with its daemon
			is.state.calm = looks - 1
		}
		seen[name] = is
	}
	w.known = seen
	return errors.Join(errs...)
}

// limit is how many processors the group may use; false: it has no limit of its own.
func (w *Watch) limit(g cgroup.Group) (float64, bool) {
	s, err := g.Read("cpu.max")
	if err != nil {
		return 0, false
	}
	var quota, period float64
	if n, _ := fmt.Sscan(strings.TrimSpace(s), &quota, &period); n != 2 || quota <= 0 || period <= 0 {
		return 0, false
	}
	return min(quota/period, w.cores), true
}

// Run looks twice a second until ctx ends. An error of a look goes to problem.
func Run(ctx context.Context, parent cgroup.Group, problem func(error)) error {
	w := New(parent)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			if err := w.Look(now); err != nil {
				problem(err)
			}
		}
	}
}
