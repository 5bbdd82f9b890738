package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

func TestStatsAreReadAsTheKernelWritesThem(t *testing.T) {
	g := Group(t.TempDir())
	if got := g.Stats(); got != (Stats{}) {
		t.Errorf("nothing there: %+v", got)
	}
	for file, text := range map[string]string{
		"cpu.stat":       "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\nnr_periods 5\nnr_throttled 2\nthrottled_usec 77\n",
		"memory.current": "4096\n", "memory.max": "max\n", "memory.stat": "anon 1024\nfile 2048\n", "memory.events": "low 0\noom_kill 3\n",
		"pids.current": "9\n", "io.stat": "254:0 rbytes=10 wbytes=20 rios=1\n254:16 rbytes=1 wbytes=2 damaged wbytes=x\n",
		"cpu.pressure":    "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=9.00 avg60=0.00 avg300=0.00 total=0\n",
		"memory.pressure": "nonsense\n", "io.pressure": "some avg10=100.00 avg60=0.00 avg300=0.00 total=0\n",
	} {
		if err := os.WriteFile(filepath.Join(string(g), file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := Stats{CPUMicros: 1234, Throttled: 77, Memory: 4096, Cache: 2048, PIDs: 9, OOMKills: 3, ReadBytes: 11, WriteBytes: 22, PSICPU: 1.5, PSIIO: 100}
	if got := g.Stats(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestCPUMaxTruthTable(t *testing.T) {
	for milli, want := range map[uint64]string{0: "max", 1: "1000 1000000", 10: "1000 100000", 2500: "250000 100000"} {
		if got := CPUMax(milli); got != want {
			t.Errorf("%d: %q, want %q", milli, got, want)
		}
	}
}
