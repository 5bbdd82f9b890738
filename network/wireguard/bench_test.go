//go:build !invm

package wireguard

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/zero-os/zos/vmtest"
)

// The benchmark measures one TCP stream between two router namespaces whose
// hosts share a veth link. Each device is a process of its own, which does
// nothing else; the stream is made here. So a process's processor time is its
// device's, and its memory too, but for what an idle Go process has.
//
//	go test -run '^$' -bench BenchmarkUserspace -benchtime 1x ./network/wireguard
//
// prints for MTU 1280 and 1420 the throughput of this package's engine and of
// stock wireguard-go (device, TUN, conn.StdNetBind), their ratio, the processor
// time of both ends for each GB, and the largest memory of a process.

// benchChild makes this test binary a device's process.
const benchChild = "ZOS_WIREGUARD_BENCH"

func TestMain(m *testing.M) {
	if kind := os.Getenv(benchChild); kind != "" {
		if err := runChild(kind); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A child is born in its host's namespace and gets its router's as a descriptor,
// and as arguments: private key, peer's public key, MTU. It says its port, hears
// the peer's address, and ends when its input does.
const childRouter = 3

func runChild(kind string) error {
	args := strings.Fields(os.Getenv(benchChild + "_ARGS"))
	private, err := ParseKey(args[0])
	if err != nil {
		return err
	}
	peer, err := ParseKey(args[1])
	if err != nil {
		return err
	}
	mtu, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	hear := func() (string, error) {
		line, err := in.ReadString('\n')
		return strings.TrimSpace(line), err
	}
	all := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	switch kind {
	case "none": // the memory of a process without a device
		fmt.Println(1)
	case "ours":
		h, err := OpenHost(0, nil)
		if err != nil {
			return err
		}
		d, err := h.New(context.Background(), Config{Name: "wg-test", PrivateKey: private, NetNS: childRouter, MTU: mtu, Engine: Userspace})
		if err != nil {
			return err
		}
		if err := d.SetPeer(Peer{PublicKey: peer, AllowedIPs: all}); err != nil {
			return err
		}
		dead := NewPrivateKey().Public()
		if err := errors.Join(d.SetPeer(Peer{PublicKey: dead, AllowedIPs: []netip.Prefix{deadPeer}}), d.SetPath(dead, nowhere)); err != nil {
			return err
		}
		fmt.Println(d.Port())
		to, err := hear()
		if err != nil {
			return err
		}
		if err := d.SetPath(peer, netip.MustParseAddrPort(to)); err != nil {
			return err
		}
	case "stock":
		var d *device.Device
		err := within(childRouter, func() error {
			t, err := tun.CreateTUN("wg-test", mtu)
			if err != nil {
				return err
			}
			d = device.NewDevice(t, conn.NewStdNetBind(), device.NewLogger(device.LogLevelSilent, ""))
			return nil
		})
		if err != nil {
			return err
		}
		dead := NewPrivateKey().Public()
		if err := d.IpcSet(fmt.Sprintf("private_key=%x\npublic_key=%x\nallowed_ip=0.0.0.0/0\npublic_key=%x\nallowed_ip=%s\nendpoint=%s\n", private[:], peer[:], dead[:], deadPeer, nowhere)); err != nil {
			return err
		}
		if err := d.Up(); err != nil {
			return err
		}
		err = within(childRouter, func() error {
			l, err := netlink.LinkByName("wg-test")
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(l)
		})
		if err != nil {
			return err
		}
		get, err := d.IpcGet()
		if err != nil {
			return err
		}
		_, port, _ := strings.Cut(get, "listen_port=")
		port, _, _ = strings.Cut(port, "\n")
		fmt.Println(port)
		to, err := hear()
		if err != nil {
			return err
		}
		if err := d.IpcSet(fmt.Sprintf("public_key=%s\nupdate_only=true\nendpoint=%s\n", hex.EncodeToString(peer[:]), to)); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	io.Copy(io.Discard, in) // until the end
	return nil
}

// deadPeer is behind a peer that never answers.
var (
	deadPeer = netip.MustParsePrefix("10.99.0.0/16")
	nowhere  = netip.MustParseAddrPort("192.0.2.99:9")
)

type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(t testing.TB, kind string, s *site, peer Key, mtu int) *child {
	t.Helper()
	c := &child{cmd: exec.Command("/proc/self/exe")}
	c.cmd.Env = append(os.Environ(), benchChild+"="+kind, fmt.Sprintf("%s_ARGS=%s %s %d", benchChild, s.key, peer, mtu))
	own, err := openNetNS(s.routerNS)
	must(t, err)
	f := os.NewFile(uintptr(own), "netns")
	defer f.Close()
	c.cmd.ExtraFiles = []*os.File{f}
	c.cmd.Stderr = os.Stderr
	c.in, err = c.cmd.StdinPipe()
	must(t, err)
	out, err := c.cmd.StdoutPipe()
	must(t, err)
	c.out = bufio.NewReader(out)
	must(t, within(s.hostNS, c.cmd.Start))
	return c
}

func (c *child) line(t testing.TB) string {
	t.Helper()
	l, err := c.out.ReadString('\n')
	must(t, err)
	return strings.TrimSpace(l)
}

func (c *child) stop(t testing.TB) {
	t.Helper()
	c.in.Close()
	must(t, c.cmd.Wait())
}

// cpu is the processor time that a process has used, as the kernel counts it.
func (c *child) cpu(t testing.TB) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	must(t, err)
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, err := strconv.Atoi(f[11])
	must(t, err)
	system, err := strconv.Atoi(f[12])
	must(t, err)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// peak is the largest resident memory that a process ever had, in MB.
func (c *child) peak(t testing.TB) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	must(t, err)
	_, v, _ := strings.Cut(string(b), "VmHWM:")
	n, err := strconv.Atoi(strings.Fields(v)[0])
	must(t, err)
	return float64(n) / 1024
}

// measured is one run.
type measured struct {
	rate float64 // MB/s
	cpu  float64 // seconds of both processes for each GB
	peak float64 // MB, of the larger process
}

func (m measured) String() string {
	return fmt.Sprintf("%.0f MB/s, %.2f CPU-s/GB, %.0f MB", m.rate, m.cpu, m.peak)
}

// measure runs two devices of a kind under a load; to a valid address it is a
// flood of datagrams, of which any may be lost, instead of streams.
func measure(t testing.TB, kind string, mtu int, l load, to netip.Addr) measured {
	t.Helper()
	a, b := newSites(t)
	ca, cb := startChild(t, kind, a, b.key.Public(), mtu), startChild(t, kind, b, a.key.Public(), mtu)
	defer ca.stop(t)
	defer cb.stop(t)
	pa, pb := ca.line(t), cb.line(t)
	fmt.Fprintln(ca.in, netip.AddrPortFrom(b.addr4, port(t, pb)))
	fmt.Fprintln(cb.in, netip.AddrPortFrom(a.addr4, port(t, pa)))
	for _, c := range []*child{ca, cb} {
		if l := c.line(t); l != "ready" {
			t.Fatal(l)
		}
	}
	if kind == "none" {
		return measured{peak: max(ca.peak(t), cb.peak(t))}
	}
	for _, s := range []*site{a, b} {
		must(t, within(s.routerNS, func() error { return setAddresses("wg-test", netip.PrefixFrom(s.in4, 8)) }))
	}
	talk(t, a, b, false, "warm")
	before := ca.cpu(t) + cb.cpu(t)
	start := time.Now()
	if to.IsValid() {
		flood(t, a, to, l.bytes, mtu)
	} else {
		stream(t, a, b, l)
	}
	took := time.Since(start).Seconds()
	used := (ca.cpu(t) + cb.cpu(t) - before).Seconds()
	return measured{rate: float64(l.bytes) / took / 1e6, cpu: used / (float64(l.bytes) / 1e9), peak: max(ca.peak(t), cb.peak(t))}
}

func port(t testing.TB, s string) uint16 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 16)
	must(t, err)
	return uint16(n)
}

