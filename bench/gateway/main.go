// Command gateway takes the measures of the gateway in docs/reference/benchmarks.md
// on this machine, beside HAProxy doing the same work in the same run, and
// prints them as a table, each beside the figure it is held to. A row that
// misses its figure is marked "short".
//
// Gateway, HAProxy, backends and clients are processes of their own, on
// loopback addresses, some in network namespaces of their own. They share the machine's processors, equally for both. What is
// compared takes turns, and the median of the turns counts.
//
//	make bench-gateway
//	go run ./bench/gateway -only throughput,tls
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
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
	turns int           // of what takes turns
	each  time.Duration // of a turn
	dir   string        // scratch
	rows  []row
}

// measures in the order in which they are taken.
var measures = []struct {
	name string
	take func(*bench) error
}{
	{"throughput", (*bench).throughput},
	{"tls", (*bench).handshakes},
	{"plain", (*bench).connects},
	{"latency", (*bench).latency},
	{"terminated", (*bench).terminated},
	{"failover", (*bench).failover},
	{"gateways", (*bench).gateways},
	{"idle", (*bench).idle},
	{"routes", (*bench).routes},
	{"reload", (*bench).reload},
	{"visible", (*bench).visible},
	{"join", (*bench).join},
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "role" {
		os.Exit(play(os.Args[2], os.Args[3:]))
	}
	var names []string
	for _, m := range measures {
		names = append(names, m.name)
	}
	b := &bench{}
	only := flag.String("only", strings.Join(names, ","), "measures to take, separated by commas")
	flag.IntVar(&b.turns, "turns", 5, "how often each of what is compared is measured")
	flag.DurationVar(&b.each, "each", 2*time.Second, "how long each time")
	flag.Parse()
	if err := b.run(strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(only []string) error {
	dir, err := os.MkdirTemp("", "bench-gateway-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b.dir = dir
	fmt.Println(describeMachine())
	var errs []error
	for _, m := range measures {
		at := slices.Index(only, m.name)
		if at < 0 {
			continue
		}
		only = slices.Delete(only, at, at+1)
		fmt.Fprintf(os.Stderr, "bench: %s\n", m.name)
		// One that fails does not spoil the others.
		if err := m.take(b); err != nil {
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
		if !r.ok {
			verdict = "short"
		}
		fmt.Printf("| %s | %s | %s | %s |\n", r.name, r.got, r.want, verdict)
	}
	return errors.Join(errs...)
}

// add records a measure.
func (b *bench) add(name, got, want string, ok bool) {
	b.rows = append(b.rows, row{name, got, want, ok})
	fmt.Fprintf(os.Stderr, "bench: %s: %s (want %s)\n", name, got, want)
}

// median of figures that took turns.
func median(all []float64) float64 {
	all = slices.Clone(all)
	slices.Sort(all)
	return all[len(all)/2]
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
		strings.Join(strings.Fields(string(load))[:3], " "))
}
