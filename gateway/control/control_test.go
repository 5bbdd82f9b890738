package control

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patient = 20 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	t.Cleanup(cancel)
	return ctx
}

// fakeDaemon answers as a daemon does, with sockets of this namespace.
type fakeDaemon struct {
	mu    sync.Mutex
	lines chan LogLine
	notes chan Note
	keys  map[string][]byte
	asked []SocketsRequest
}

func newFakeDaemon() *fakeDaemon {
	return &fakeDaemon{lines: make(chan LogLine, 100), notes: make(chan Note, 100), keys: map[string][]byte{}}
}

func (d *fakeDaemon) Sockets(_ context.Context, r SocketsRequest) ([]int, error) {
	d.mu.Lock()
	d.asked = append(d.asked, r)
	d.mu.Unlock()
	if r.Network == "none" {
		return nil, problem.New("network-unknown", "no such network")
	}
	kind := unix.SOCK_STREAM
	if r.UDP {
		kind = unix.SOCK_DGRAM
	}
	var fds []int
	for range r.Count {
		fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func (d *fakeDaemon) Log(lines []LogLine) {
	for _, l := range lines {
		d.lines <- l
	}
}

func (d *fakeDaemon) Note(n Note) { d.notes <- n }

func (d *fakeDaemon) Store(_ context.Context, r StoreRequest) (StoreReply, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch r.Op {
	case StorePut:
		d.keys[r.Key] = r.Value
		return StoreReply{}, nil
	case StoreGet:
		v, ok := d.keys[r.Key]
		if !ok {
			return StoreReply{Failure: Failure{FailureAbsent, "absent"}}, nil
		}
		return StoreReply{Value: v}, nil
	}
	return StoreReply{}, errors.New("not today")
}

func (d *fakeDaemon) Resolve(_ context.Context, host string) ([]netip.Addr, error) {
	if host == "nowhere.example" {
		return nil, errors.New("no such host")
	}
	return []netip.Addr{netip.MustParseAddr("198.51.100.7")}, nil
}

func (d *fakeDaemon) Record(_ context.Context, r RecordRequest) error {
	if r.Absent {
		return errors.New("was not there")
	}
	return nil
}

// fakeService is what the process does.
type fakeService struct {
	configs chan Config
	zones   chan Zone
}

func newFakeService() *fakeService {
	return &fakeService{configs: make(chan Config, 10), zones: make(chan Zone, 10)}
}

func (s *fakeService) Configure(c Config) error {
	if len(c.Routes) == 0 {
		return errors.New("nothing to serve")
	}
	s.configs <- c
	return nil
}
func (s *fakeService) SetZone(z Zone) error { s.zones <- z; return nil }
func (s *fakeService) Status(c canon.Hash) Status {
	return Status{Routes: []RouteStatus{{ID: c.String(), Total: 7}}, Certificates: []CertificateStatus{}}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// process runs a Process until the test ends.
func process(t testing.TB, s Service) (*Process, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	p := NewProcess(l, s, discard())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return p, path
}

// daemon connects one until the test, or end, ends it.
func daemon(t testing.TB, path string, h Handler) (d *Daemon, end func()) {
	t.Helper()
	d, err := Connect(limited(t), path, h)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = d.Run(ctx) }()
	end = func() { cancel(); <-done }
	t.Cleanup(end)
	return d, end
}

func someConfig() Config {
	return Config{Generation: 3, Authority: "https://ca.example/dir", Roots: [][]byte{{1}}, Domain: "grid.example",
		DNS: []string{"198.51.100.1"},
		Routes: []Route{{ID: "c/w/h", Contract: canon.Sum([]byte("c")), Workload: "w", Addresses: []string{"2001:db8::1"},
			Host: "shop.example", Mode: "passthrough", Port: 443, Network: "c/w", Check: "tcp",
			Backends: []Backend{{"web", "10.1.1.2:8443"}}}}}
}

var byValue = cmpopts.EquateEmpty()

func TestWhatIsToBeServedArrivesWhole(t *testing.T) {
	s := newFakeService()
	_, path := process(t, s)
	d, _ := daemon(t, path, newFakeDaemon())
	ctx := limited(t)
	must(t, d.Configure(ctx, someConfig()))
	if diff := cmp.Diff(<-s.configs, someConfig(), byValue); diff != "" {
		t.Error(diff)
	}
	z := Zone{Domain: "grid.example", Serial: 9, NS: []ZoneName{{"ns.grid.example", []string{"198.51.100.1"}}},
		Names: []ZoneName{{"shop", []string{"198.51.100.2"}}}, TXT: []ZoneRecord{{"_x.grid.example", []string{"a"}}}}
	must(t, d.SetZone(ctx, z))
	if diff := cmp.Diff(<-s.zones, z, byValue); diff != "" {
		t.Error(diff)
	}
	st, err := d.Status(ctx, canon.Sum([]byte("c")))
	must(t, err)
	if st.Routes[0].ID != canon.Sum([]byte("c")).String() {
		t.Errorf("status %+v", st)
	}
	if err := d.Configure(ctx, Config{Generation: 4}); err == nil || !strings.Contains(err.Error(), "nothing to serve") {
		t.Errorf("a refusal is told as %v", err)
	}
}

func TestAnotherDaemonFindsWhatIsServed(t *testing.T) {
	s := newFakeService()
	p, path := process(t, s)
	d, _ := daemon(t, path, newFakeDaemon())
	if d.Hello().Generation != 0 {
		t.Errorf("a fresh process serves %d", d.Hello().Generation)
	}
	if d.PID() != unix.Getpid() {
		t.Errorf("the kernel says that process %d listens", d.PID())
	}
	must(t, d.Configure(limited(t), someConfig()))
	h := newFakeDaemon()
	second, _ := daemon(t, path, h)
	if second.Hello().Generation != 3 {
		t.Errorf("it serves %d, want 3", second.Hello().Generation)
	}
	// The older one is gone; questions go to the new one.
	if _, err := p.Sockets(limited(t), SocketsRequest{Network: "n", Count: 1}); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.asked) != 1 {
		t.Error("the newest daemon was not asked")
	}
}

func TestTheProcessIsAnswered(t *testing.T) {
	h := newFakeDaemon()
	p, path := process(t, newFakeService())
	daemon(t, path, h)
	ctx := limited(t)
	_, err := p.StoreOp(ctx, StoreRequest{Op: StorePut, Key: "k", Value: []byte("v")})
	must(t, err)
	r, err := p.StoreOp(ctx, StoreRequest{Op: StoreGet, Key: "k"})
	if err != nil || string(r.Value) != "v" {
		t.Errorf("%q, %v", r.Value, err)
	}
	var failed Failed
	if _, err := p.StoreOp(ctx, StoreRequest{Op: StoreGet, Key: "x"}); !errors.As(err, &failed) || failed.Code != FailureAbsent {
		t.Errorf("an absent key is %v", err)
	}
	if addrs, err := p.Resolve(ctx, "ca.example"); err != nil || len(addrs) != 1 {
		t.Errorf("%v, %v", addrs, err)
	}
	if _, err := p.Resolve(ctx, "nowhere.example"); err == nil {
		t.Error("a host that is nowhere was found")
	}
	must(t, p.Record(ctx, RecordRequest{Name: "_acme-challenge.shop.grid.example", Text: "x"}))
	p.Note(Note{Text: "hello"})
	if n := <-h.notes; n.Text != "hello" {
		t.Errorf("note %+v", n)
	}
	for range 3 {
		must(t, p.Log(ctx, LogLine{Workload: "w", Line: []byte("a line")}))
	}
	for range 3 {
		if l := <-h.lines; string(l.Line) != "a line" {
			t.Errorf("line %q", l.Line)
		}
	}
}

func TestLinesWaitForADaemon(t *testing.T) {
	p, path := process(t, newFakeService())
	taken := 0
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		err := p.Log(ctx, LogLine{Line: []byte("x")})
		cancel()
		if err != nil {
			break
		}
		if taken++; taken > 1<<20 {
			t.Fatal("it takes lines without end")
		}
	}
	h := newFakeDaemon()
	h.lines = make(chan LogLine, taken)
	daemon(t, path, h)
	for range taken {
		<-h.lines
	}
}

