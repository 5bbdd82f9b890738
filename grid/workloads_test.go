package grid

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/imagetest"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/spec/plan"
)

// softwareTime bounds a round of several workloads that start at once on one
// emulated processor, each with a kernel of its own.
const softwareTime = 20 * time.Minute

// TestWorkloads runs the software that people bring, as they bring it: every image
// goes through spec, approval, running, a check by a client outside, an update and
// its end. The node is a virtual machine, so its micro-VMs are nested ones, and slow:
// most images are in namespaces here. With ZOS_SOAK=1 all of them are in micro-VMs too,
// and a whole Debian boots, where somebody is logged in after 9 to 15 minutes; QEMU 7.2's
// nested emulation does not always let it come so far.
func TestWorkloads(t *testing.T) {
	var images []imagetest.Image
	made := make(chan struct{})
	go func() { // while the machine boots
		defer close(made)
		images = imagetest.All(t)
		if os.Getenv("ZOS_SOAK") != "" {
			images = append(images, imagetest.Get(t, "machine"))
		}
	}()
	w := startWorld(t, Options{Nodes: 1, Gateways: 1, Identity: "disk", Firmware: qemu.BIOS, Memory: 6 << 10, Cores: 16})
	<-made
	if len(images) == 0 {
		t.Fatal("no images were made")
	}
	for _, image := range images {
		w.publishTree(image)
	}
	before := w.resources(1)
	choose := func(names ...string) []imagetest.Image {
		var chosen []imagetest.Image
		for _, image := range images {
			if slices.Contains(names, image.Name) {
				chosen = append(chosen, image)
			}
		}
		if len(chosen) != len(names) {
			t.Fatalf("made %d of the images %v", len(chosen), names)
		}
		return chosen
	}
	rounds := []software{
		{"InNamespaces", plan.IsolationNamespace, choose("busybox", "debian", "go", "java", "nginx", "postgres", "python", "redis")},
		{"InMicroVMs", "", choose("go", "nested")}, // by default
	}
	if os.Getenv("ZOS_SOAK") != "" {
		rounds = append(rounds, software{"AWholeMachine", "", choose("machine")})
		for names := range slices.Chunk(imagetest.Names(), 3) {
			rounds = append(rounds, software{"InMicroVMs-" + strings.Join(names, "-"), plan.IsolationMicroVM, choose(names...)})
		}
	}
	for _, s := range rounds {
		t.Run(s.name, func(t *testing.T) {
			w := w.with(t)
			s.live(w)
			w.sameResources(1, before)
		})
	}
}

// publishTree publishes a directory as an image of red's.
func (w *world) publishTree(image imagetest.Image) {
	w.Helper()
	h := w.hub()
	config := image.Config
	digest, m, _, err := flist.BuildDir(w.Context(), image.Tree, h, flist.Options{Config: &config})
	if err != nil {
		w.Fatalf("build the flist of %s: %v", image.Name, err)
	}
	if got, err := h.PutFlist(w.Context(), m); err != nil || got != digest {
		w.Fatalf("publish %s: %s, %v", image.Name, got, err)
	}
	if err := h.Close(); err != nil {
		w.Fatal(err)
	}
	w.publish(image.Name, digest)
}

// software is a deployment of images, and the class that its containers ask for.
type software struct {
	name, isolation string
	images          []imagetest.Image
}

// spec is the deployment in its first or second version: each container starts anew
// for the second, and a machine goes on with less of a processor.
func (s software) spec(version int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: zos/v1\nname: %s\ngroup: demo\nnetworks: [{name: front}]\nworkloads:\n", strings.ToLower(s.name))
	for _, image := range s.images {
		if image.Kind == plan.KindVM && version > 1 {
			image.CPU -= 100
		}
		b.WriteString(image.Spec("red/" + image.Name + ":1"))
		b.WriteString("    networks: [{name: front, allow: []}]\n")
		if s.isolation != "" && !image.Privileged {
			fmt.Fprintf(&b, "    isolation: %s\n", s.isolation)
		}
		if image.Kind == plan.KindContainer {
			fmt.Fprintf(&b, "    env: {ROUND: \"%d\"}\n", version)
		}
	}
	b.WriteString("  - name: in\n    kind: gateway\n    publish:\n")
	for _, image := range s.images {
		fmt.Fprintf(&b, "      - {port: tcp, to: \"%s:%d\"}\n", image.Name, image.Port)
	}
	return b.String()
}

// live takes the deployment from its approval to its end.
func (s software) live(w *world) {
	id := w.deploy(s.spec(1))
	s.answer(w, id, time.Now())
	began := time.Now()
	w.deploy(s.spec(2))
	for _, image := range s.images {
		w.workload(id, image.Name, softwareTime, "runs in its second version", func(r client.Workload) bool {
			return r.State == "running" && r.Runs == 2
		})
	}
	s.answer(w, id, began)
	w.cancel(id)
}

// answer waits until every image runs in its class and its client is content.
func (s software) answer(w *world, id canon.Hash, began time.Time) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), softwareTime)
	defer cancel()
	var all sync.WaitGroup
	for _, image := range s.images {
		r := w.running(id, image.Name, softwareTime)
		if want := s.isolation; image.Kind == plan.KindContainer {
			if want == "" {
				want = plan.IsolationMicroVM
			}
			if r.Isolation != want {
				w.Errorf("%s runs as %q, want %s", image.Name, r.Isolation, want)
			}
		}
		all.Go(func() {
			if err := image.Wait(ctx, &net.Dialer{}, w.published(id, image)); err != nil {
				w.Error(err)
				return
			}
			w.Logf("%s answers its client after %v", image.Name, time.Since(began).Round(100*time.Millisecond))
		})
	}
	all.Wait()
}

// published is where on this host's loopback the gateway of a deployment publishes
// an image.
func (w *world) published(id canon.Hash, image imagetest.Image) string {
	k, err := w.c.Contract(w.Context(), id)
	if err != nil {
		w.Error(err)
		return ""
	}
	for _, job := range k.Plan.Workloads {
		if job.Kind != plan.KindGateway {
			continue
		}
		g, err := plan.DecodeGateway(job.Config)
		if err != nil {
			w.Error(err)
			return ""
		}
		for _, r := range g.Routes {
			if len(r.Backends) == 1 && r.Backends[0] == image.Name {
				return strings.TrimSuffix(w.g.machines[0].public.Forwards[fmt.Sprintf("%s:%d/tcp", g.Addresses[0], r.Port)], "/tcp")
			}
		}
	}
	w.Errorf("%s is not published", image.Name)
	return ""
}
