package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
)

// Config is what a Kind works with. All paths are absolute.
type Config struct {
	Run     string // directory in memory; "" means /run/zos/gateway
	Data    string // directory on the data disk, e.g. /data/gateways
	Netns   string // where the public namespace is pinned; "" means /run/zos/netns/public
	Program string // "" means /bin/zos-gateway
	Cgroup  string // of the process; "" means none
	Memory  uint64 // bytes that the process may take; 0 means 512 MiB
	UID     int    // of the process, user and group; 0 means 64001
	// Host is a descriptor of the node's own network namespace, needed only during
	// New; 0 means that of the calling thread.
	Host int
	// Networks attaches gateways to their networks; it knows of nothing else.
	Networks container.Networks
	Facts    Facts
	Store    Store // what gateways of a contract share; nil: they share nothing
	// Challenges answers authorities under the grid's domain; nil: nobody does.
	Challenges Challenges
	// Resolve finds addresses for the process, which has no name server; nil: none.
	Resolve  func(ctx context.Context, host string) ([]netip.Addr, error)
	LogBound int64         // bytes of an access log; 0 means logs.DefaultBound
	Every    time.Duration // how often everything is looked at; 0 means 2 s
	Drain    time.Duration // how long connections of a removed gateway may last; 0 means 35 s
	Log      *slog.Logger
}

// Kind runs workloads of kind "gateway". It implements workload.Kind. Run must
// run for anything to be served.
type Kind struct {
	cfg     Config
	public  *public
	running sync.WaitGroup // connections to the process
	reaping sync.WaitGroup // processes of this daemon
	rings   rings
	notes   *rate.Limiter // of the process, in the node's log

	kick   chan struct{}
	silent int // times in a row that the process did not answer; of Run alone

	mu       sync.Mutex
	closed   bool
	entries  map[workload.ID]*entry
	asked    uint64        // changes of entries, counted
	served   uint64        // of which the process serves so many
	stepped  chan struct{} // closed and made anew after each step
	link     *link
	sent     string // digest of what the process was told
	zone     string // likewise
	live     bool   // the slot has public addresses
	publicly error  // why the public side is not as it should be
	down     error  // why the process does not serve
}

// entry is a gateway that is wanted.
type entry struct {
	d     workload.Desired
	g     plan.Gateway
	netns string
	since uint64 // value of asked when it was last changed
}

var _ workload.Kind = (*Kind)(nil)

// New makes the kind, with the gateways that an earlier daemon left. Close ends
// what it does; the process goes on.
func New(cfg Config) (*Kind, error) {
	defaults(&cfg)
	if cfg.Networks == nil || cfg.Facts == nil || cfg.Log == nil || !filepath.IsAbs(cfg.Data) || !filepath.IsAbs(cfg.Run) || !filepath.IsAbs(cfg.Netns) {
		return nil, errors.New("gateways: want Networks, Facts, a Log, and absolute paths")
	}
	for _, dir := range []string{filepath.Join(cfg.Run, "w"), cfg.Data} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("gateways: %w", err)
		}
	}
	host, err := hostNamespace(cfg.Host)
	if err != nil {
		return nil, fmt.Errorf("gateways: %w", err)
	}
	k := &Kind{
		cfg: cfg, public: &public{path: cfg.Netns, host: host}, kick: make(chan struct{}, 1),
		entries: map[workload.ID]*entry{}, stepped: make(chan struct{}), notes: rate.NewLimiter(noteRate, noteBurst),
	}
	k.rings.bound = cfg.LogBound
	if err := k.restore(); err != nil {
		return nil, errors.Join(err, host.Close())
	}
	return k, nil
}

func defaults(c *Config) {
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&c.Run, "/run/zos/gateway")
	set(&c.Netns, "/run/zos/netns/public")
	set(&c.Program, "/bin/zos-gateway")
	if c.Memory == 0 {
		c.Memory = 512 << 20
	}
	if c.UID == 0 {
		c.UID = 64001
	}
	if c.Every == 0 {
		c.Every = 2 * time.Second
	}
	if c.Drain == 0 {
		c.Drain = 35 * time.Second
	}
}

