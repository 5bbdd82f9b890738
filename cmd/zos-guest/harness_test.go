package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/guest"
	"github.com/zero-os/zos/linux/ext4"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
	"github.com/zero-os/zos/workload/control"
)

// Generous, because two cores emulate while other tests compile.
const patience = 3 * time.Minute

const testMAC = "52:54:00:12:34:56"

func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// builtIn is where built is; "" before.
var builtIn string

// built is what all tests boot.
var built = sync.OnceValues(func() (b struct{ agent, initrd, program, probe, dir string }, err error) {
	if b.dir, err = os.MkdirTemp("", "zos-guest-test-"); err != nil {
		return b, err
	}
	builtIn = b.dir
	compile := func(name, pkg string) string {
		out := filepath.Join(b.dir, name)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, cerr := cmd.CombinedOutput(); cerr != nil && err == nil {
			err = fmt.Errorf("build %s: %w\n%s", pkg, cerr, text)
		}
		return out
	}
	b.agent, b.program = compile("agent", "."), compile("program", "./testdata/program")
	b.probe = compile("probe", "github.com/zero-os/zos/workload/escape/program")
	b.initrd = filepath.Join(b.dir, "initrd")
	return b, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	os.RemoveAll(builtIn) // nothing, unless a test has booted
	os.Exit(code)
}

// initrd builds it once and returns its path.
func initrd(t testing.TB) string {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.initrd); err == nil {
		return b.initrd
	}
	data, err := boot.GuestInitrd(limit(t), vmtest.Kernel(t), b.agent)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.initrd, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return b.initrd
}

// machine is a guest under test.
type machine struct {
	*vmtest.Machine
	t       testing.TB
	agent   string // socket of the channel
	root    control.Root
	started time.Time
}

type options struct {
	erofs   bool // the root as a block device, else by virtiofs
	network bool
	quiet   bool // no console at all, as on nodes
	image   string
	disk    string // of the writable layer; "" makes one
}

// image is a root file system with the test's program in it.
func image(t testing.TB) string {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{"etc", "mnt", "data"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(b.program)
	if err != nil {
		t.Fatal(err)
	}
	probe, err := os.ReadFile(b.probe)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"program": data, "probe": probe, "etc/image": []byte("of the flist\n"), "etc/passwd": []byte("root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// A link that would lead a careless agent into its own root.
	if err := os.Symlink("../../../etc/real-hosts", filepath.Join(dir, "etc/hosts")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// upper is an empty ext4 for a writable layer.
func upper(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "upper")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(256 << 20); err != nil {
		t.Fatal(err)
	}
	if err := ext4.Journaled.Write(f, [16]byte{1}, nil, true); err != nil {
		t.Fatal(err)
	}
	return path
}

// start boots a guest.
func start(t testing.TB, o options) *machine {
	t.Helper()
	kernel, err := boot.OpenKernel(vmtest.Kernel(t))
	if err != nil {
		t.Fatal(err)
	}
	if o.image == "" {
		o.image = image(t)
	}
	if o.disk == "" {
		o.disk = upper(t)
	}
	dir := t.TempDir()
	m := &machine{t: t, agent: filepath.Join(dir, "agent"), root: control.Root{Upper: "upper"}}
	c := qemu.Config{
		Name: "guest", MemoryMB: 256, Kernel: kernel.Image, Initrd: initrd(t), NoReboot: true, Cmdline: guest.Cmdline,
		Disks: []qemu.Disk{{Path: o.disk, Serial: "upper"}},
		Extra: []string{
			"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path=" + m.agent,
			"-device", "virtserialport,chardev=agent,name=" + guest.PortName,
		},
	}
	if !o.quiet {
		c.Cmdline = strings.Replace(c.Cmdline, "quiet loglevel=1", "console=ttyS0 loglevel=4", 1)
	}
	if o.network {
		c.Network = &qemu.Network{MAC: testMAC}
	}
	if o.erofs {
		path := filepath.Join(dir, "root.erofs")
		if text, err := exec.Command("mkfs.erofs", "--all-root", path, o.image).CombinedOutput(); err != nil {
			t.Fatalf("mkfs.erofs: %v\n%s", err, text)
		}
		m.root.Disk = "flist"
		c.Disks = append(c.Disks, qemu.Disk{Path: path, Serial: "flist", ReadOnly: true})
	} else {
		socket := filepath.Join(dir, "fs")
		virtiofsd(t, socket, o.image)
		m.root.Tag = "flist"
		c.Machine = "q35,memory-backend=memory"
		c.Extra = append(c.Extra,
			"-object", "memory-backend-memfd,id=memory,size=256M,share=on",
			"-chardev", "socket,id=fs,path="+socket, "-device", "vhost-user-fs-pci,chardev=fs,tag=flist")
	}
	m.started = time.Now()
	m.Machine = vmtest.NewMachine(t, c)
	return m
}

// virtiofsd serves dir for as long as the test lasts.
func virtiofsd(t testing.TB, socket, dir string) {
	t.Helper()
	cmd := exec.Command("/usr/lib/qemu/virtiofsd", "-f", "--socket-path="+socket, "-o", "source="+dir, "-o", "cache=always", "-o", "log_level=err")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("virtiofsd does not serve")
		}
	}
}

// dial opens the channel. QEMU takes one connection at a time and lets one wait.
func (m *machine) dial() net.Conn {
	m.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", m.agent)
		if err == nil {
			return conn
		}
		if time.Now().After(end) {
			m.t.Fatal(err)
		}
	}
}

