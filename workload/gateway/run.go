package gateway

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/workload"
)

// Run makes what is served equal to what is wanted until ctx ends: the public
// namespace, the process, and what it was told. It looks at everything every few
// seconds, and at once when something has changed.
func (k *Kind) Run(ctx context.Context) error {
	tick := time.NewTicker(k.cfg.Every)
	defer tick.Stop()
	failures := 0
	for {
		err := k.step(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		pause := time.Duration(0)
		if err != nil {
			// A process that dies at once is not started at once again.
			pause = min(200*time.Millisecond<<min(failures, 8), 10*time.Second)
			failures++
			k.cfg.Log.Warn("serve gateways", "error", err, "failures", failures)
		} else {
			failures = 0
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		case <-k.kick:
		}
	}
}

// step looks at everything once.
func (k *Kind) step(ctx context.Context) error {
	pool, known := k.cfg.Facts.Pool()
	zone := k.cfg.Facts.Zone()
	all, asked := k.wanted()
	var publicly, down error
	live := len(pool.Ranges) > 0
	switch {
	case !known:
		// What an earlier daemon left is served on, and gets its sockets.
		return k.attend(ctx)
	case !live, len(all) == 0 && zone == nil:
		publicly = k.takeDown(ctx)
	default:
		publicly = k.open(pool, zone, all)
		down = k.serve(ctx, pool, zone, all)
	}
	k.mu.Lock()
	k.publicly, k.down, k.live = publicly, down, live
	if down == nil {
		k.served = asked
	}
	close(k.stepped)
	k.stepped = make(chan struct{})
	k.mu.Unlock()
	return errors.Join(publicly, down)
}

// wanted are the gateways to serve, judged, and how many changes they come of.
func (k *Kind) wanted() ([]published, uint64) {
	k.mu.Lock()
	var all []published
	for _, e := range k.entries {
		all = append(all, published{d: e.d, g: e.g})
	}
	asked := k.asked
	k.mu.Unlock()
	for i := range all {
		all[i].says = k.cfg.Facts.Judge(all[i].d, all[i].g)
	}
	order(all)
	return all, asked
}

// open makes the public namespace what the pool and the gateways come to.
func (k *Kind) open(pool contract.Pool, zone *control.Zone, all []published) error {
	addresses, err := addressesOf(pool, all)
	if err != nil {
		return err
	}
	dns, err := dnsOf(pool, zone)
	if err != nil {
		return err
	}
	return k.public.ensure(pool, addresses, openingsOf(addresses, dns, all))
}

// dnsOf are the addresses at which the grid's domain is answered for.
func dnsOf(pool contract.Pool, zone *control.Zone) ([]netip.Addr, error) {
	if zone == nil {
		return nil, nil
	}
	return control.Addrs(pool.Shared)
}

// serve makes the process run and serve.
func (k *Kind) serve(ctx context.Context, pool contract.Pool, zone *control.Zone, all []published) error {
	fresh, err := k.connect(ctx, k.reach)
	if err != nil {
		return err
	}
	k.mu.Lock()
	l := k.link
	k.mu.Unlock()
	c := control.Config{Routes: routesOf(all), Authority: pool.ACME, Roots: pool.Roots, DNS: []string{}}
	var told control.Zone
	if zone != nil {
		c.Domain, c.DNS, told = zone.Domain, pool.Shared, *zone
	}
	if err := k.tell(fresh, &k.zone, told, func() error { return l.SetZone(ctx, told) }); err != nil {
		return err
	}
	return k.tell(fresh, &k.sent, c, func() error {
		c.Generation = uint64(time.Now().UnixNano())
		return l.Configure(ctx, c)
	})
}

// attend connects to the process that an earlier daemon left, if there is one.
func (k *Kind) attend(ctx context.Context) error {
	if k.processRef().IsZero() {
		return nil
	}
	_, err := k.connect(ctx, k.adopt)
	return err
}

// connect makes the link be one that is alive; fresh tells that it is another.
func (k *Kind) connect(ctx context.Context, by func(context.Context) (*link, error)) (fresh bool, err error) {
	k.mu.Lock()
	l := k.link
	k.mu.Unlock()
	if l.alive() && l.ref.Alive() {
		return false, nil
	}
	if l != nil {
		l.Close()
	}
	if l, err = by(ctx); err != nil {
		return false, err
	}
	k.mu.Lock()
	k.link = l
	k.sent, k.zone = "", ""
	k.mu.Unlock()
	return true, nil
}

// tell sends something that differs from what was sent last.
func (k *Kind) tell(always bool, last *string, v any, send func() error) error {
	b, err := canon.Marshal(v)
	if err != nil {
		return err
	}
	digest := canon.Sum(b).String()
	if !always && *last == digest {
		return nil
	}
	*last = ""
	if err := send(); err != nil {
		return err
	}
	*last = digest
	return nil
}

// takeDown ends the process and the public namespace.
func (k *Kind) takeDown(ctx context.Context) error {
	k.mu.Lock()
	l := k.link
	k.link = nil
	k.mu.Unlock()
	if l != nil {
		l.Close()
	}
	if err := k.endProcess(ctx); err != nil {
		return err
	}
	return k.public.remove()
}

// State is how the gateways of a contract are.
type State struct {
	Gateways []workload.Desired
	Routes   map[string]control.Route // by RouteID, as they are to be served
	Public   error
	Process  error
	Status   control.Status
}

// State tells how the gateways of a contract are, and asks the process.
func (k *Kind) State(ctx context.Context, contract canon.Hash) State {
	out := State{Routes: map[string]control.Route{}}
	all, _ := k.wanted()
	all = slices.DeleteFunc(all, func(p published) bool { return p.d.ID.Contract != contract })
	for _, p := range all {
		out.Gateways = append(out.Gateways, p.d)
	}
	for _, r := range routesOf(all) {
		out.Routes[r.ID] = r
	}
	k.mu.Lock()
	out.Public, out.Process = k.publicly, k.down
	l := k.link
	k.mu.Unlock()
	if !l.alive() {
		if out.Process == nil {
			out.Process = errors.New("the gateway process is not there")
		}
		return out
	}
	var err error
	if out.Status, err = l.Status(ctx, contract); err != nil {
		out.Process = err
	}
	return out
}
