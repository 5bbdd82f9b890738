package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload"
)

// Reasons of a router's status, problem codes.
const (
	// ReasonPending: the router is not, or not completely, there.
	ReasonPending = "network-pending"
	// ReasonAltered: it is not what it was made to be.
	ReasonAltered = "firewall-altered"
)

// Observe implements workload.Kind. It looks at the run directory and at the
// kernel: namespaces, links, addresses, filters. It changes nothing. A router
// that this process does not serve yet is pending, so that Ensure is called for
// it after a restart.
func (k *Kind) Observe(ctx context.Context) (map[workload.ID]workload.Status, error) {
	ids, err := k.list(routerPrefix)
	if err != nil {
		return nil, err
	}
	out := map[workload.ID]workload.Status{}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("observe networks: %w", err)
		}
		out[id] = k.look(id)
	}
	return out, nil
}

func (k *Kind) look(id workload.ID) workload.Status {
	r, err := k.readRecord(id)
	if err != nil {
		return workload.Status{State: contract.StatePending, Reason: ReasonPending, Detail: "remnants only"}
	}
	s := workload.Status{State: contract.StateRunning, Version: r.Version}
	pending := func(reason, detail string) workload.Status {
		s.State, s.Reason, s.Detail = contract.StatePending, reason, detail
		return s
	}
	switch l := k.of(id); {
	case l == nil:
		return pending(ReasonPending, "not looked after yet")
	case l.partial.Load():
		return pending(ReasonPending, "its tunnels or names are those of an earlier version")
	}
	err = k.verify(id, r)
	switch {
	case err == nil:
		return s
	case errors.Is(err, fs.ErrNotExist):
		return pending(ReasonPending, "its namespace is gone")
	case problem.Code(err) != "":
		return pending(problem.Code(err), err.Error())
	}
	return pending(ReasonPending, err.Error())
}

// present tells what of a router's own links is missing. The calling thread is in
// its namespace.
func present(v View) error {
	all, err := links()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	want := []string{"lo", bridgeName}
	if v.Site.Link != 0 {
		want = append(want, egressName)
	}
	if v.Entry {
		want = append(want, entryName)
	}
	for _, l := range all {
		name, flags := l.Attrs().Name, l.Attrs().Flags
		i := slices.Index(want, name)
		if i >= 0 && flags&net.FlagUp != 0 {
			want = slices.Delete(want, i, i+1)
		}
		if name == egressName && v.Site.Link == 0 {
			return errors.New("there is an interface to the host that nobody has asked for")
		}
		if name == entryName && !v.Entry {
			return errors.New("there is a way in for devices that nobody has asked for")
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("%s is missing or down", want[0])
	}
	return nil
}

func equalSites(a, b Site) bool {
	return a.Link == b.Link && slices.Equal(a.Uplinks, b.Uplinks) && slices.Equal(a.Closed, b.Closed)
}