func hostNamespace(fd int) (*os.File, error) {
	if fd == 0 {
		return netns.Current()
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(own), "host"), nil
}

// restore takes up what an earlier daemon wrote down.
func (k *Kind) restore() error {
	ids, err := k.records()
	if err != nil {
		return fmt.Errorf("gateways: %w", err)
	}
	for _, id := range ids {
		r, err := k.readRecord(id)
		d, ok := r.desired(id)
		if err != nil || !ok || r.Netns == "" {
			continue // Observe shows it as a remnant, and it is ensured again
		}
		g, err := plan.DecodeGateway(d.Plan.Config)
		if err != nil {
			continue
		}
		k.entries[id] = &entry{d: d, g: g, netns: r.Netns}
	}
	return nil
}

// Close ends connections and goroutines of the kind, after Run has ended. What is
// served is served on.
func (k *Kind) Close() error {
	k.mu.Lock()
	k.closed = true
	l := k.link
	k.mu.Unlock()
	if l != nil {
		l.Close()
	}
	k.running.Wait()
	return errors.Join(k.rings.close(), k.public.host.Close())
}

func (k *Kind) isClosed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.closed
}

// Kick makes Run look at everything now: facts have changed.
func (k *Kind) Kick() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// LogDir returns the directory of a gateway's access log, for package logs.
func (k *Kind) LogDir(id workload.ID) string {
	return filepath.Join(k.cfg.Data, id.Contract.String(), id.Name, "log")
}

// Ensure implements workload.Kind. It returns nil once the process serves the
// gateway; that routes of it may not be served is no error.
func (k *Kind) Ensure(ctx context.Context, d workload.Desired) error {
	if err := k.ensure(ctx, d); err != nil {
		return fmt.Errorf("ensure gateway %s of contract %s: %w", d.ID.Name, d.ID.Contract.Short(), err)
	}
	return nil
}

func (k *Kind) ensure(ctx context.Context, d workload.Desired) error {
	if !nameRE.MatchString(d.ID.Name) || d.Deployment == nil {
		return problem.New("plan-invalid", "gateway %.63q: want a name and its plan", d.ID.Name)
	}
	g, err := plan.DecodeGateway(d.Plan.Config)
	if err != nil {
		return err
	}
	ns, err := k.cfg.Networks.Attach(ctx, d, g.Networks)
	if err != nil {
		return err
	}
	if err := k.rings.open(d.ID, k.LogDir(d.ID)); err != nil {
		return err
	}
	if err := k.writeRecord(d.ID, record{Version: d.Version, Plan: d.Deployment, Netns: ns.Path}); err != nil {
		return err
	}
	k.mu.Lock()
	k.asked++
	k.entries[d.ID] = &entry{d: d, g: g, netns: ns.Path, since: k.asked}
	want := k.asked
	k.mu.Unlock()
	k.Kick()
	return k.await(ctx, want)
}

// await waits until the process serves what was asked, or says why it does not.
func (k *Kind) await(ctx context.Context, want uint64) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		k.mu.Lock()
		done, stepped, err := k.served >= want, k.stepped, errors.Join(k.publicly, k.down)
		k.mu.Unlock()
		if done && err == nil {
			return nil
		}
		select {
		case <-stepped:
		case <-ctx.Done():
			if err == nil {
				err = problem.New(CodeDown, "wait for the gateway process: %w", context.Cause(ctx))
			}
			return err
		}
		k.mu.Lock()
		err = errors.Join(k.publicly, k.down)
		k.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// Observe implements workload.Kind.
func (k *Kind) Observe(context.Context) (map[workload.ID]workload.Status, error) {
	ids, err := k.records()
	if err != nil {
		return nil, err
	}
	attached, err := k.cfg.Networks.List()
	if err != nil {
		return nil, err
	}
	out := map[workload.ID]workload.Status{}
	for _, id := range append(ids, attached...) {
		out[id] = k.look(id)
	}
	return out, nil
}

