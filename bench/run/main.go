// Command run takes the measures of running workloads in docs/reference/benchmarks.md on
// this machine, and prints them as a table, each beside the figure it is held to. A
// row that misses its figure is marked "short". Peers are runc and crun from Debian, and
// plain QEMU with the same kernel, machine and memory; what is compared takes turns in
// one run.
//
// It needs root. Machines are emulated, as in tests; "node" and "density" boot a node of
// their own, in which containers are started as nodes start them.
//
//	make bench-run
//	go run ./bench/run -only start,files
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/zero-os/zos/bench/table"
)

// bench is one run.
type bench struct {
	table.Table
	times  int           // repetitions of what is short
	length time.Duration // of one measured transfer
	kernel string        // directory of the node's kernel package
	images string        // directory of a Debian root file system, for density
	parts  parts
}

// measures in the order in which they are taken.
func (b *bench) measures() []table.Measure {
	return []table.Measure{
		{Name: "native", Take: b.native},
		{Name: "found", Take: b.found},
		{Name: "start", Take: b.start},
		{Name: "memory", Take: b.memory},
		{Name: "files", Take: b.files},
		{Name: "disk", Take: b.disk},
		{Name: "net", Take: b.net},
		{Name: "node", Take: b.node},
		{Name: "density", Take: b.density},
		{Name: "density-microvm", Take: b.microVMs},
	}
}

func main() {
	b := &bench{}
	only := flag.String("only", table.Names(b.measures()), "measures to take, separated by commas")
	flag.IntVar(&b.times, "times", 7, "how often what is short is measured")
	flag.DurationVar(&b.length, "length", 2*time.Second, "how long a transfer is measured")
	flag.StringVar(&b.kernel, "kernel", "build/kernel", "directory of the node's kernel, which make deps fetches")
	flag.StringVar(&b.images, "images", "", "directory of a Debian root file system for density; empty: debootstrap makes one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only string) (err error) {
	if err := b.parts.build(ctx, b.kernel); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.parts.dir)) }()
	return b.Run(ctx, b.measures(), only)
}

// addRatio records the medians of two series of which more is better.
func (b *bench) addRatio(name string, ours, peers []float64, peer string, least float64) {
	o, p := table.Median(ours), table.Median(peers)
	b.Add(name, fmt.Sprintf("%.2fx, %.0f of %.0f MB/s", o/p, o, p), fmt.Sprintf("≥ %.1fx of %s", least, peer), o/p >= least)
}
