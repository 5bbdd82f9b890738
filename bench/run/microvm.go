package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/zero-os/zos/guest"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/vmm/tree"
	"github.com/zero-os/zos/workload/control"
)

// guestMemory is what all machines of this bench have, in bytes.
const guestMemory = 256 << 20

// patience bounds every wait for a machine.
const patience = 2 * time.Minute

const guestMAC = "52:54:00:12:34:56"

// microVM is a machine with the very command lines that a node uses, but without the
// containers around them: they need a cgroup hierarchy that is version 2 alone. It has the
// board that emulation can run.
type microVM struct {
	dir     string
	monitor *exec.Cmd
	server  *exec.Cmd // nil: the root is a block image
	session *guest.Session
	boot    *control.Conn
	ready   time.Duration // from the first process's start until the agent had answered
}

type microVMOptions struct {
	erofs  bool // the image as a block device, else by virtiofs
	disk   string
	tap    *os.File
	ifaces []control.Iface
	group  func(pid int) error // takes each process before it becomes its program; nil: none does
}

// startMicroVM starts one, and returns when its agent answers.
func (p *parts) startMicroVM(ctx context.Context, o microVMOptions) (m *microVM, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m = &microVM{}
	if m.dir, err = os.MkdirTemp(p.dir, "microvm-"); err != nil {
		return nil, err
	}
	defer func(m *microVM) {
		if err != nil {
			m.stop()
		}
	}(m)
	c := vmm.Config{
		Name: "bench", Accel: vmm.TCG, Board: vmm.Q35, Memory: guestMemory, CPUs: 1,
		Kernel: &vmm.Kernel{Image: p.kernel, Initrd: p.guest, Cmdline: guest.Cmdline},
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	add := func(f *os.File, err2 error) vmm.FD {
		err = errors.Join(err, err2)
		files = append(files, f)
		return vmm.FD(2 + len(files))
	}
	c.QMP = add(listen(filepath.Join(m.dir, "qmp")))
	c.Agent = add(listen(filepath.Join(m.dir, "agent")))
	c.Disks = append(c.Disks, vmm.Disk{Serial: "upper", File: add(os.OpenFile(o.disk, os.O_RDWR, 0))})
	if o.erofs {
		c.Disks = append(c.Disks, vmm.Disk{Serial: "flist", File: add(os.Open(p.imageEROFS)), ReadOnly: true})
	}
	if o.tap != nil {
		files = append(files, o.tap)
		c.NICs = []vmm.NIC{{MAC: guestMAC, Tap: vmm.FD(2 + len(files))}}
	}
	if err != nil {
		return nil, err
	}
	began := time.Now()
	root := control.Root{Disk: "flist", Upper: "upper"}
	if !o.erofs {
		root = control.Root{Tag: "root", Upper: "upper"}
		f, err := m.share(ctx, p.image, o.group)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
		c.Shares = []vmm.Share{{Tag: "root", Socket: vmm.FD(2 + len(files))}}
	}
	args, err := c.Args()
	if err != nil {
		return nil, err
	}
	if m.monitor, err = spawn(args, files, o.group); err != nil {
		return nil, err
	}
	conn, err := net.Dial("unix", filepath.Join(m.dir, "agent"))
	if err != nil {
		return nil, err
	}
	if m.session, err = guest.Connect(ctx, conn); err != nil {
		return nil, err
	}
	m.ready = time.Since(began)
	m.boot, err = m.session.Open(ctx, control.Request{Verb: control.VerbBoot, Boot: &control.Boot{
		Hostname: "bench", Root: root, Interfaces: o.ifaces, Args: []string{"/bin/meter", "hello"}, Env: []string{"PATH=/bin"}, WorkDir: "/",
		NoNewPrivs: true, PIDs: 64, Time: time.Now().UnixNano(),
	}})
	if err != nil {
		return nil, err
	}
	if _, err := follow(m.boot, "hello"); err != nil {
		return nil, err
	}
	return m, nil
}

// share starts the file server with the arguments that it has on a node.
func (m *microVM) share(ctx context.Context, dir string, group func(int) error) (*os.File, error) {
	spec, err := vmm.FileServerSpec("bench", dir, false, 3, vmm.Box{Root: "/usr", IDBase: 1 << 20, IDs: 1 << 16})
	if err != nil {
		return nil, err
	}
	args := spec.Process.Args
	for i, a := range args {
		if a == "source="+tree.Share {
			args[i] = "source=" + dir
		}
	}
	l, err := listen(filepath.Join(m.dir, "fs"))
	if err != nil {
		return nil, err
	}
	defer l.Close()
	if m.server, err = spawn(args, []*os.File{l}, group); err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(m.dir, "fs"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*net.UnixConn).File()
}

// measure runs the meter inside and returns its figure. started, if given, is called
// when it says that it listens.
func (m *microVM) measure(ctx context.Context, started func(), args ...string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := m.session.Open(ctx, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: append([]string{"/bin/meter"}, args...)}})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if started != nil {
		if _, err := follow(c, "listens"); err != nil {
			return 0, err
		}
		started()
	}
	text, err := follow(c, "result ")
	if err != nil {
		return 0, err
	}
	return result(text)
}

// result finds the figure in what a meter said.
func result(text string) (float64, error) {
	_, rest, found := strings.Cut(text, "result ")
	if f := strings.Fields(rest); found && len(f) > 0 {
		return strconv.ParseFloat(f[0], 64)
	}
	return 0, fmt.Errorf("the meter says %q", text)
}

// follow reads output up to the line in which want is.
func follow(c *control.Conn, want string) (string, error) {
	timer := time.AfterFunc(patience, func() { _ = c.Close() })
	defer timer.Stop()
	var text strings.Builder
	for {
		kind, b, err := c.Read()
		if err != nil {
			return "", fmt.Errorf("after %q: %w", text.String(), err)
		}
		switch kind {
		case control.FrameStdout, control.FrameStderr:
			text.Write(b)
			if _, rest, found := strings.Cut(text.String(), want); found && strings.Contains(rest, "\n") {
				return text.String(), nil
			}
		case control.FrameExit:
			return "", fmt.Errorf("it ended with %d: %q", control.ExitCode(b), text.String())
		case control.FrameError:
			return "", control.Failure(b)
		}
	}
}

// stop ends everything of it.
func (m *microVM) stop() {
	if m.session != nil {
		_ = m.session.Close()
	}
	for _, c := range []*exec.Cmd{m.monitor, m.server} {
		if c != nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	}
	_ = os.RemoveAll(m.dir)
}

// spawn starts a program with what it inherits. what it says is shown when it fails
// later only by what waits for it.
func spawn(args []string, files []*os.File, group func(int) error) (*exec.Cmd, error) {
	if group != nil {
		// It enters the group itself, before it becomes the program.
		args = append([]string{"/bin/sh", "-c", `read go; exec "$@"`, "sh"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.ExtraFiles, cmd.Stderr = files, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if group != nil {
		err = group(cmd.Process.Pid)
	}
	_, _ = in.Write([]byte("go\n"))
	return cmd, err
}

func listen(path string) (*os.File, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	return l.File()
}
