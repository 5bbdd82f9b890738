package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// use is memory of a process, in bytes.
type use struct {
	private    uint64 // mapped by nobody else, without the guest's own memory
	translated uint64 // the part of private that emulation keeps translated code in
}

// readUse adds up what /proc says. The guest's memory is a memfd, shared with the file server.
func readUse(pid int) (use, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return use{}, err
	}
	var u use
	guest, code := false, false
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case len(f) >= 5 && !strings.HasSuffix(f[0], ":"):
			guest = strings.Contains(line, "memfd:")
			code = len(f) == 5 && strings.Contains(f[1], "x")
		case len(f) >= 2 && strings.HasPrefix(f[0], "Private_") && !strings.HasPrefix(f[0], "Private_Hugetlb") && !guest:
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				return use{}, fmt.Errorf("read %q: %w", line, err)
			}
			u.private += n << 10
			if code {
				u.translated += n << 10
			}
		}
	}
	return u, nil
}

// cacheGroup is a memory cgroup, version 1: what is read into the page cache by its
// processes, and wasn't there, is counted as its.
type cacheGroup string

func newCacheGroup(name string) (cacheGroup, error) {
	dir := filepath.Join("/sys/fs/cgroup/memory", fmt.Sprintf("%s-%d", name, os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("page cache is counted by a memory cgroup of version 1: %w", err)
	}
	return cacheGroup(dir), nil
}

func (g cacheGroup) enter(pid int) error {
	return os.WriteFile(filepath.Join(string(g), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// cache is bytes of files; the guest's memory, which the kernel counts among them, is not.
func (g cacheGroup) cache() (uint64, error) {
	b, err := os.ReadFile(filepath.Join(string(g), "memory.stat"))
	if err != nil {
		return 0, err
	}
	var cache, shmem uint64
	for line := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(line, "cache %d", &cache)
		_, _ = fmt.Sscanf(line, "shmem %d", &shmem)
	}
	return cache - min(shmem, cache), nil
}

func (g cacheGroup) remove() error {
	var err error
	for range 100 { // its last process is still ending
		if err = os.Remove(string(g)); err == nil || os.IsNotExist(err) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// diskReads are bytes that a process has had read from a disk.
func diskReads(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	var n uint64
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "read_bytes: %d", &n); err == nil {
			return n, nil
		}
	}
	return 0, errors.New("no read_bytes in /proc/PID/io")
}

// forget takes the pages of a file out of the page cache.
func forget(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// memory counts what a machine needs beside its guest's memory, and what the second
// machine of an image adds to the page cache and reads from disks.
func (b *bench) memory(ctx context.Context) error {
	for _, erofs := range []bool{false, true} {
		if err := b.memoryOf(ctx, erofs); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) memoryOf(ctx context.Context, erofs bool) (err error) {
	name := map[bool]string{false: "virtiofs", true: "a block image"}[erofs]
	for _, f := range []string{b.parts.imageEROFS, filepath.Join(b.parts.image, "blob"), filepath.Join(b.parts.image, "bin/meter")} {
		if err := forget(f); err != nil {
			return err
		}
	}
	var added, read [2]uint64
	var private, translated []float64
	for i := range 2 {
		disk, err := b.parts.newDisk(fmt.Sprintf("upper-%d", i))
		if err != nil {
			return err
		}
		g, err := newCacheGroup(fmt.Sprintf("zos-bench-run-%d", i))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, g.remove()) }()
		m, err := b.parts.startMicroVM(ctx, microVMOptions{disk: disk, erofs: erofs, group: g.enter})
		if err != nil {
			return err
		}
		defer m.stop() // the first runs on beside the second
		if _, err := m.measure(ctx, nil, "cold", "/blob"); err != nil {
			return err
		}
		if added[i], err = g.cache(); err != nil {
			return err
		}
		var sum use
		for _, pid := range m.pids() {
			u, err := readUse(pid)
			if err != nil {
				return err
			}
			n, err := diskReads(pid)
			if err != nil {
				return err
			}
			sum.private, sum.translated, read[i] = sum.private+u.private, sum.translated+u.translated, read[i]+n
		}
		private, translated = append(private, mib(sum.private)), append(translated, mib(sum.translated))
	}
	own := private[1] - translated[1]
	b.Add("private memory of a micro-VM's processes without the guest's, root by "+name,
		fmt.Sprintf("%.1f MiB and %.1f of translated code, which only emulation has", own, translated[1]), "≤ 35 MiB", own <= 35)
	b.Add("page cache that the second micro-VM of an image adds, root by "+name,
		fmt.Sprintf("%.2f MiB, %.2f %% of the first one's %.1f", mib(added[1]), 100*mib(added[1])/mib(added[0]), mib(added[0])), "≤ 1 %", float64(added[1]) <= 0.01*float64(added[0]))
	b.Add("read from disks by the second micro-VM of an image, root by "+name,
		fmt.Sprintf("%.2f MiB (first %.1f)", mib(read[1]), mib(read[0])), "≤ 1 MiB", read[1] <= 1<<20)
	return nil
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }

// pids are its processes.
func (m *microVM) pids() []int {
	all := []int{m.monitor.Process.Pid}
	if m.server != nil {
		// virtiofsd serves in a child of the process that was started.
		all = append(all, m.server.Process.Pid)
		all = append(all, children(m.server.Process.Pid)...)
	}
	return all
}

func children(pid int) []int {
	var all []int
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, s := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(s); err == nil {
				all = append(all, n)
			}
		}
	}
	return all
}
