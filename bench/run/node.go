package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// inNode runs a benchmark of package bench/run/node and returns what it measured.
func (b *bench) inNode(ctx context.Context, name, image string) (map[string]float64, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^"+name+"$", "-benchtime", "1x", "-timeout", "40m", "./bench/run/node")
	cmd.Env = append(os.Environ(), "ZOS_KERNEL="+b.parts.kernelDir, "BENCH_IMAGE="+image, fmt.Sprintf("BENCH_TIMES=%d", b.times))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return measured(string(out))
}

// measured reads lines of pairs of a name and a number.
func measured(text string) (map[string]float64, error) {
	all := map[string]float64{}
	for line := range strings.Lines(text) {
		rest, found := strings.CutPrefix(strings.TrimSpace(line), "measured: ")
		if !found {
			continue
		}
		f, first := strings.Fields(rest), ""
		for i := 0; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i+1], 64)
			if err != nil {
				return nil, fmt.Errorf("read %q: %w", line, err)
			}
			name := f[i]
			if first == "" {
				first = name
			} else {
				name = first + "/" + name
			}
			all[name] = v
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("nothing was measured:\n%s", text)
	}
	return all, nil
}

// node measures containers as nodes start them, and what a zosd that was started again does.
func (b *bench) node(ctx context.Context) error {
	m, err := b.inNode(ctx, "BenchmarkContainers", b.parts.imageEROFS)
	if err != nil {
		return err
	}
	ours, runc, crun, debian := m["start-node"], m["start-runc"], m["start-debian-crun"], m["start-debian-runc"]
	b.Add("namespace, from approval seen to first output, whole path, emulated node",
		fmt.Sprintf("median %.0f ms; %.1fx of runc %.0f ms (Debian's %.0f), %.1fx of crun %.0f ms", ours, ours/runc, runc, debian, ours/crun, crun), "≤ 60 ms on real hardware", ours <= 60)
	b.Add("shim of a container, resident", fmt.Sprintf("most %.1f MiB of %.0f", m["many/shim-rss-most"], m["many"]), "≤ 8 MiB", m["many/shim-rss-most"] <= 8)
	b.Add("containers found by a zosd that is started again, emulated node",
		fmt.Sprintf("%.0f in %.2f s, %.0f restarts", m["found"], m["found/found-s"], m["found/restarts"]), "100 in ≤ 2 s, 0 restarts",
		m["found"] >= 100 && m["found/found-s"] <= 2 && m["found/restarts"] == 0 && m["found/others"] == 0)
	return nil
}

// density starts many of one Debian image on a node of 4 GiB.
func (b *bench) density(ctx context.Context) error {
	return b.many(ctx, "BenchmarkDensity", "namespace", "containers", 50)
}

// microVMs is the same with micro-VMs, under the emulated node's KVM.
func (b *bench) microVMs(ctx context.Context) error {
	return b.many(ctx, "BenchmarkDensityMicroVMs", "microvm", "micro-VMs", 10)
}

func (b *bench) many(ctx context.Context, benchmark, class, name string, want float64) error {
	dir := b.images
	if dir == "" {
		dir = filepath.Join(b.parts.dir, "debian")
		if err := command(ctx, "debootstrap", "--variant=minbase", "bookworm", dir); err != nil {
			return err
		}
	}
	image := filepath.Join(b.parts.dir, class+".erofs")
	if err := command(ctx, "mkfs.erofs", "--all-root", image, dir); err != nil {
		return err
	}
	m, err := b.inNode(ctx, benchmark, image)
	if err != nil {
		return err
	}
	key := "density-" + class
	b.Add(name+" of one Debian image on an emulated node of 4 GiB",
		fmt.Sprintf("%.0f in %.0f s, %.1f MiB each, %.0f MiB of the node's memory left", m[key], m[key+"/s"], m[key+"/used"]/m[key+"/of"], m[key+"/available"]),
		fmt.Sprintf("%.0f", want), m[key] >= want)
	return nil
}
