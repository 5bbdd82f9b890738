package shim

import (
	"bufio"
	"bytes"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// letGo gives back the memory that a shim has needed and doesn't need while it
// waits, perhaps for weeks: what the collector has freed, and the mappings of the
// program's own code and constants that were touched on the way. The kernel keeps
// those pages once for all shims, and maps what is used again without reading it.
func letGo() {
	var own []mapping
	if self, err := os.Executable(); err == nil {
		if b, err := os.ReadFile("/proc/self/smaps"); err == nil {
			own = untouched(b, self)
		}
	}
	debug.FreeOSMemory()
	for _, m := range own {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(m.start), uintptr(m.end-m.start), unix.MADV_DONTNEED)
	}
}

// mapping is a range of addresses.
type mapping struct{ start, end uint64 }

// untouched finds in a /proc/PID/smaps the mappings of the file at path that can't be
// written to and of which no page was changed: those that are the file's, and can be
// had from it again.
func untouched(smaps []byte, path string) (out []mapping) {
	var m mapping
	sc := bufio.NewScanner(bytes.NewReader(smaps))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		switch {
		case len(f) >= 2 && !strings.HasSuffix(f[0], ":"):
			m = mapping{}
			from, to, ok := strings.Cut(f[0], "-")
			if !ok || len(f) != 6 || f[5] != path || strings.Contains(f[1], "w") || !strings.HasSuffix(f[1], "p") {
				continue
			}
			start, err1 := strconv.ParseUint(from, 16, 64)
			end, err2 := strconv.ParseUint(to, 16, 64)
			if err1 == nil && err2 == nil && start < end {
				m = mapping{start, end}
			}
		case len(f) == 3 && f[0] == "Anonymous:" && f[1] == "0" && m.end != 0:
			out = append(out, m)
		}
	}
	return out
}
