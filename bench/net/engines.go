package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// metrics are those of one line of a Go benchmark, by unit.
type metrics struct {
	name string
	of   map[string]float64
}

func runBench(pkg, name string) (string, error) {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", name, "-benchtime", "1x", "-timeout", "20m", pkg)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out), nil
}

// goBench runs a benchmark of a package, where it is a comparison within one
// run, and returns the metrics of each of its parts.
func goBench(pkg, name string) ([]metrics, error) {
	out, err := runBench(pkg, name)
	if err != nil {
		return nil, err
	}
	var all []metrics
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		m := metrics{strings.TrimPrefix(f[0], "Benchmark"), map[string]float64{}}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: read %q: %w", name, line, err)
			}
			m.of[f[i+1]] = v
		}
		all = append(all, m)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s of %s printed no measure:\n%s", name, pkg, out)
	}
	return all, nil
}

// has fails when a benchmark has ceased to report what is read here.
func (m metrics) has(units ...string) error {
	for _, u := range units {
		if _, ok := m.of[u]; !ok {
			return fmt.Errorf("benchmark %s reports no %s", m.name, u)
		}
	}
	return nil
}

// userspace compares the embedded wireguard-go with the stock one on the same
// link.
func (b *bench) userspace() error {
	all, err := goBench("./network/wireguard", "^BenchmarkUserspace$")
	if err != nil {
		return err
	}
	for _, m := range all {
		if err := m.has("MB/s", "x-stock", "CPU-s/GB", "MB-memory"); err != nil {
			return err
		}
		b.Add(m.name+", throughput", fmt.Sprintf("%.2fx, %.0f MB/s", m.of["x-stock"], m.of["MB/s"]), "≥ 0.9x of stock wireguard-go", m.of["x-stock"] >= 0.9)
		b.Add(m.name+", processor time of both ends", fmt.Sprintf("%.1f s/GB (stock %.1f)", m.of["CPU-s/GB"], m.of["stock-CPU-s/GB"]), "≤ 7 s/GB", m.of["CPU-s/GB"] <= 7)
		b.Add(m.name+", memory of a device", fmt.Sprintf("%.0f MB (stock %.0f)", m.of["MB-memory"], m.of["stock-MB-memory"]), "≤ 64 MB", m.of["MB-memory"] <= 64)
	}
	return nil
}

// kernel compares our devices with ones configured by hand, under the kernel of
// nodes.
func (b *bench) kernel() error {
	out, err := runBench("./network/wireguard", "^BenchmarkKernel$")
	if err != nil {
		return err
	}
	// The guest says it in its log.
	m := byHand.FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("the benchmark says no ratio:\n%s", out)
	}
	ratio, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return err
	}
	b.Add("kernel device in QEMU, throughput", fmt.Sprintf("%.2fx", ratio), "≥ 0.95x of a device configured by hand", ratio >= 0.95)
	return nil
}

var byHand = regexp.MustCompile(`([0-9.]+) x-by-hand`)

// relay compares the relay with a server that copies bytes between TCP
// connections.
func (b *bench) relay() error {
	all, err := goBench("./rendezvous", "^BenchmarkRelay$")
	if err != nil {
		return err
	}
	for _, m := range all {
		if err := m.has("ratio", "relay-MB/s", "plain-MB/s"); err != nil {
			return err
		}
		b.Add(m.name+", throughput", fmt.Sprintf("%.2fx, %.0f of %.0f MB/s", m.of["ratio"], m.of["relay-MB/s"], m.of["plain-MB/s"]), "≥ 0.5x of a plain TCP relay", m.of["ratio"] >= 0.5)
	}
	return nil
}