// connect begins a session as a shim does.
func (m *machine) connect() *guest.Session {
	m.t.Helper()
	conn := m.dial()
	s, err := guest.Connect(limit(m.t), conn)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = s.Close() })
	return s
}

// ask opens a connection for a request.
func ask(t testing.TB, s *guest.Session, r control.Request) *control.Conn {
	t.Helper()
	c, err := s.Open(limit(t), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// program is a Boot of the test's program.
func (m *machine) program(args ...string) control.Boot {
	return control.Boot{
		Hostname: "web", Root: m.root, Args: append([]string{"/program"}, args...), Env: []string{"A=1", "PATH=/"}, WorkDir: "/work",
		NoNewPrivs: true, PIDs: 64, Time: time.Now().UnixNano(),
	}
}

// run boots it.
func (m *machine) run(s *guest.Session, b control.Boot) *control.Conn {
	m.t.Helper()
	return ask(m.t, s, control.Request{Verb: control.VerbBoot, Boot: &b})
}

// heard is what a connection brought.
type heard struct {
	out, err string
	code     int
	result   []byte
	fault    error
}

// listen reads until the last frame, or until what is wanted on stdout has come.
func listen(t testing.TB, c *control.Conn, want string) heard {
	t.Helper()
	h := heard{code: -1}
	timer := time.AfterFunc(patience, func() { _ = c.Close() })
	defer timer.Stop()
	for {
		kind, b, err := c.Read()
		if err != nil {
			t.Fatalf("after %q and %q: %v", tail(h.out), tail(h.err), err)
		}
		switch kind {
		case control.FrameStdout:
			if h.out += string(b); want != "" && strings.Contains(h.out, want) {
				return h
			}
		case control.FrameStderr:
			h.err += string(b)
		case control.FrameExit:
			h.code = control.ExitCode(b)
			return h
		case control.FrameResult:
			h.result = append([]byte(nil), b...)
			return h
		case control.FrameError:
			h.fault = control.Failure(b)
			t.Logf("the agent says: %v", h.fault)
			return h
		}
	}
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

// exec runs a program beside it to its end.
func (m *machine) exec(s *guest.Session, args ...string) heard {
	m.t.Helper()
	c := ask(m.t, s, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: append([]string{"/program"}, args...)}})
	defer c.Close() // a session has few streams
	return listen(m.t, c, "")
}

func (m *machine) status(s *guest.Session) control.Stats {
	m.t.Helper()
	var st control.Stats
	c := ask(m.t, s, control.Request{Verb: control.VerbStatus})
	defer c.Close()
	h := listen(m.t, c, "")
	if err := json.Unmarshal(h.result, &st); err != nil {
		m.t.Fatal(err)
	}
	return st
}

// ends waits for the machine to power off, after the node has heard enough.
func (m *machine) ends(c *control.Conn) {
	m.t.Helper()
	_ = c.Close()
	m.WaitEnd(m.t, patience)
}