// echo is a backend.
func echo(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); _, _ = io.Copy(c, c) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func say(t testing.TB, c net.Conn) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(patient)))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestSocketsOfTheDaemonReachBackends(t *testing.T) {
	p, path := process(t, newFakeService())
	_, end := daemon(t, path, newFakeDaemon())
	d := NewDialer(p)
	defer d.Close()
	at := echo(t)
	for range 3 * minStock {
		c, err := d.Dial(limited(t), "n", "tcp", at)
		must(t, err)
		if _, ok := c.(syscall.Conn); !ok || c.RemoteAddr().String() != at.String() {
			t.Errorf("it is a %T to %v", c, c.RemoteAddr())
		}
		say(t, c)
		c.Close()
	}
	_, err := d.Dial(limited(t), "n", "tcp", netip.MustParseAddrPort("127.0.0.1:1"))
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a closed port is %v", err)
	}
	if _, err := d.Dial(limited(t), "none", "tcp", at); err == nil || errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a network that is none: %v", err)
	}
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer u.Close()
	c, err := d.Dial(limited(t), "n", "udp", u.LocalAddr().(*net.UDPAddr).AddrPort())
	must(t, err)
	if _, ok := c.(*net.UDPConn); !ok {
		t.Errorf("it is a %T", c)
	}
	c.Close()
	// While no daemon is there, some more connections can be made.
	end()
	made := 0
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		c, err := d.Dial(ctx, "n", "tcp", at)
		cancel()
		if err != nil {
			if !errors.Is(err, ErrAway) {
				t.Errorf("without a daemon: %v", err)
			}
			break
		}
		say(t, c)
		c.Close()
		made++
	}
	if made < minStock/2 {
		t.Errorf("%d connections could be made without a daemon", made)
	}
	// And again as soon as there is one.
	daemon(t, path, newFakeDaemon())
	c, err = d.Dial(limited(t), "n", "tcp", at)
	must(t, err)
	c.Close()
}

