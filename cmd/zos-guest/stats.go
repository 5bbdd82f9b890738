package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/workload/control"
)

// stats counts the workload, by its cgroup where that knows.
func (a *agent) stats() control.Stats {
	g := cgroup.Group(groupDir)
	s := control.Stats{
		CPUMicros: g.Event("cpu.stat", "usage_usec"), Throttled: g.Event("cpu.stat", "throttled_usec"),
		Memory: number(g, "memory.current"), MemoryCache: g.Event("memory.stat", "file"),
		PIDs: number(g, "pids.current"), OOMKills: g.Event("memory.events", "oom_kill"),
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		s.MemoryLimit = info.Totalram * uint64(info.Unit)
	}
	if limit := number(g, "memory.max"); limit > 0 {
		s.MemoryLimit = min(s.MemoryLimit, limit)
	}
	var disk unix.Statfs_t
	if unix.Statfs(diskDir, &disk) == nil && disk.Type == unix.EXT4_SUPER_MAGIC {
		s.DiskSize = disk.Blocks * uint64(disk.Bsize)
		s.DiskUsed = (disk.Blocks - disk.Bfree) * uint64(disk.Bsize)
	}
	s.ReadBytes, s.WriteBytes = ioStat(read(groupDir + "/io.stat"))
	s.NetReceived, s.NetSent = netDev(read("/proc/net/dev"))
	s.PSICPU = pressure(read(groupDir + "/cpu.pressure"))
	s.PSIMemory = pressure(read(groupDir + "/memory.pressure"))
	s.PSIIO = pressure(read(groupDir + "/io.pressure"))
	a.mu.Lock()
	if a.program != nil {
		s.Uptime = uint64(time.Since(a.started).Seconds())
	}
	a.mu.Unlock()
	return s
}

// resize does what a running guest can: limits within what the machine has.
func (a *agent) resize(c *control.Conn, l control.Limits) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("measure the machine: %w", err)
	}
	// What was plugged in since is there, and not yet in use.
	cpus, _ := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/online")
	for _, f := range cpus {
		if strings.TrimSpace(read(f)) == "0" {
			_ = os.WriteFile(f, []byte("1"), 0) // the count below tells
		}
	}
	online := uint64(strings.Count(read("/proc/cpuinfo"), "processor\t"))
	if l.Memory > roundUp(info.Totalram*uint64(info.Unit)) || l.CPU > 1000*max(online, uint64(runtime.NumCPU())) {
		return c.Exit(1)
	}
	for file, value := range map[string]string{
		"memory.max": fmt.Sprint(l.Memory), "cpu.max": fmt.Sprintf("%d 100000", max(l.CPU*100, 1000)), "pids.max": fmt.Sprint(l.PIDs),
	} {
		if err := os.WriteFile(filepath.Join(groupDir, file), []byte(value), 0); err != nil {
			return fmt.Errorf("resize: %w", err)
		}
	}
	return c.Exit(0)
}

// roundUp is how much memory a machine was given whose kernel shows n: the kernel keeps
// some percent for itself.
func roundUp(n uint64) uint64 { return n + n/8 + 64<<20 }

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

// number reads a file of a cgroup that holds one; "max" and what is missing count 0.
func number(g cgroup.Group, file string) uint64 {
	s, err := g.Read(file)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// ioStat adds up the text of an io.stat over all devices.
func ioStat(text string) (readBytes, writeBytes uint64) {
	for _, f := range strings.Fields(text) {
		if v, ok := strings.CutPrefix(f, "rbytes="); ok {
			n, _ := strconv.ParseUint(v, 10, 64)
			readBytes += n
		}
		if v, ok := strings.CutPrefix(f, "wbytes="); ok {
			n, _ := strconv.ParseUint(v, 10, 64)
			writeBytes += n
		}
	}
	return readBytes, writeBytes
}

// netDev adds up the text of a /proc/net/dev, without the loopback device.
func netDev(text string) (received, sent uint64) {
	for line := range bytes.Lines([]byte(text)) {
		name, rest, ok := strings.Cut(string(line), ":")
		f := strings.Fields(rest)
		if !ok || strings.TrimSpace(name) == "lo" || len(f) < 9 {
			continue
		}
		r, _ := strconv.ParseUint(f[0], 10, 64)
		s, _ := strconv.ParseUint(f[8], 10, 64)
		received, sent = received+r, sent+s
	}
	return received, sent
}

// pressure is the share of the last ten seconds in which something waited, of the text of a
// pressure file.
func pressure(text string) float64 {
	for line := range strings.Lines(text) {
		for _, f := range strings.Fields(line) {
			if v, ok := strings.CutPrefix(f, "avg10="); ok && strings.HasPrefix(line, "some") {
				n, _ := strconv.ParseFloat(v, 64)
				return n
			}
		}
	}
	return 0
}
