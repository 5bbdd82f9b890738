package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/network/resolver"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// live is what this process does for a router, besides what is in the kernel.
type live struct {
	server *resolver.Server
	exit   atomic.Pointer[[]netip.AddrPort] // the exit's resolver; empty: here, or none
	isExit bool
	ns     *os.File
	inode  uint64 // of the namespace that the server serves in

	verified atomic.Uint32 // generation of the filter that was verified; 0: none
	partial  atomic.Bool   // the agent or the resolver has not taken the newest version yet
}

// of is what this process does for a router, nil if nothing.
func (k *Kind) of(id workload.ID) *live {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.live[id]
}

// serve answers the network's names, from the view's version on.
func (k *Kind) serve(ctx context.Context, d workload.Desired, v View, ns *os.File) error {
	zone := resolver.ZoneOf(d.Deployment, v.Network)
	inode, err := inodeOf(ns)
	if err != nil {
		return err
	}
	l := k.of(d.ID)
	if l != nil && (l.inode != inode || l.isExit != v.IsExit) {
		if err := k.silence(d.ID); err != nil {
			return err
		}
		l = nil
	}
	if l != nil {
		l.setExit(v)
		l.server.SetZone(zone)
		return nil
	}
	own, err := dup(int(ns.Fd()))
	if err != nil {
		return err
	}
	l = &live{ns: own, inode: inode, isExit: v.IsExit}
	l.setExit(v)
	l.server, err = resolver.Serve(context.WithoutCancel(ctx), resolver.Config{
		NetNS: int(own.Fd()), Addrs: []netip.Addr{v.Router4, v.Router6}, Zone: zone, Exit: v.IsExit, Upstream: k.upstream(l), Logger: k.cfg.Log,
	})
	if err != nil {
		return errors.Join(err, own.Close())
	}
	k.mu.Lock()
	k.live[d.ID] = l
	k.mu.Unlock()
	return nil
}

func (l *live) setExit(v View) {
	at := []netip.AddrPort{}
	for _, a := range v.Exit {
		at = append(at, netip.AddrPortFrom(a, dnsPort))
	}
	l.exit.Store(&at)
}

// upstream is where questions about the rest of the world go: of egress "node" to
// the node's own servers, of egress "exit" through the network to the exit's
// resolver.
func (k *Kind) upstream(l *live) resolver.Upstream {
	node := resolver.Forward(int(k.host.Fd()), func() []netip.AddrPort {
		if k.cfg.Nameservers == nil {
			return nil
		}
		return k.cfg.Nameservers()
	})
	exit := resolver.Forward(int(l.ns.Fd()), func() []netip.AddrPort { return *l.exit.Load() })
	return func(ctx context.Context, egress string, query []byte) ([]byte, error) {
		if egress == plan.EgressExit && !l.isExit {
			return exit(ctx, egress, query)
		}
		return node(ctx, egress, query)
	}
}

// silence ends what this process does for a router.
func (k *Kind) silence(id workload.ID) error {
	k.mu.Lock()
	l := k.live[id]
	delete(k.live, id)
	k.mu.Unlock()
	if l == nil {
		return nil
	}
	return errors.Join(l.server.Close(), l.ns.Close())
}

// inodeOf tells one namespace from another.
func inodeOf(ns *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return 0, fmt.Errorf("look at the network namespace: %w", err)
	}
	return st.Ino, nil
}

// Resolver is the server that answers a router's names, nil if there is none: for
// whoever tells people how it is.
func (k *Kind) Resolver(router workload.ID) *resolver.Server {
	if l := k.of(router); l != nil {
		return l.server
	}
	return nil
}

// Close ends the resolvers, and what encrypts for devices unless the kernel does.
// Networks and attachments stay as they are.
func (k *Kind) Close() error {
	k.mu.Lock()
	var ids []workload.ID
	for id := range k.live {
		ids = append(ids, id)
	}
	for id := range k.entries {
		ids = append(ids, id)
	}
	k.mu.Unlock()
	var errs []error
	for _, id := range ids {
		errs = append(errs, k.silence(id), k.leave(id, false))
	}
	return errors.Join(append(errs, k.host.Close())...)
}