func TestDialEndsWithItsContext(t *testing.T) {
	p, path := process(t, newFakeService())
	daemon(t, path, newFakeDaemon())
	d := NewDialer(p)
	defer d.Close()
	// A listener whose queue is full answers no SYN.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, unix.Listen(fd, 0))
	sa, err := unix.Getsockname(fd)
	must(t, err)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))
	for range 10 {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		c, err := d.Dial(ctx, "n", "tcp", at)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return
		}
		must(t, err)
		defer c.Close()
	}
	t.Error("it never waited")
}

// raw is a process that says what it likes.
func raw(t testing.TB, say func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		say(c)
		_ = c.SetReadDeadline(time.Now().Add(patient))
		_, _ = io.Copy(io.Discard, c)
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return path
}

func packed(kind byte, fds byte, id uint64, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	return append(binary.BigEndian.AppendUint64(append(b, kind, fds), id), body...)
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := canon.Marshal(v)
	must(t, err)
	return b
}

func TestAHostileProcessIsHungUpOn(t *testing.T) {
	hello := packed(upHello, 0, 0, marshal(t, Hello{V: Version}))
	long := strings.Repeat("x", MaxText+1)
	for what, b := range map[string][]byte{
		"a frame that is too long": append(binary.BigEndian.AppendUint32(nil, MaxUp+1), make([]byte, 10)...),
		"descriptors":              packed(upNote, 1, 0, marshal(t, Note{})),
		"an unknown kind":          packed(200, 0, 0, nil),
		"a frame of the daemon":    packed(downConfig, 0, 0, marshal(t, someConfig())),
		"junk":                     packed(upStore, 0, 1, []byte{0xff}),
		"a long note":              packed(upNote, 0, 0, marshal(t, Note{Text: long})),
		"no sockets":               packed(upSockets, 0, 1, marshal(t, SocketsRequest{Network: "n"})),
		"too many sockets":         packed(upSockets, 0, 1, marshal(t, SocketsRequest{Network: "n", Count: MaxBatch + 1})),
		"a long network":           packed(upSockets, 0, 1, marshal(t, SocketsRequest{Network: long, Count: 1})),
		"too many lines":           packed(upLog, 0, 0, marshal(t, LogBatch{make([]LogLine, MaxLines+1)})),
		"a long line":              packed(upLog, 0, 0, marshal(t, LogBatch{[]LogLine{{Line: make([]byte, MaxLine+1)}}})),
		"a long key":               packed(upStore, 0, 1, marshal(t, StoreRequest{Op: StoreGet, Key: long})),
		"a key with a line's end":  packed(upStore, 0, 1, marshal(t, StoreRequest{Op: StoreGet, Key: "a\nb"})),
		"a large value":            packed(upStore, 0, 1, marshal(t, StoreRequest{Op: StorePut, Key: "a", Value: make([]byte, MaxValue+1)})),
		"a long host":              packed(upResolve, 0, 1, marshal(t, ResolveRequest{long})),
		"a long record":            packed(upRecord, 0, 1, marshal(t, RecordRequest{Name: "n", Text: long})),
	} {
		t.Run(what, func(t *testing.T) {
			path := raw(t, func(c net.Conn) { _, _ = c.Write(append(bytes.Clone(hello), b...)) })
			d, err := Connect(limited(t), path, newFakeDaemon())
			must(t, err)
			ctx := limited(t)
			if err := d.Run(ctx); err == nil || ctx.Err() != nil {
				t.Errorf("Run ended with %v", err)
			}
		})
	}
	for what, b := range map[string][]byte{
		"another version":     packed(upHello, 0, 0, marshal(t, Hello{V: Version + 1})),
		"no hello":            packed(upNote, 0, 0, marshal(t, Note{})),
		"something else":      []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"an unfinished frame": {0, 0, 0, 9},
	} {
		path := raw(t, func(c net.Conn) { _, _ = c.Write(b); _ = c.(*net.UnixConn).CloseWrite() })
		if d, err := Connect(limited(t), path, newFakeDaemon()); err == nil {
			d.Close()
			t.Errorf("%s was taken as a process", what)
		}
	}
}

