package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/boot/firststage"
	"github.com/zero-os/zos/linux/clock"
	"github.com/zero-os/zos/linux/reap"
)

const networkArg = "network"

// programs are the children of process 1, in the order in which they start.
// zos-fault is apart from zosd because overlays that are mounted through it
// don't heal when it is replaced.
func programs(hubs []string) []program {
	return []program{
		{name: "network", path: "/bin/zos-init", args: []string{networkArg}, oom: -900},
		{name: "zos-fault", path: "/bin/zos-fault", args: []string{"-require-verity", "-hubs", strings.Join(hubs, ",")}, oom: -950},
		{name: "zosd", path: "/bin/zosd", oom: -900},
	}
}

// machine is the second stage: one loop that owns everything here.
type machine struct {
	console  *firststage.Console
	children []*process
	lines    *lines
	ending   bool // nothing is started any more
}

// secondStage never returns but with an error.
func secondStage(console *firststage.Console, h boot.Handover) error {
	if f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
		console = firststage.NewConsole(f)
	}
	m := &machine{console: console, lines: newLines(console)}
	var hubs []string
	if b, err := os.ReadFile(boot.RunArchivePath); err != nil {
		console.Printf("the fault server gets no hubs: %v", err)
	} else if a, err := boot.DecodeArchive(b); err != nil {
		console.Printf("the fault server gets no hubs: %v", err)
	} else {
		hubs = a.Hubs
	}
	for _, p := range programs(hubs) {
		m.children = append(m.children, &process{program: p})
	}
	again := m.resume()
	if again {
		console.Printf("process 1 … ok, executed anew")
	} else {
		m.prepare(h)
	}
	// Before the first child, or its end could be missed.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR2)
	for {
		err := m.serve(signals)
		console.Printf("process 1: %v; going on", err)
		time.Sleep(time.Second) // an error that comes back at once must not fill the console
	}
}

// prepare is done once per boot.
func (m *machine) prepare(h boot.Handover) {
	start := time.Now()
	set, missing := harden()
	m.console.Printf("hardening … ok %.2fs %d settings%s", time.Since(start).Seconds(), set, missing)
	for _, d := range h.Degraded {
		m.console.Printf("degraded: %s", d)
	}
	// Without ctrl-alt-del, a keyboard restarts the machine in order or not at all.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	if err := os.MkdirAll(boot.ExitsDir, 0o700); err != nil {
		m.console.Printf("exit codes can't be recorded: %v", err)
	}
	m.console.Printf("process 1 … ok %s (sequence %d) up %.1fs after power-on", h.OS.Short(), h.Sequence, clock.Boottime().Seconds())
}

// serve is the loop; it returns on an internal error only, and may be called again.
func (m *machine) serve(signals <-chan os.Signal) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error, please report it: %v", r)
		}
	}()
	// Signals of one kind that arrive together are one; the tick makes up for
	// any that was lost.
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		m.reap()
		next := m.startDue()
		timer := time.NewTimer(next)
		select {
		case s := <-signals:
			switch s {
			case unix.SIGTERM, unix.SIGINT:
				m.shutdown(unix.LINUX_REBOOT_CMD_RESTART)
			case unix.SIGUSR2:
				m.shutdown(unix.LINUX_REBOOT_CMD_POWER_OFF)
			case unix.SIGHUP:
				if err := m.executeAnew(); err != nil {
					m.console.Printf("execute process 1 anew: %v", err)
				}
			}
		case <-timer.C:
		case <-tick.C:
		}
		timer.Stop()
	}
}

// reap collects every child that has ended, our own and those that inherited us
// as their parent, and records how.
func (m *machine) reap() {
	for {
		e, ok, err := reap.Next()
		if err != nil {
			m.console.Printf("%v", err)
			return
		}
		if !ok {
			return
		}
		if err := reap.Record(boot.ExitsDir, e); err != nil {
			m.console.Printf("%v", err)
		}
		for _, p := range m.children {
			if p.pid == e.PID {
				p.ended()
				if m.ending {
					m.console.Printf("%s", e)
				} else {
					m.console.Printf("%s; starting it again in %s", e, p.wait)
				}
			}
		}
	}
}

// startDue starts every program that should run and doesn't, and returns how
// long until the next one is due.
func (m *machine) startDue() time.Duration {
	const idle = time.Hour
	next := idle
	for _, p := range m.children {
		if p.pid != 0 {
			continue
		}
		if left := time.Until(p.due); left > 0 {
			next = min(next, left)
			continue
		}
		if err := p.start(m.lines); err != nil {
			p.ended()
			m.console.Printf("start %s: %v; trying again in %s", p.name, err, p.wait)
			next = min(next, p.wait)
			continue
		}
		m.console.Printf("start %s … ok pid %d", p.name, p.pid)
	}
	return next
}

// How long processes have to end in order before they are killed.
const (
	zosdGrace = 20 * time.Second
	restGrace = 5 * time.Second
)

// shutdown ends everything in order: zosd first, so that it can stop its
// workloads, then whatever is left, then the file systems.
func (m *machine) shutdown(how int) {
	m.console.Printf("going down")
	m.ending = true
	for _, p := range m.children {
		if p.name == "zosd" && p.pid != 0 {
			_ = unix.Kill(p.pid, unix.SIGTERM)
			m.waitFor(zosdGrace, func() bool { return p.pid == 0 })
		}
	}
	_ = unix.Kill(-1, unix.SIGTERM)
	m.waitFor(restGrace, noChildren)
	_ = unix.Kill(-1, unix.SIGKILL)
	m.waitFor(restGrace, noChildren)
	unix.Sync()
	// The root stands on it, so it can't be unmounted; read-only, it is clean.
	if err := unix.Mount("", boot.DataDir, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		m.console.Printf("close %s: %v", boot.DataDir, err)
	}
	unix.Sync()
	m.console.Printf("down")
	err := unix.Reboot(how)
	m.console.Printf("power: %v", err)
}

// waitFor goes on reaping until done or the time is up.
func (m *machine) waitFor(limit time.Duration, done func() bool) {
	deadline := time.Now().Add(limit)
	for !done() && time.Now().Before(deadline) {
		m.reap()
		time.Sleep(20 * time.Millisecond) // no signal tells of the end of a grandchild
	}
}

func noChildren() bool {
	var info unix.Siginfo
	return unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == unix.ECHILD
}
