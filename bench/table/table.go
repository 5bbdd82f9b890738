// Package table is what the benches have in common: measures that are taken one after
// another, and rows beside the figures that they are held to.
package table

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Measure is one part of a bench, chosen by its name.
type Measure struct {
	Name string
	Take func(context.Context) error
}

// Whole is of a measure that is not broken off.
func Whole(take func() error) func(context.Context) error {
	return func(context.Context) error { return take() }
}

// Names are those of measures, for a flag's default.
func Names(measures []Measure) string {
	var names []string
	for _, m := range measures {
		names = append(names, m.Name)
	}
	return strings.Join(names, ",")
}

// Table collects rows. The zero value is empty.
type Table struct{ rows []row }

type row struct {
	name, got, want string
	ok              bool
}

// Add records a measure. One without a want is there for comparison; one that is not
// ok is marked "short".
func (t *Table) Add(name, got, want string, ok bool) {
	t.rows = append(t.rows, row{name, got, want, ok})
	fmt.Fprintf(os.Stderr, "bench: %s: %s (want %s)\n", name, got, want)
}

// Run takes the measures that only names, separated by commas, in their order, and
// prints the machine and the rows. A measure that fails gets a row that says so and
// does not spoil the others; its error is returned in the end.
func (t *Table) Run(ctx context.Context, measures []Measure, only string) error {
	wanted := strings.Split(only, ",")
	for _, name := range wanted {
		if !slices.ContainsFunc(measures, func(m Measure) bool { return m.Name == name }) {
			return fmt.Errorf("no measure %q: there are %s", name, Names(measures))
		}
	}
	fmt.Println(machine())
	var errs []error
	for _, m := range measures {
		if !slices.Contains(wanted, m.Name) || ctx.Err() != nil {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", m.Name)
		if err := m.Take(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
			t.Add(m.Name, "failed", "–", false)
		}
	}
	fmt.Printf("\n| measure | got | want | |\n|---|---|---|---|\n")
	for _, r := range t.rows {
		verdict := "ok"
		switch {
		case r.want == "":
			verdict = ""
		case !r.ok:
			verdict = "short"
		}
		fmt.Printf("| %s | %s | %s | %s |\n", r.name, r.got, r.want, verdict)
	}
	return errors.Join(append(errs, context.Cause(ctx))...)
}

// Median of figures that took turns; 0 of none.
func Median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

// machine says on what the figures are taken.
func machine() string {
	model, memory := "unknown processor", "memory unknown"
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
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	return fmt.Sprintf("machine: %s, %d cores, %s, kernel %s, %s, load before %s", model, runtime.NumCPU(), memory,
		unix.ByteSliceToString(uts.Release[:]), runtime.Version(), strings.Join(append(strings.Fields(string(load)), "", "", "")[:3], " "))
}
