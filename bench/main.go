// Command bench takes the measures of docs/reference/benchmarks.md on this
// machine and prints them as a table, each beside the figure it is held to. A
// row that misses its figure is marked "short".
//
//	make bench
//	go run ./bench -only boot,ledger
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/zero-os/zos/bench/table"
)

// bench is one run.
type bench struct {
	table.Table
	image string
	idle  time.Duration
	tmp   string
	log   *slog.Logger
}

func main() {
	b := &bench{log: slog.New(slog.DiscardHandler)}
	only := flag.String("only", table.Names(b.measures()), "measures to take, separated by commas")
	flag.StringVar(&b.image, "image", "bin/image", "directory that zos boot image made")
	flag.DurationVar(&b.idle, "idle", 10*time.Minute, "how long a node idles before its memory is measured")
	ledgerDir := flag.String("ledger", "", "internal: run an idle ledger in this directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *ledgerDir != "" {
		exit(idleLedger(ctx, *ledgerDir))
	}
	exit(b.run(ctx, *only))
}

// measures in the order in which they are taken.
func (b *bench) measures() []table.Measure {
	return []table.Measure{{Name: "boot", Take: b.bootFiles}, {Name: "up", Take: b.upAndDeploy}, {Name: "python", Take: b.python}, {Name: "ledger", Take: b.ledger}}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (b *bench) run(ctx context.Context, only string) (err error) {
	if b.tmp, err = os.MkdirTemp("", "zos-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.tmp)) }()
	return b.Run(ctx, b.measures(), only)
}
