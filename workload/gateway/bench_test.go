package gateway

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	zgateway "github.com/zero-os/zos/gateway"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/workload"
)

// pinned is a namespace with a way to itself, and where it lies.
func pinned(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "ns")
	ns, _, err := netns.Pin(path)
	must(b, err)
	b.Cleanup(func() { ns.Close(); _ = netns.Unpin(path) })
	in(b, ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return path
}

// BenchmarkSockets is what the broker takes for one socket of a tenant's
// namespace, in batches as the process asks for them.
func BenchmarkSockets(b *testing.B) {
	path := pinned(b)
	for made := 0; made < b.N; made += control.MaxBatch {
		fds, err := makeSockets(path, false, control.MaxBatch)
		must(b, err)
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}

// BenchmarkDial is a connection to a backend in a tenant's namespace all the way:
// the process asks over the control socket, the broker makes sockets and sends
// them, the process connects one. Beside it, one that is made in the namespace.
func BenchmarkDial(b *testing.B) {
	path := pinned(b)
	ns, err := netns.Open(path)
	must(b, err)
	b.Cleanup(func() { ns.Close() })
	var backend net.Listener
	in(b, ns, func() (err error) { backend, err = net.Listen("tcp", "127.0.0.1:0"); return err })
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	})
	b.Cleanup(func() { backend.Close(); work.Wait() })
	to := backend.Addr().(*net.TCPAddr).AddrPort()

	at := filepath.Join(b.TempDir(), "control")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	must(b, err)
	p := control.NewProcess(l, nil, discard())
	ctx, cancel := context.WithCancel(context.Background())
	work.Go(func() { _ = p.Run(ctx) })
	id := workload.ID{Contract: [32]byte{1}, Name: "www"}
	k := &Kind{entries: map[workload.ID]*entry{id: {netns: path}}}
	d, err := control.Connect(limited(b), at, broker{k})
	must(b, err)
	work.Go(func() { _ = d.Run(ctx) })
	brokered := control.NewDialer(p)
	b.Cleanup(func() { brokered.Close(); cancel(); d.Close() })

	made := func(ctx context.Context) (net.Conn, error) {
		fds, err := makeSockets(path, false, 1)
		if err != nil {
			return nil, err
		}
		return zgateway.Connect(ctx, fds[0], netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port()))
	}
	for name, dial := range map[string]func(context.Context) (net.Conn, error){
		"broker": func(ctx context.Context) (net.Conn, error) {
			return brokered.Dial(ctx, id.Contract.String()+"/"+id.Name, "tcp", to)
		},
		"namespace": made,
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				c, err := dial(ctx)
				must(b, err)
				if s, ok := c.(interface{ SetLinger(int) error }); ok {
					_ = s.SetLinger(0) // or all ports are soon in TIME_WAIT
				}
				c.Close()
			}
		})
	}
}