// look is the status of one gateway of which something is there.
func (k *Kind) look(id workload.ID) workload.Status {
	k.mu.Lock()
	e, ok := k.entries[id]
	alive, served, live := k.link.alive(), k.served, k.live
	err := errors.Join(k.publicly, k.down)
	k.mu.Unlock()
	s := workload.Status{State: contract.StatePending}
	if !ok {
		s.Detail = "remnants only"
		return s
	}
	s.Version = e.d.Version
	if aerr := k.cfg.Networks.Attached(id); aerr != nil {
		s.Reason, s.Detail = container.ReasonDetached, aerr.Error()
		return s
	}
	switch {
	case err != nil:
		s.State, s.Reason, s.Detail = contract.StateFailed, problem.Code(err), err.Error()
		if s.Reason == "" {
			s.Reason = CodeDown
		}
	case live && !alive || served < e.since:
		s.Reason, s.Detail = CodeDown, "the gateway process is not there yet"
	default:
		s.State = contract.StateRunning
		s.Detail = detail(routesOf([]published{{e.d, e.g, k.judge(e)}}))
	}
	return s
}

func (k *Kind) judge(e *entry) Judgement { return k.cfg.Facts.Judge(e.d, e.g) }

// detail says which routes are not served, in one line; "" if all are.
func detail(routes []control.Route) string {
	var bad []control.Route
	for _, r := range routes {
		if r.Problem != "" {
			bad = append(bad, r)
		}
	}
	switch len(bad) {
	case 0:
		return ""
	case 1:
		return "not served: " + bad[0].Problem
	}
	return fmt.Sprintf("%d of %d routes are not served, the first: %s", len(bad), len(routes), bad[0].Problem)
}

// Remove implements workload.Kind. Connections of the gateway are given time to
// end; then its sockets' namespace goes.
func (k *Kind) Remove(ctx context.Context, id workload.ID) error {
	if err := k.remove(ctx, id); err != nil {
		return fmt.Errorf("remove gateway %s of contract %s: %w", id.Name, id.Contract.Short(), err)
	}
	return nil
}

func (k *Kind) remove(ctx context.Context, id workload.ID) error {
	r, _ := k.readRecord(id)
	k.mu.Lock()
	delete(k.entries, id)
	k.asked++
	want := k.asked
	k.mu.Unlock()
	k.Kick()
	if err := k.drain(ctx, id, r.Netns, want); err != nil {
		return err
	}
	if err := k.cfg.Networks.Detach(ctx, id); err != nil {
		return err
	}
	if err := k.rings.forget(id); err != nil {
		return err
	}
	dir := filepath.Join(k.cfg.Data, id.Contract.String())
	if err := os.RemoveAll(filepath.Join(dir, id.Name)); err != nil {
		return fmt.Errorf("remove its log: %w", err)
	}
	if !k.hasOf(id) {
		// The last one of its contract.
		if k.cfg.Store != nil {
			if err := k.cfg.Store.Forget(id.Contract); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove what its gateways shared: %w", err)
		}
	}
	if err := os.Remove(k.recordPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget it: %w", err)
	}
	return nil
}

// hasOf tells whether there is another gateway of the contract.
func (k *Kind) hasOf(id workload.ID) bool {
	ids, err := k.records()
	return err != nil || slices.ContainsFunc(ids, func(o workload.ID) bool { return o != id && o.Contract == id.Contract })
}

// drain waits until the process has no socket in a namespace any more. One that
// keeps some when its time is over is ended, and started anew for the others.
func (k *Kind) drain(ctx context.Context, id workload.ID, path string, want uint64) error {
	limited, cancel := context.WithTimeout(ctx, k.cfg.Drain)
	defer cancel()
	if err := k.await(limited, want); err != nil {
		k.cfg.Log.Info("a gateway is removed while its process does not serve", "workload", id.Name, "error", err)
	}
	if path == "" {
		return nil
	}
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		n, err := sockets(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && n == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(wait):
			continue
		case <-limited.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		k.cfg.Log.Warn("the gateway process keeps sockets of a gateway that is gone: ending it", "workload", id.Name, "sockets", n)
		err = k.processRef().End(ctx, endGrace)
		k.Kick()
		return err
	}
}
