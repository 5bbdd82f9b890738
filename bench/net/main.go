// Command net takes the measures of networks in docs/reference/benchmarks.md on
// this machine, and prints them as a table, each beside the figure it is held
// to. A row that misses its figure is marked "short".
//
// Nodes are processes in network namespaces (package netlab/netnode), and their
// links are switched by this program: it needs root, and competes with what it
// measures for the processors. What is compared is compared in one run.
//
//	make bench-net
//	go run ./bench/net -only mesh,first
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/zero-os/zos/bench/table"
	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/netlab/netnode"
)

// bench is one run.
type bench struct {
	table.Table
	size  int // nodes of the mesh
	times int // repetitions of what is measured several times
}

// measures in the order in which they are taken.
func (b *bench) measures() []table.Measure {
	return []table.Measure{
		{Name: "userspace", Take: table.Whole(b.userspace)},
		{Name: "kernel", Take: table.Whole(b.kernel)},
		{Name: "relay", Take: table.Whole(b.relay)},
		{Name: "mesh", Take: table.Whole(b.mesh)},
		{Name: "first", Take: table.Whole(b.first)},
		{Name: "direct", Take: table.Whole(b.direct)},
		{Name: "roaming", Take: table.Whole(b.roaming)},
		{Name: "reboot", Take: table.Whole(b.reboot)},
		{Name: "loss", Take: table.Whole(b.loss)},
	}
}

func main() {
	netnode.Main()
	b := &bench{}
	only := flag.String("only", table.Names(b.measures()), "measures to take, separated by commas")
	flag.IntVar(&b.size, "size", 50, "nodes of the mesh")
	flag.IntVar(&b.times, "times", 10, "how often what is short is measured")
	flag.Parse()
	if err := b.Run(context.Background(), b.measures(), *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// addTimes records several durations by their median and largest, of which the
// largest counts.
func (b *bench) addTimes(name string, all []time.Duration, want time.Duration) {
	slices.Sort(all)
	most := all[len(all)-1]
	b.Add(name, fmt.Sprintf("median %s, most %s of %d", show(all[len(all)/2]), show(most), len(all)), "≤ "+show(want), most <= want)
}

func show(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.0f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// lab runs f in a laboratory of its own.
func lab(servers int, f func(*netnode.World)) error {
	return netlab.Run(func(tb netlab.TB) { f(netnode.NewWorld(tb, servers)) }, nil)
}
