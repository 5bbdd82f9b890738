package nettest

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/netlab/netnode"
)

// Tenants and nodes of the test, as the issue has it.
const (
	tenants = 10
	nodes   = 5
)

// mark is in everything that a tenant sends.
func mark(tenant int) []byte { return fmt.Appendf(nil, "<tenant-%02d-secret>", tenant) }

// ear counts the tenants' marks in all frames that a namespace receives.
type ear struct {
	name   string
	tenant int // -1: nobody's
	file   *os.File
	mu     sync.Mutex
	heard  [tenants]int
	first  [tenants]string
	tricks map[string]int // of its own tenant: how many frames of each trick
	frames int
}

// packetSocket opens a socket for all frames of the namespace, or for sending
// on one interface.
func packetSocket(t *testing.T, h *netlab.Host) *os.File {
	t.Helper()
	var fd int
	err := h.Try(func() (err error) {
		const all = unix.ETH_P_ALL
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all<<8|all>>8)&0xffff)
		if err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	})
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "packets of "+h.Name())
}

func listen(t *testing.T, h *netlab.Host, tenant int) *ear {
	t.Helper()
	e := &ear{name: h.Name(), tenant: tenant, tricks: map[string]int{}, file: packetSocket(t, h)}
	raw, err := e.file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			var n int
			var from unix.Sockaddr
			var rerr error
			err := raw.Read(func(fd uintptr) bool {
				n, from, rerr = unix.Recvfrom(int(fd), buf, 0)
				return rerr != unix.EAGAIN
			})
			if err != nil {
				return
			}
			if rerr != nil {
				continue
			}
			// What the namespace itself sends is no proof of anything.
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			e.hear(buf[:n])
		}
	}()
	t.Cleanup(func() {
		e.file.Close()
		<-done
	})
	return e
}

func (e *ear) hear(frame []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.frames++
	if !bytes.Contains(frame, []byte("<tenant-")) {
		return
	}
	for i := range tenants {
		if bytes.Contains(frame, mark(i)) {
			if e.heard[i] == 0 {
				e.first[i] = fmt.Sprintf("%x", frame[:min(len(frame), 100)])
			}
			e.heard[i]++
			// Routers quote what they refuse, to whoever sent it.
			if f, _ := netlab.Dissect(frame); f.Proto == "icmp" || f.Proto == "icmpv6" && f.Type < 128 {
				continue
			}
			if _, rest, ok := bytes.Cut(frame, append(mark(i), '[')); ok && i == e.tenant {
				what, _, _ := bytes.Cut(rest, []byte("]"))
				e.tricks[string(what)]++
			}
		}
	}
}

// lost is how many frames the socket could not take.
func (e *ear) lost(t *testing.T) int {
	t.Helper()
	raw, err := e.file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var st *unix.TpacketStats
	var serr error
	if err := raw.Control(func(fd uintptr) {
		st, serr = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	return int(st.Drops)
}

// look reads what the workload knows of its link.
func look(t *testing.T, w *netnode.Workload) station {
	t.Helper()
	s := station{v4: w.IPv4, v6: w.IPv6}
	err := w.Try(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		s.mac = link.Attrs().HardwareAddr
		neighbours, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, n := range neighbours {
			if n.HardwareAddr != nil {
				s.gateway = n.HardwareAddr
			}
		}
		return nil
	})
	if err != nil || len(s.mac) != 6 || len(s.gateway) != 6 {
		t.Fatalf("%s: own address %s, router's %s, %v", w.Name(), s.mac, s.gateway, err)
	}
	return s
}

// transmit sends frames from eth0, whatever the kernel thinks of them.
func transmit(t *testing.T, w *netnode.Workload, frames [][]byte) {
	t.Helper()
	f := packetSocket(t, w.Host)
	defer f.Close()
	var index int
	w.Do(func() {
		if link, err := netlink.LinkByName("eth0"); err == nil {
			index = link.Attrs().Index
		}
	})
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range frames {
		var serr error
		err := raw.Write(func(fd uintptr) bool {
			serr = unix.Sendto(int(fd), b, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6})
			return serr != unix.EAGAIN
		})
		if err != nil || serr != nil && serr != unix.ENOBUFS {
			t.Fatalf("%s: send a frame of %d bytes: %v %v", w.Name(), len(b), err, serr)
		}
	}
}

