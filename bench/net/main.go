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
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/netlab/netnode"
)

// row is one measure.
type row struct {
	name, got, want string
	ok              bool
}

// bench is one run.
type bench struct {
	size  int // nodes of the mesh
	times int // repetitions of what is measured several times
	rows  []row
}

// measures in the order in which they are taken.
var measures = []struct {
	name string
	take func(*bench) error
}{
	{"userspace", (*bench).userspace},
	{"kernel", (*bench).kernel},
	{"relay", (*bench).relay},
	{"mesh", (*bench).mesh},
	{"first", (*bench).first},
	{"direct", (*bench).direct},
	{"roaming", (*bench).roaming},
	{"reboot", (*bench).reboot},
	{"loss", (*bench).loss},
}

func main() {
	netnode.Main()
	var names []string
	for _, m := range measures {
		names = append(names, m.name)
	}
	b := &bench{}
	only := flag.String("only", strings.Join(names, ","), "measures to take, separated by commas")
	flag.IntVar(&b.size, "size", 50, "nodes of the mesh")
	flag.IntVar(&b.times, "times", 10, "how often what is short is measured")
	flag.Parse()
	if err := b.run(strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(only []string) error {
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

// addTimes records several durations by their median and largest, of which the
// largest counts.
func (b *bench) addTimes(name string, all []time.Duration, want time.Duration) {
	slices.Sort(all)
	most := all[len(all)-1]
	b.add(name, fmt.Sprintf("median %s, most %s of %d", show(all[len(all)/2]), show(most), len(all)), "≤ "+show(want), most <= want)
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
