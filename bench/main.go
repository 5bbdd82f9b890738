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
	"runtime"
	"strings"
	"syscall"
	"time"
)

// row is one measure.
type row struct {
	name, got, want string
	ok              bool
}

// bench is one run.
type bench struct {
	image string
	idle  time.Duration
	tmp   string
	log   *slog.Logger
	rows  []row
}

func main() {
	b := &bench{log: slog.New(slog.DiscardHandler)}
	only := flag.String("only", "boot,up,python,ledger", "measures to take, separated by commas")
	flag.StringVar(&b.image, "image", "bin/image", "directory that zos boot image made")
	flag.DurationVar(&b.idle, "idle", 10*time.Minute, "how long a node idles before its memory is measured")
	ledgerDir := flag.String("ledger", "", "internal: run an idle ledger in this directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *ledgerDir != "" {
		exit(idleLedger(ctx, *ledgerDir))
	}
	exit(b.run(ctx, strings.Split(*only, ",")))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (b *bench) run(ctx context.Context, only []string) (err error) {
	if b.tmp, err = os.MkdirTemp("", "zos-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.tmp)) }()
	measures := map[string]func(context.Context) error{
		"boot": b.bootFiles, "up": b.upAndDeploy, "python": b.python, "ledger": b.ledger,
	}
	fmt.Println(describeMachine())
	for _, name := range only {
		f, ok := measures[name]
		if !ok {
			return fmt.Errorf("no measure %q", name)
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", name)
		if err := f(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	fmt.Printf("\n| measure | got | want | |\n|---|---|---|---|\n")
	for _, r := range b.rows {
		verdict := "ok"
		if !r.ok {
			verdict = "short"
		}
		fmt.Printf("| %s | %s | %s | %s |\n", r.name, r.got, r.want, verdict)
	}
	return nil
}

// add records a measure.
func (b *bench) add(name, got, want string, ok bool) {
	b.rows = append(b.rows, row{name, got, want, ok})
	fmt.Fprintf(os.Stderr, "bench: %s: %s (want %s)\n", name, got, want)
}

// describeMachine says on what the figures were taken.
func describeMachine() string {
	model, memory := "unknown processor", ""
	if cpu, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(cpu)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	if mem, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib uint64
		if _, err := fmt.Sscanf(string(mem), "MemTotal: %d kB", &kib); err == nil {
			memory = fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20))
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	var uts syscall.Utsname
	_ = syscall.Uname(&uts)
	release := make([]byte, 0, len(uts.Release))
	for _, c := range uts.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	return fmt.Sprintf("machine: %s, %d cores, %s, kernel %s, %s, load before %s", model, runtime.NumCPU(), memory, release, runtime.Version(),
		strings.Join(strings.Fields(string(load))[:3], " "))
}
