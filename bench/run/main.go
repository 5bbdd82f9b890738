// Command run takes the measures of running workloads in docs/reference/benchmarks.md on
// this machine, and prints them as a table, each beside the figure it is held to. A
// row that misses its figure is marked "short". Peers are runc and crun from Debian, and
// plain QEMU with the same kernel, machine and memory; what is compared takes turns in
// one run.
//
// It needs root. Machines are emulated, as in tests.
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
	"runtime"
	"slices"
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
	times  int           // repetitions of what is short
	length time.Duration // of one measured transfer
	kernel string        // directory of the node's kernel package
	parts  parts
	rows   []row
}

// measures in the order in which they are taken.
var measures = []struct {
	name string
	take func(*bench, context.Context) error
}{
	{"native", (*bench).native},
	{"found", (*bench).found},
	{"start", (*bench).start},
	{"memory", (*bench).memory},
	{"files", (*bench).files},
	{"disk", (*bench).disk},
	{"net", (*bench).net},
}

func main() {
	var names []string
	for _, m := range measures {
		names = append(names, m.name)
	}
	b := &bench{}
	only := flag.String("only", strings.Join(names, ","), "measures to take, separated by commas")
	flag.IntVar(&b.times, "times", 7, "how often what is short is measured")
	flag.DurationVar(&b.length, "length", 2*time.Second, "how long a transfer is measured")
	flag.StringVar(&b.kernel, "kernel", "build/kernel", "directory of the node's kernel, which make deps fetches")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only []string) (err error) {
	fmt.Println(describeMachine())
	if err := b.parts.build(ctx, b.kernel); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.parts.dir)) }()
	var errs []error
	for _, m := range measures {
		at := slices.Index(only, m.name)
		if at < 0 {
			continue
		}
		only = slices.Delete(only, at, at+1)
		fmt.Fprintf(os.Stderr, "bench: %s\n", m.name)
		// One that fails does not spoil the others.
		if err := m.take(b, ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
			b.add(m.name, "failed", "", false)
		}
	}
	if len(only) > 0 {
		return fmt.Errorf("no measure %q", only)
	}
	fmt.Printf("\n| measure | got | want | |\n|---|---|---|---|\n")
	for _, r := range b.rows {
		verdict := "ok"
		switch {
		case r.want == "":
			verdict = ""
		case !r.ok:
			verdict = "short"
		}
		fmt.Printf("| %s | %s | %s | %s |\n", r.name, r.got, r.want, verdict)
	}
	return errors.Join(errs...)
}

// add records a measure; one without a want is there for comparison.
func (b *bench) add(name, got, want string, ok bool) {
	b.rows = append(b.rows, row{name, got, want, ok})
	fmt.Fprintf(os.Stderr, "bench: %s: %s (want %s)\n", name, got, want)
}

// addRatio records the medians of two series of which more is better.
func (b *bench) addRatio(name string, ours, peers []float64, peer string, least float64) {
	o, p := median(ours), median(peers)
	b.add(name, fmt.Sprintf("%.2fx, %.0f of %.0f MB/s", o/p, o, p), fmt.Sprintf("≥ %.1fx of %s", least, peer), o/p >= least)
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(all))
	return s[len(s)/2]
}

// describeMachine says on what the figures were taken.
func describeMachine() string {
	model := "unknown processor"
	if cpu, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(cpu)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	var uts syscall.Utsname
	_ = syscall.Uname(&uts)
	var release []byte
	for _, c := range uts.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	return fmt.Sprintf("machine: %s, %d cores, kernel %s, %s, load before %s", model, runtime.NumCPU(), release, runtime.Version(),
		strings.Join(append(strings.Fields(string(load)), "", "", "")[:3], " "))
}
