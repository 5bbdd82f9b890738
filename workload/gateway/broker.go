package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"log/slog"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// CodeNotYours answers a process that asks for something of a gateway that it
// does not serve.
const CodeNotYours = "not-permitted"

// broker does what the process asks for. It is given nothing but sockets in the
// namespaces of gateways that are to be served here, what their contracts share,
// and answers to challenges about their own hosts.
type broker struct{ k *Kind }

// parseNetwork reads the key of a gateway's namespace.
func parseNetwork(key string) (workload.ID, bool) {
	contract, name, ok := strings.Cut(key, "/")
	h, err := canon.ParseHash(contract)
	return workload.ID{Contract: h, Name: name}, ok && err == nil
}

// Sockets implements control.Handler.
func (b broker) Sockets(_ context.Context, r control.SocketsRequest) ([]int, error) {
	id, ok := parseNetwork(r.Network)
	path := ""
	if ok {
		b.k.mu.Lock()
		if e := b.k.entries[id]; e != nil {
			path = e.netns
		}
		b.k.mu.Unlock()
	}
	if path == "" {
		return nil, problem.New(CodeNotYours, "there is no gateway %.100q", r.Network)
	}
	return makeSockets(path, r.UDP, int(r.Count))
}

// makeSockets makes unconnected sockets in a namespace. They are of family IPv6
// and take IPv4 as well.
func makeSockets(path string, udp bool, count int) ([]int, error) {
	ns, err := netns.Open(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	kind := unix.SOCK_STREAM
	if udp {
		kind = unix.SOCK_DGRAM
	}
	var fds []int
	err = netns.Do(int(ns.Fd()), func() error {
		for range count {
			fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return fmt.Errorf("make a socket: %w", err)
			}
			fds = append(fds, fd)
		}
		return nil
	})
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, err
	}
	return fds, nil
}

// sockets counts the sockets that belong to a namespace.
func sockets(path string) (n int, err error) {
	ns, err := netns.Open(path)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	err = netns.Do(int(ns.Fd()), func() error {
		text, err := os.ReadFile("/proc/thread-self/net/sockstat")
		if err != nil {
			return fmt.Errorf("count sockets: %w", err)
		}
		if _, err := fmt.Sscanf(string(text), "sockets: used %d", &n); err != nil {
			return fmt.Errorf("count sockets: %w", err)
		}
		return nil
	})
	return n, err
}

// Log implements control.Handler.
func (b broker) Log(lines []control.LogLine) {
	for _, l := range lines {
		if err := b.k.rings.add(workload.ID{Contract: l.Contract, Name: l.Workload}, l.Line); err != nil {
			b.k.cfg.Log.Debug("an access log's line is lost", "error", err)
		}
	}
}

// Store implements control.Handler.
func (b broker) Store(ctx context.Context, r control.StoreRequest) (control.StoreReply, error) {
	if b.k.cfg.Store == nil || !b.k.serves(r.Contract) {
		return control.StoreReply{}, problem.New(CodeNotYours, "no gateway of contract %s is served here", r.Contract.Short())
	}
	return b.k.cfg.Store.Do(ctx, r)
}

// serves tells whether a gateway of a contract is wanted here.
func (k *Kind) serves(contract canon.Hash) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range k.entries {
		if id.Contract == contract {
			return true
		}
	}
	return false
}

// Resolve implements control.Handler. Only public addresses are told: what the
// node's own segment is called is nobody's business.
func (b broker) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if b.k.cfg.Resolve == nil || !plan.ValidHost(host) {
		return nil, errors.New("names are not resolved")
	}
	addrs, err := b.k.cfg.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !plan.IsPublic(a.Unmap()) })
	return addrs[:min(len(addrs), 16)], nil
}

// Record implements control.Handler. It sets nothing but answers to challenges of
// authorities, for hosts whose TLS ends here and that are served.
func (b broker) Record(ctx context.Context, r control.RecordRequest) error {
	host, ok := strings.CutPrefix(r.Name, contract.ChallengeLabel)
	if !ok || !b.k.ends(r.Contract, host) {
		return problem.New(CodeNotYours, "no gateway of contract %s ends the TLS of %.100q here", r.Contract.Short(), r.Name)
	}
	if b.k.cfg.Challenges == nil {
		return problem.New("unknown-method", "records under the grid's domain are not set here")
	}
	value := r.Text
	if r.Absent {
		value = ""
	}
	if err := b.k.cfg.Challenges.Answer(ctx, r.Contract, host, value); err != nil {
		return fmt.Errorf("answer the authority for %s: %w", host, err)
	}
	return nil
}

// ends tells whether a gateway of a contract ends the TLS of host here: it is
// published under the grid's domain, and nothing speaks against it.
func (k *Kind) ends(contract canon.Hash, host string) bool {
	zone := k.cfg.Facts.Zone()
	if zone == nil || !strings.HasSuffix(host, "."+zone.Domain) {
		return false
	}
	all, _ := k.wanted()
	for _, r := range routesOf(all) {
		if r.Host == host && r.Mode == plan.ModeTerminate {
			// The first that names a host has it.
			return r.Contract == contract && r.Problem == ""
		}
	}
	return false
}

// Note implements control.Handler.
func (b broker) Note(n control.Note) {
	if !b.k.notes.Allow() {
		return // it floods the log, so that nobody finds in it what happened before
	}
	b.k.cfg.Log.Log(context.Background(), min(slog.Level(n.Level), slog.LevelWarn), "the gateway process says", "text", strings.ToValidUTF8(n.Text, "·"))
}
