package ledger_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/ledger/ledgertest"
)

// percentiles reports the middle and the tail of some durations.
func percentiles(b *testing.B, name string, all []time.Duration) {
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(ms(all[len(all)/2]), name+"-p50-ms")
	b.ReportMetric(ms(all[len(all)*99/100]), name+"-p99-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkCommit measures how long a lone validator takes from the call until a
// block with the transaction is on disk.
func BenchmarkCommit(b *testing.B) {
	g := newGrid(b)
	n := start(b, ledger.Config{Dir: filepath.Join(b.TempDir(), "v"), Genesis: g.Genesis, ValidatorKey: g.ValidatorKey})
	ctx := minute(b)
	if err := n.Ready(ctx); err != nil {
		b.Fatal(err)
	}
	var all []time.Duration
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		if err := n.Write(ctx, put("k", fmt.Sprint(i))); err != nil {
			b.Fatal(err)
		}
		all = append(all, time.Since(begin))
	}
	percentiles(b, "commit", all)
}

// BenchmarkSubmit measures a light client's transaction: sent, in a block, proven
// and confirmed by the witness.
func BenchmarkSubmit(b *testing.B) {
	p := startPair(b)
	c := p.light(b)
	ctx := minute(b)
	var all, reads []time.Duration
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		if _, err := c.Submit(ctx, ledgertest.Forge(put("k", fmt.Sprint(i)))); err != nil {
			b.Fatal(err)
		}
		all = append(all, time.Since(begin))
		begin = time.Now()
		if _, _, _, err := c.Get(ctx, "k"); err != nil {
			b.Fatal(err)
		}
		reads = append(reads, time.Since(begin))
	}
	percentiles(b, "submit", all)
	percentiles(b, "read", reads)
}

// BenchmarkIdle measures the processor time of a validator and its witness in one
// process when nothing happens, in percent of one core.
func BenchmarkIdle(b *testing.B) {
	startPair(b)
	const quiet = 20 * time.Second
	for b.Loop() {
		time.Sleep(3 * time.Second) // the start is over; this is what is measured around, not waited for
		before, begin := cpu(b), time.Now()
		time.Sleep(quiet)
		b.ReportMetric(100*float64(cpu(b)-before)/float64(time.Since(begin)), "%cpu")
	}
	b.ReportMetric(0, "ns/op")
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
