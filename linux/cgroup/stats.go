package cgroup

import (
	"strconv"
	"strings"
)

// Stats is what the kernel counts of a group and those below it. What it doesn't
// tell is 0.
type Stats struct {
	CPUMicros, Throttled uint64 // microseconds
	Memory, Cache        uint64 // bytes in use, and the part of them that is page cache
	MemoryMax            uint64 // limit in bytes; 0: none
	PIDs                 uint64
	OOMKills             uint64
	ReadBytes            uint64
	WriteBytes           uint64
	// Share of the last ten seconds in which something waited, 0 to 100.
	PSICPU, PSIMemory, PSIIO float64
}

// Stats reads the group's counters.
func (g Group) Stats() Stats {
	s := Stats{
		CPUMicros: g.Event("cpu.stat", "usage_usec"), Throttled: g.Event("cpu.stat", "throttled_usec"),
		Memory: g.number("memory.current"), Cache: g.Event("memory.stat", "file"), MemoryMax: g.number("memory.max"),
		PIDs: g.number("pids.current"), OOMKills: g.Event("memory.events", "oom_kill"),
		PSICPU: g.pressure("cpu.pressure"), PSIMemory: g.pressure("memory.pressure"), PSIIO: g.pressure("io.pressure"),
	}
	text, _ := g.Read("io.stat") // without the io controller there is none
	for _, f := range strings.Fields(text) {
		key, value, _ := strings.Cut(f, "=")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			continue
		}
		switch key {
		case "rbytes":
			s.ReadBytes += n
		case "wbytes":
			s.WriteBytes += n
		}
	}
	return s
}

// number reads a file that holds one number; "max" is 0.
func (g Group) number(file string) uint64 {
	text, err := g.Read(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(text, 10, 64)
	return n
}

// pressure reads the first average of the first line of a pressure file.
func (g Group) pressure(file string) float64 {
	text, err := g.Read(file)
	if err != nil {
		return 0
	}
	for _, f := range strings.Fields(text) {
		if v, ok := strings.CutPrefix(f, "avg10="); ok {
			x, _ := strconv.ParseFloat(v, 64)
			return x
		}
	}
	return 0
}