// reach sends a tenant's mark by ordinary sockets between all its workloads
// until every one of them has it from every other, and returns how many pairs
// that were.
func reach(t *testing.T, ws []*netnode.Workload, what string, mark []byte, port uint16) int {
	t.Helper()
	type pair struct{ from, to netip.Addr }
	var mu sync.Mutex
	arrived := map[pair]bool{}
	var socks []*net.UDPConn
	var work sync.WaitGroup
	defer func() {
		for _, s := range socks {
			s.Close()
		}
		work.Wait()
	}()
	for _, w := range ws {
		for _, a := range []netip.Addr{w.IPv4, w.IPv6} {
			s := w.ListenPacket("udp", netip.AddrPortFrom(a, port).String())
			socks = append(socks, s)
			work.Go(func() {
				b := make([]byte, 2000)
				for {
					n, from, err := s.ReadFromUDPAddrPort(b)
					if err != nil {
						return
					}
					if bytes.Equal(b[:n], mark) {
						mu.Lock()
						arrived[pair{from.Addr().Unmap(), a}] = true
						mu.Unlock()
					}
				}
			})
		}
	}
	want := 2 * len(ws) * (len(ws) - 1)
	netnode.Until(t, what, func() bool {
		for i, s := range socks {
			from := s.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
			for j, w := range ws {
				to := w.IPv4
				if from.Is6() {
					to = w.IPv6
				}
				mu.Lock()
				had := arrived[pair{from, to}]
				mu.Unlock()
				if i/2 != j && !had {
					_, _ = s.WriteTo(mark, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		return len(arrived) == want
	})
	return want
}

// Ten tenants with the same addresses on the same five nodes: nothing that one
// of them sends, by whatever trick, is ever received by another, by another's
// router, by a node, or seen on a wire.
func TestTenantsNeverMeet(t *testing.T) {
	w := netnode.NewWorld(t, 2)
	u := watch(w, "<tenant-")
	var ns []*netnode.Node
	var ears, inside []*ear // everywhere, and in workloads
	for i := range nodes {
		h := w.Lab.Host(fmt.Sprintf("n%d", i), w.Internet)
		u.between(h.Addr4(), h.Addr6())
		ns = append(ns, w.Node(i, h, func(c *netnode.Config) { c.Run = w.Dir() }))
		ears = append(ears, listen(t, h, -1))
	}
	all := make([][]*netnode.Workload, tenants)
	for i := range tenants {
		tenant := netnode.NewTenant(t, fmt.Sprint(i), ns...)
		for j := range ns {
			ears = append(ears, listen(t, tenant.Ensure(t, j), i))
			x := tenant.Attach(t, j)
			all[i] = append(all[i], x)
			inside = append(inside, listen(t, x.Host, i))
		}
	}
	ears = append(ears, inside...)
	pairs := 0
	for i, ws := range all {
		pairs += reach(t, ws, fmt.Sprintf("tenant %d reaches itself", i), mark(i), 80)
	}
	var macs []net.HardwareAddr
	stations := map[*netnode.Workload]station{}
	for _, ws := range all {
		for _, x := range ws {
			s := look(t, x)
			stations[x] = s
			for _, mac := range []net.HardwareAddr{s.mac, s.gateway} {
				if !slices.ContainsFunc(macs, func(m net.HardwareAddr) bool { return bytes.Equal(m, mac) }) {
					macs = append(macs, mac)
				}
			}
		}
	}
	sent := 0
	tricks := map[string]int{}
	for i, ws := range all {
		for _, x := range ws {
			var others []netip.Addr
			for _, o := range ws {
				if o != x {
					others = append(others, o.IPv4)
				}
			}
			for _, o := range ws {
				if o != x {
					others = append(others, o.IPv6)
				}
			}
			for what, frames := range attack(stations[x], others, macs, mark(i)) {
				transmit(t, x, frames)
				tricks[what] += len(frames)
				sent += len(frames)
			}
		}
	}
	// What was sent before this has arrived where it could: it took the same ways.
	for i, ws := range all {
		reach(t, ws, fmt.Sprintf("tenant %d still reaches itself", i), append(mark(i), "end"...), 81)
	}
	t.Logf("%d frames sent (%v), %d pairs of one tenant reach each other, %d MACs", sent, tricks, pairs, len(macs))

	crossed := 0
	for _, e := range ears {
		if n := e.lost(t); n > 0 {
			t.Errorf("%s could not take %d frames", e.name, n)
		}
		e.mu.Lock()
		for i, n := range e.heard {
			if i != e.tenant && n > 0 {
				crossed += n
				t.Errorf("%d frames of tenant %d were received in %s of tenant %d, first %s", n, i, e.name, e.tenant, e.first[i])
			}
		}
		if e.tenant >= 0 && e.heard[e.tenant] == 0 {
			t.Errorf("%s of tenant %d heard not even its own tenant", e.name, e.tenant)
		}
		e.mu.Unlock()
	}
	if crossed == 0 {
		t.Logf("0 frames crossed between %d ordered pairs of tenants", tenants*(tenants-1))
	}
	u.clean(t, "tenants")

	// Among themselves they get what is honest, and none of the lies.
	honest := []string{"plain", "fragments", "tunnels", "other protocols"}
	got := map[string]int{}
	for _, e := range inside {
		e.mu.Lock()
		for what, n := range e.tricks {
			got[what] += n
			if !slices.Contains(honest, what) {
				t.Errorf("%s of tenant %d received %d frames: %s", e.name, e.tenant, n, what)
			}
		}
		e.mu.Unlock()
	}
	// Each of the four others, over IPv4 and IPv6.
	if want := tenants * nodes * (nodes - 1) * 2; got["plain"] < want {
		t.Errorf("%d honest frames were received, want %d: the frames of this test are no good", got["plain"], want)
	}
	t.Logf("received within tenants: %v", got)

	// The control: two tenants are joined on purpose.
	a, b := all[0][0], all[1][0]
	a.Veth("hole", "10.77.0.1/24", b.Host, "hole", "10.77.0.2/24")
	hole := a.ListenPacket("udp", "10.77.0.1:0")
	defer hole.Close()
	ear := inside[nodes]
	netnode.Until(t, "a hole between two tenants is found", func() bool {
		_, _ = hole.WriteTo(mark(0), &net.UDPAddr{IP: net.IPv4(10, 77, 0, 2), Port: 9})
		ear.mu.Lock()
		defer ear.mu.Unlock()
		return ear.heard[0] > 0
	})
}
