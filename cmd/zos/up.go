package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/grid"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/qemu"
)

// upOptions are the flags of `zos up`.
type upOptions struct {
	dir       string
	image     string
	nodes     int
	gateways  int
	identity  string
	firmware  string
	memory    int
	noDemo    bool
	relayOnly bool
	detach    bool
	wait      time.Duration
}

func (a *app) upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a whole grid on this machine",
		Long: `Start a whole grid on this machine: a ledger with one validator, a hub, a boot
source, a bus, a farm's agent, and nodes that are real machines: QEMU boots them
over the network, with no system on any disk.

Without --dir the grid lives in a temporary directory and leaves nothing behind.
With --dir it can be ended and started again, and its workloads return.`,
		Example: `  zos up
  zos up --dir ~/grid --nodes 3 --detach
  zos down --dir ~/grid`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.up(cmd.Context(), o) },
	}
	image := "image"
	if exe, err := os.Executable(); err == nil {
		image = filepath.Join(filepath.Dir(exe), "image")
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "directory of the grid (default: a temporary one, removed at the end)")
	f.StringVar(&o.image, "image", image, "directory that `zos boot image` made")
	f.IntVar(&o.nodes, "nodes", 1, "how many nodes")
	f.IntVar(&o.gateways, "gateways", 1, "how many of the nodes, the last ones, have public addresses, played on this machine's loopback")
	f.StringVar(&o.identity, "identity", grid.IdentityDisk, "where nodes keep their keys: disk, tpm or none; several, with commas, go round")
	f.StringVar(&o.firmware, "firmware", string(qemu.BIOS), "what the machines start with: bios or uefi")
	f.IntVar(&o.memory, "memory", 0, "memory of each node in MiB (default: 512, without disks 1024)")
	f.BoolVar(&o.relayOnly, "relay-only", false, "nodes open no UDP socket for networks: everything between nodes goes by the rendezvous")
	f.BoolVar(&o.noDemo, "no-demo", false, "do not play the first deployment")
	f.BoolVar(&o.detach, "detach", false, "return when the grid is ready; end it with zos down")
	f.DurationVar(&o.wait, "wait", 3*time.Minute, "how long to wait for the nodes")
	for flag, values := range map[string][]string{
		"identity": {grid.IdentityDisk, grid.IdentityTPM, grid.IdentityNone}, "firmware": {string(qemu.BIOS), string(qemu.UEFI)},
	} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

