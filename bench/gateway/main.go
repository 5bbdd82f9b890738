// Command gateway takes the measures of the gateway in docs/reference/benchmarks.md
// on this machine, beside HAProxy doing the same work in the same run, and
// prints them as a table, each beside the figure it is held to. A row that
// misses its figure is marked "short".
//
// Gateway, HAProxy, backends and clients are processes of their own, on loopback
// addresses, some in network namespaces of their own. They share the machine's
// processors, equally for both. What is compared takes turns, and the median of the
// turns counts.
//
//	make bench-gateway
//	go run ./bench/gateway -only throughput,tls
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/zero-os/zos/bench/table"
)

// bench is one run.
type bench struct {
	table.Table
	turns int           // of what takes turns
	each  time.Duration // of a turn
	dir   string        // scratch
}

// measures in the order in which they are taken.
func (b *bench) measures() []table.Measure {
	return []table.Measure{
		{Name: "throughput", Take: table.Whole(b.throughput)},
		{Name: "tls", Take: table.Whole(b.handshakes)},
		{Name: "plain", Take: table.Whole(b.connects)},
		{Name: "latency", Take: table.Whole(b.latency)},
		{Name: "terminated", Take: table.Whole(b.terminated)},
		{Name: "failover", Take: table.Whole(b.failover)},
		{Name: "gateways", Take: table.Whole(b.gateways)},
		{Name: "idle", Take: table.Whole(b.idle)},
		{Name: "routes", Take: table.Whole(b.routes)},
		{Name: "reload", Take: table.Whole(b.reload)},
		{Name: "visible", Take: table.Whole(b.visible)},
		{Name: "join", Take: table.Whole(b.join)},
	}
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "role" {
		os.Exit(play(os.Args[2], os.Args[3:]))
	}
	b := &bench{}
	only := flag.String("only", table.Names(b.measures()), "measures to take, separated by commas")
	flag.IntVar(&b.turns, "turns", 5, "how often each of what is compared is measured")
	flag.DurationVar(&b.each, "each", 2*time.Second, "how long each time")
	flag.Parse()
	if err := b.run(*only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(only string) (err error) {
	if b.dir, err = os.MkdirTemp("", "bench-gateway-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	return b.Run(context.Background(), b.measures(), only)
}