// flood sends datagrams as fast as the kernel takes them, cut by the kernel as
// a guest's network card would have it.
func flood(t testing.TB, a *site, to netip.Addr, bytes int64, mtu int) {
	t.Helper()
	var c *net.UDPConn
	must(t, within(a.routerNS, func() error {
		d, err := net.Dial("udp", netip.AddrPortFrom(to, 9).String())
		if err != nil {
			return err
		}
		c = d.(*net.UDPConn)
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, mtu-28) })
	}))
	defer c.Close()
	buf := make([]byte, (mtu-28)*40)
	for left := bytes; left > 0; left -= int64(len(buf)) {
		c.Write(buf) // refused, or lost, as may be
	}
}

// BenchmarkKernel runs BenchmarkInGuest under the node's kernel.
func BenchmarkKernel(b *testing.B) {
	console := vmtest.RunInVM(b, ".", vmtest.Options{
		Run:     "^TestAutoTakesTheKernel$",
		Modules: []string{"wireguard", "veth", "tun"},
		Args:    []string{"-test.v", "-test.bench=BenchmarkInGuest", "-test.benchtime=1x"},
		Timeout: 8 * time.Minute,
	})
	found := 0
	for line := range strings.Lines(console) {
		_, text, ok := strings.Cut(line, "measured: ")
		if !ok {
			continue
		}
		found++
		b.Log(strings.TrimSpace(text))
		if f := strings.Fields(text); len(f) > 2 && f[1] == "x-by-hand" {
			x, err := strconv.ParseFloat(f[0], 64)
			must(b, err)
			b.ReportMetric(x, "x-by-hand")
		}
	}
	if found == 0 {
		b.Fatal("the guest measured nothing")
	}
	b.ReportMetric(0, "ns/op")
}