// up starts a grid and keeps it until it is told to end.
func (a *app) up(ctx context.Context, o upOptions) (err error) {
	if o.detach {
		return a.upDetached(ctx, o)
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "zos-"); err != nil {
			return fmt.Errorf("make a temporary directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	log, closeLog, err := a.gridLog(o.dir)
	if err != nil {
		return err
	}
	defer closeLog()
	began := time.Now()
	g, err := grid.Up(ctx, grid.Options{
		Dir: o.dir, Image: o.image, Nodes: o.nodes, Gateways: o.gateways, Identity: o.identity, Firmware: qemu.Firmware(o.firmware), Memory: o.memory, RelayOnly: o.relayOnly,
		Progress: a.progress, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() {
		a.progress("ending the grid")
		err = errors.Join(err, g.Close())
	}()
	wait, cancel := context.WithTimeout(ctx, o.wait)
	defer cancel()
	if err := g.Ready(wait); err != nil {
		return err
	}
	a.progress("%s in %.0f s", a.paint(a.err, good, "the grid is ready"), time.Since(began).Seconds())
	if !o.noDemo {
		if err := a.demo(ctx, g); err != nil {
			return fmt.Errorf("play the first deployment: %w", err)
		}
	}
	if a.format == "json" {
		if err := a.json(g.State()); err != nil {
			return err
		}
	} else {
		a.nextSteps(g.State(), o)
	}
	if err := g.Wait(ctx); err != nil {
		return err
	}
	return nil
}

// gridLog opens the log of the grid's services, in its directory.
func (a *app) gridLog(dir string) (*slog.Logger, func(), error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the grid's directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "grid.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open the grid's log: %w", err)
	}
	var w io.Writer = f
	if a.verbose {
		w = io.MultiWriter(f, a.err)
	}
	return slog.New(slog.NewTextHandler(w, nil)), func() { _ = f.Close() }, nil
}

// nextSteps tells a person what to try.
func (a *app) nextSteps(s grid.State, o upOptions) {
	lines := []string{fmt.Sprintf("export %s=%s", client.ConfigEnv, s.Env[client.ConfigEnv])}
	// `make up` runs bin/zos, which no shell finds by itself.
	if _, err := exec.LookPath("zos"); err != nil {
		if exe, err := os.Executable(); err == nil {
			lines = append(lines, fmt.Sprintf("export PATH=%s:$PATH", filepath.Dir(exe)))
		}
	}
	if o.noDemo {
		lines = append(lines, "zos node ls", "zos deploy examples/hello.yaml --as red", "zos proposals")
	} else {
		lines = append(lines, "zos ps", "zos logs demo/hello", "zos node show node-1")
	}
	where := "in another terminal:"
	if o.detach {
		where = "in this terminal:"
	}
	fmt.Fprintf(a.out, "\n%s\n", a.paint(a.out, loud, "Try next, "+where))
	for _, line := range lines {
		fmt.Fprintf(a.out, "  %s\n", line)
	}
	a.publicSide(s)
	switch {
	case o.detach:
		a.progress("\nzos down --dir %s ends the grid.", o.dir)
	case term.IsTerminal(int(os.Stdin.Fd())): // a detached grid has none
		a.progress("\nCtrl-C ends the grid.")
	}
}

// publicSide tells at which ports of this machine's loopback the public addresses
// are reached.
func (a *app) publicSide(s grid.State) {
	ports := map[netip.Addr][]string{}
	for _, n := range s.Nodes {
		for _, public := range slices.SortedFunc(maps.Keys(n.Public), byPort) {
			p, proto, _ := strings.Cut(public, "/")
			at, err := netip.ParseAddrPort(p)
			if err != nil {
				continue
			}
			host, _, _ := strings.Cut(n.Public[public], "/")
			_, port, _ := strings.Cut(host, ":")
			ports[at.Addr()] = append(ports[at.Addr()], fmt.Sprintf("%d/%s=%s", at.Port(), proto, port))
		}
	}
	if len(ports) == 0 {
		return
	}
	fmt.Fprintf(a.out, "\n%s\n", a.paint(a.out, loud, "Public addresses are ports of 127.0.0.1 here:"))
	for _, addr := range slices.SortedFunc(maps.Keys(ports), netip.Addr.Compare) {
		const indent = 17
		fmt.Fprintf(a.out, "  %-*s %s\n", indent-3, addr, wrapped(strings.Join(ports[addr], " "), 100-indent, strings.Repeat(" ", indent)))
	}
}

// byPort sorts addresses like 198.51.100.16:443/tcp.
func byPort(x, y string) int {
	key := func(s string) (netip.AddrPort, string) {
		at, proto, _ := strings.Cut(s, "/")
		p, _ := netip.ParseAddrPort(at)
		return p, proto
	}
	p, px := key(x)
	q, qx := key(y)
	return cmp.Or(p.Compare(q), strings.Compare(px, qx))
}

// upDetached starts `zos up` as a process of its own and waits until its grid is
// ready.
func (a *app) upDetached(ctx context.Context, o upOptions) error {
	if o.dir == "" {
		return usageError{errors.New("--detach needs --dir: without it nobody could find the grid again")}
	}
	if pid, ok := grid.Holder(o.dir); ok {
		return problem.New("grid-running", "a grid already runs in %s, by process %d", o.dir, pid).WithFix("end it with: zos down --dir %s", o.dir)
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("make the grid's directory: %w", err)
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	logPath := filepath.Join(o.dir, "up.log")
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("open %s: %w", logPath, err)
	}
	defer log.Close()
	args := []string{"up", "--dir", o.dir, "--image", o.image, "--nodes", strconv.Itoa(o.nodes), "--gateways", strconv.Itoa(o.gateways), "--identity", o.identity,
		"--firmware", o.firmware, "--memory", strconv.Itoa(o.memory), "--wait", o.wait.String(), "--no-color"}
	if o.noDemo {
		args = append(args, "--no-demo")
	}
	if o.relayOnly {
		args = append(args, "--relay-only")
	}
	cmd := exec.Command(exe, args...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the grid: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	wait, cancel := context.WithTimeout(ctx, o.wait+30*time.Second)
	defer cancel()
	a.progress("starting the grid; its log is %s", logPath)
	relay, stopRelay := context.WithCancel(wait)
	relayed := make(chan struct{})
	go func() {
		defer close(relayed)
		a.relay(relay, logPath)
	}()
	s, err := awaitGrid(wait, o.dir, cmd.Process.Pid, ended)
	stopRelay()
	<-relayed
	switch {
	case err == nil:
	case errors.Is(err, errGridEnded):
		out, _ := os.ReadFile(logPath)
		return problem.New("grid-failed", "%w\n%s", err, lastLines(out, 12))
	default:
		if ctx.Err() != nil {
			err = ctx.Err()
		} else if wait.Err() != nil {
			err = problem.New("timeout", "the grid is not ready after %s; its log is %s", o.wait, logPath)
		}
		return errors.Join(err, endGrid(cmd.Process, ended))
	}
	if a.format == "json" {
		return a.json(s)
	}
	a.nextSteps(s, o)
	return nil
}

var errGridEnded = errors.New("the grid ended before it was ready")

// awaitGrid waits until process pid says that its grid in dir is ready. ended
// tells of the process's end.
func awaitGrid(ctx context.Context, dir string, pid int, ended <-chan error) (grid.State, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return grid.State{}, fmt.Errorf("%w: %v", errGridEnded, err)
		case <-ctx.Done():
			return grid.State{}, ctx.Err()
		case <-tick.C:
		}
		s, err := grid.ReadState(dir)
		if err == nil && s.Ready && s.PID == pid {
			return s, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s, err
		}
	}
}

// endWait is how long a detached grid has to end when nobody wants it any more.
const endWait = time.Minute

// endGrid ends a detached grid and waits for it: its machines and files are to be
// gone when the command returns.
func endGrid(p *os.Process, ended <-chan error) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end process %d: %w", p.Pid, err)
	}
	select {
	case <-ended:
		return nil
	case <-time.After(endWait):
		return problem.New("timeout", "process %d did not end the grid within %s", p.Pid, endWait)
	}
}