// What it answers without being asked, or in another kind, changes nothing.
func TestAnswersThatNobodyAskedForAreDropped(t *testing.T) {
	path := raw(t, func(c net.Conn) {
		_, _ = c.Write(packed(upHello, 0, 0, marshal(t, Hello{V: Version})))
		for id := range uint64(100) {
			_, _ = c.Write(packed(upStatus, 0, id+50, marshal(t, Status{})))
		}
		head := make([]byte, headSize)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head)))
		_, _ = c.Write(packed(upStatus, 0, binary.BigEndian.Uint64(head[6:]), marshal(t, Status{})))
	})
	d, _ := daemon(t, path, newFakeDaemon())
	if err := d.Configure(limited(t), someConfig()); err == nil {
		t.Error("a status was taken for an answer to a configuration")
	}
}

func FuzzWhatAProcessSays(f *testing.F) {
	for _, b := range [][]byte{
		packed(upApplied, 0, 1, marshal(f, Applied{"x"})), packed(upStatus, 0, 1, marshal(f, newFakeService().Status(canon.Hash{}))),
		packed(upSockets, 0, 1, marshal(f, SocketsRequest{"n", false, 3})), packed(upLog, 0, 1, marshal(f, LogBatch{[]LogLine{{Line: []byte("x")}}})),
		packed(upStore, 0, 1, marshal(f, StoreRequest{Op: StorePut, Key: "k", Value: []byte("v")})), packed(upResolve, 0, 1, marshal(f, ResolveRequest{"h"})),
		packed(upNote, 0, 1, marshal(f, Note{1, "x"})), packed(upRecord, 0, 1, marshal(f, RecordRequest{Name: "n", Text: "t"})),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		d := &Daemon{handler: newFakeDaemon(), waiting: map[uint64]chan frame{}}
		for {
			fr, err := readUp(r)
			if err != nil {
				return
			}
			if len(fr.body) > MaxUp {
				t.Fatal("a frame beyond the bound")
			}
			switch fr.kind {
			case upApplied:
				_, _ = take[Applied](fr)
			case upStatus:
				if s, err := take[Status](fr); err == nil && len(s.Routes) > MaxListed {
					t.Fatal("beyond the bound")
				}
			case upLog:
				if l, err := take[LogBatch](fr); err == nil && len(l.Lines) > MaxLines {
					t.Fatal("beyond the bound")
				}
			case upNote:
				_, _ = take[Note](fr)
			default:
				_, _ = d.question(fr)
			}
		}
	})
}

func BenchmarkDial(b *testing.B) {
	p, path := process(b, newFakeService())
	daemon(b, path, newFakeDaemon())
	d := NewDialer(p)
	defer d.Close()
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(b, err)
	defer u.Close()
	ctx := context.Background()
	for b.Loop() {
		fd, err := d.socket(ctx, "n", false)
		must(b, err)
		unix.Close(fd)
	}
}