func BenchmarkUserspace(b *testing.B) {
	for _, mtu := range []int{DefaultMTU, 1420} {
		b.Run(fmt.Sprintf("mtu=%d", mtu), func(b *testing.B) {
			idle := measure(b, "none", mtu, load{}, netip.Addr{}).peak
			for range b.N {
				l := load{streams: 1, bytes: 512 << 20}
				var runs [2][]measured
				for range 3 { // in turn, so that the machine's moods meet both
					for i, kind := range []string{"ours", "stock"} {
						m := measure(b, kind, mtu, l, netip.Addr{})
						b.Logf("MTU %d, %s: %v", mtu, kind, m)
						runs[i] = append(runs[i], m)
					}
				}
				ours, stock := median(runs[0]), median(runs[1])
				b.ReportMetric(ours.rate, "MB/s")
				b.ReportMetric(ours.rate/stock.rate, "x-stock")
				b.ReportMetric(ours.cpu, "CPU-s/GB")
				b.ReportMetric(stock.cpu, "stock-CPU-s/GB")
				b.ReportMetric(ours.peak-idle, "MB-memory")
				b.ReportMetric(stock.peak-idle, "stock-MB-memory")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

// median of each figure on its own, but the largest of memory.
func median(runs []measured) (m measured) {
	pick := func(of func(measured) float64) float64 {
		var all []float64
		for _, r := range runs {
			all = append(all, of(r))
			m.peak = max(m.peak, r.peak)
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	m.rate = pick(func(r measured) float64 { return r.rate })
	m.cpu = pick(func(r measured) float64 { return r.cpu })
	return m
}

// maxMemory of a device under load, in MB, beside an idle process's.
const maxMemory = 64

// TestMemoryStaysBoundedUnderLoad loads a device with what makes wireguard-go's
// queues grow: many streams, and a flood that nothing slows down.
func TestMemoryStaysBoundedUnderLoad(t *testing.T) {
	idle := measure(t, "none", DefaultMTU, load{}, netip.Addr{}).peak
	for name, l := range map[string]struct {
		load load
		to   netip.Addr
	}{
		"one stream":                          {load: load{streams: 1, bytes: 128 << 20}},
		"thirty streams":                      {load: load{streams: 30, bytes: 128 << 20}},
		"a flood":                             {load: load{bytes: 512 << 20}, to: netip.MustParseAddr("10.20.2.1")},
		"a flood to a peer that is not there": {load: load{bytes: 512 << 20}, to: deadPeer.Addr().Next()},
	} {
		m := measure(t, "ours", DefaultMTU, l.load, l.to)
		t.Logf("measured: %s: %v, %.0f MB beside the %.0f of an idle process (%d processors)", name, m, m.peak-idle, idle, runtime.NumCPU())
		if m.peak-idle > maxMemory {
			t.Errorf("%s: %.0f MB, want at most %d", name, m.peak-idle, maxMemory)
		}
	}
}