// relay shows what is written to a log, until ctx ends.
func (a *app) relay(ctx context.Context, path string) {
	f, err := os.Open(path)
	if err != nil {
		return // the log is for people; its file is named
	}
	defer f.Close()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.Copy(a.err, f); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lastLines keeps the end of a log.
func lastLines(b []byte, n int) string {
	end := len(b)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == '\n' && i != len(b)-1 {
			if n--; n == 0 {
				return string(b[i+1 : end])
			}
		}
	}
	return string(b)
}

func (a *app) downCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End a grid that was started with zos up",
		Long:  "End a grid that was started with zos up. Its directory stays; zos up --dir starts it again.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return usageError{errors.New("which grid? Name its directory with --dir")}
			}
			return a.down(cmd.Context(), dir)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "directory of the grid")
	return cmd
}

// down asks the grid's process to end, and waits for it.
func (a *app) down(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return problem.New("not-found", "no grid in %s: %w", dir, err)
	}
	pid, running := grid.Holder(dir)
	if !running {
		a.progress("no grid runs in %s", dir)
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, running := grid.Holder(dir); !running {
			a.progress("the grid in %s has ended", dir)
			return nil
		}
		select {
		case <-wait.Done():
			return problem.New("timeout", "process %d did not end the grid in %s within a minute", pid, dir)
		case <-tick.C:
		}
	}
}
