package imagetest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/spec/plan"
)

// Image is software that a test deploys, and how a client finds that it works.
type Image struct {
	// Name is a valid workload name: [a-z0-9-]{1,63}.
	Name string
	// Tree is the directory with the image's files; its owners and modes are right,
	// so it is built without --root-owned. It is shared: nobody may write to it.
	Tree string
	// Config is how it is run; flist.Options.Config takes it as it is. A machine has
	// an empty one.
	Config flist.Config
	// Kind is "container" or "vm", Boot is "" or how a machine boots: "kernel" or "disk".
	Kind, Boot string
	// Key is the authorized_keys line of the key that Check logs in to a machine with;
	// its seed gives it to the machine.
	Key string
	// Privileged asks for every capability in a micro-VM.
	Privileged bool
	// Port is where it answers over TCP.
	Port uint16
	// CPU is in thousandths of a core, Memory and Disk are in bytes: what it needs
	// to start within Start.
	CPU, Memory, Disk, PIDs uint64
	// Start is how long it may take until it answers, on two busy cores that are
	// emulated: a bound for tests, not a measure.
	Start time.Duration
	// Check asks once whether it works, as its clients would: a page, a query, a
	// value that is written and read.
	Check func(ctx context.Context, d Dialer, address string) error
}

// Dialer opens connections to an image that runs: a *net.Dialer, or one of a test
// that stands elsewhere in the network.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// All makes every image that is a container, sorted by name.
func All(t testing.TB) []Image {
	t.Helper()
	var all []Image
	for _, name := range Names() {
		all = append(all, Get(t, name))
	}
	return all
}

// Names are those that Get knows and All makes, sorted.
func Names() []string {
	var names []string
	for _, r := range recipes() {
		names = append(names, r.Name)
	}
	return names
}

// Get makes one image, or finds it made.
func Get(t testing.TB, name string) Image {
	t.Helper()
	for _, r := range append(recipes(), machines()...) {
		if r.Name != name {
			continue
		}
		tree, err := r.make(t)
		if err != nil {
			t.Fatalf("make the image %s: %v", name, err)
		}
		image := r.Image
		image.Tree = tree
		return image
	}
	t.Fatalf("no image is called %q: want one of %s", name, strings.Join(Names(), ", "))
	return Image{}
}

// Wait calls Check until it passes, or until ctx ends: then it returns the last
// attempt's error. Each attempt may take five minutes: an SSH
// server on an emulated processor in an emulated machine says its first word after 40 s.
func (i Image) Wait(ctx context.Context, d Dialer, address string) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Minute)
		err := i.Check(attempt, d, address)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s at %s does not work: %w", i.Name, address, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// PortString is Port in decimal, for net.JoinHostPort.
func (i Image) PortString() string { return strconv.Itoa(int(i.Port)) }

// Spec is the image as one entry of a spec's workloads, indented by two, with ref as
// its image. Further lines of the entry may follow it, indented by four.
func (i Image) Spec(ref string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: %s\n    kind: %s\n    image: %s\n", i.Name, i.Kind, ref)
	if i.Boot != "" {
		fmt.Fprintf(&b, "    boot: %s\n", i.Boot)
	}
	if i.Boot == plan.BootKernel {
		// What a kernel prints takes half of its boot where a guest of a guest is emulated,
		// and one without a tick may wait for ever for an interrupt that emulation lost.
		b.WriteString("    cmdline: loglevel=3 highres=off nohz=off\n")
	}
	if i.Key != "" {
		fmt.Fprintf(&b, "    cloudInit: {keys: [%q]}\n", i.Key)
	}
	if i.Privileged {
		b.WriteString("    isolation: microvm\n    privileged: true\n")
	}
	fmt.Fprintf(&b, "    resources:\n      cpu: %g\n      memory: %dMiB\n      disk: %dMiB\n", float64(i.CPU)/1000, i.Memory>>20, i.Disk>>20)
	if i.Kind == "container" {
		fmt.Fprintf(&b, "      pids: %d\n", i.PIDs)
	}
	return b.String()
}

// path is where a file of the image lies on this machine.
func (i Image) path(name string) string { return filepath.Join(i.Tree, filepath.FromSlash(name)) }
