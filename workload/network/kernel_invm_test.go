//go:build invm

package network

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/vmtest/asnode"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
	"github.com/zero-os/zos/workload/logs"
)

const dataDir = asnode.DataDir

// images are root file systems of the payload; the image is named by the first
// word of a container's WorkDir, which is all that a test's plan can say of it.
var images = map[string]func(root string) error{
	"plain": func(root string) error { return os.MkdirAll(root+"/etc", 0o755) },
	"empty": func(string) error { return nil },
	"absolute": func(root string) error {
		// Out of the root, if whoever mounts there follows it as it is; inside it
		// leads to nothing.
		if err := os.MkdirAll(root+"/etc", 0o755); err != nil {
			return err
		}
		return os.Symlink("/../../../../tmp/outside", root+"/etc/resolv.conf")
	},
	"etc": func(root string) error {
		if err := os.MkdirAll(root+"/private/etc", 0o755); err != nil {
			return err
		}
		return os.Symlink("private/etc", root+"/etc")
	},
}

// rootfs mounts them.
func rootfs(byFlist map[canon.Hash]string) asnode.Rootfs {
	return asnode.Rootfs{Program: "/bin/payload", Prepare: func(flist canon.Hash, lower string) error {
		if err := images[byFlist[flist]](lower); !os.IsExist(err) {
			return err
		}
		return nil // mounted before
	}}
}

// TestInContainers: real containers under the node's kernel reach each other in
// their networks, whatever their images made of /etc, and are nobody there.
func TestInContainers(t *testing.T) {
	must(t, asnode.MountData("/dev/vda", 1<<30))
	w := newWorld(t, "a")
	m := w.nodes["a"]
	m.run = "/run/zos/netns" // as on a node, where everybody passes
	must(t, m.kind.Close())
	m.open(t, w)
	d := w.deploy("d", "front", "10.20.0.0/16", "a").network("back", "10.30.0.0/16", "a")
	byFlist := map[canon.Hash]string{}
	kinds := []string{"plain", "absolute", "etc"}
	d.add("web", "a", 2, allow(rule("tcp", 80, 80)))
	for i, image := range kinds {
		d.add("call-"+image, "a", 10+i)
	}
	d.also("call-plain", "a", 1, 10)
	p := d.plan()
	web := d.members[0].at[0]
	k, err := container.New(container.Config{
		Data: dataDir + "/workloads", Grace: time.Second, LogBound: 256 << 10, Rootfs: rootfs(byFlist), Networks: m.kind, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	t.Cleanup(func() {
		all, err := k.Observe(context.Background())
		must(t, err)
		for id := range all {
			must(t, k.Remove(context.Background(), id))
		}
	})
	for _, n := range p.Networks {
		must(t, m.kind.Ensure(ctx, d.desired(p, plan.RouterName(n.Name, m.slot))))
	}
	// The plan is approved with its programs; the images are the test's.
	run := func(name, image string, args ...string) {
		at := slices.IndexFunc(p.Workloads, func(w plan.Workload) bool { return w.Name == name })
		c, err := plan.DecodeContainer(p.Workloads[at].Config)
		must(t, err)
		c.Flist = canon.Sum([]byte(image))
		byFlist[c.Flist] = image
		c.Args = append([]string{"/bin/payload"}, args...)
		c.Env = []string{"GODEBUG=netdns=go"}
		p.Workloads[at].Config, err = c.Encode()
		must(t, err)
	}
	run("web", "empty", "serve")
	calls := []string{"web:80", "web.front.internal:80", web.IPv4 + ":80", "[" + web.IPv6 + "]:80"}
	for _, image := range kinds {
		run("call-"+image, image, append([]string{"call"}, calls...)...)
	}
	var before workload.Desired
	for _, name := range []string{"web", "call-plain", "call-absolute", "call-etc"} {
		one := d.desired(p, name)
		must(t, k.Ensure(ctx, one))
		if name == "web" {
			before = one
		}
	}
	line := func(name, prefix string) string {
		t.Helper()
		for {
			recs, _, err := logs.NewReader(k.LogDir(workload.ID{Contract: d.contract, Name: name})).Read(1, 10000)
			must(t, err)
			for _, r := range recs {
				if r.Stream != logs.Node && strings.HasPrefix(string(r.Data), prefix) {
					return string(r.Data)
				}
			}
			select {
			case <-ctx.Done():
				all := []string{}
				for _, r := range recs {
					all = append(all, string(r.Data))
				}
				t.Fatalf("%s never said %q, but %q", name, prefix, all)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	for _, image := range kinds {
		name := "call-" + image
		for _, c := range calls {
			if got := line(name, c+":"); got != c+": this is web" {
				t.Errorf("%s: %q", name, got)
			}
		}
		var got map[string]string
		must(t, json.Unmarshal([]byte(line(name, "{")), &got))
		for key, want := range map[string]string{
			"CapEff": "0000000000000000", "CapBnd": "0000000000000000", "CapPrm": "0000000000000000", "/sys/class/net/eth0/mtu": "1280\n",
			"ping socket": "<nil>",
		} {
			if got[key] != want {
				t.Errorf("%s: %s is %q, want %q", name, key, got[key], want)
			}
		}
		for _, key := range []string{"write resolv.conf", "write sysfs", "write sysctl", "link down", "packet socket", "raw socket", "user namespace", "outside"} {
			if got[key] == "<nil>" || got[key] == "" {
				t.Errorf("%s: %s succeeded", name, key)
			}
		}
		if !strings.HasPrefix(got["/etc/resolv.conf"], "search front.internal") || !strings.Contains(got["/etc/hosts"], name+".front.internal") {
			t.Errorf("%s: resolv.conf %q, hosts %q", name, got["/etc/resolv.conf"], got["/etc/hosts"])
		}
		ifs := "[eth0 lo] <nil>"
		if image == "plain" {
			ifs = "[eth0 eth1 lo] <nil>"
		}
		if got["sysfs"] != ifs {
			t.Errorf("%s: sysfs shows %s, want %s", name, got["sysfs"], ifs)
		}
	}
	if _, err := os.Lstat("/tmp/outside"); err == nil {
		t.Error("a link in an image led out of it")
	}
	// A restart of the container keeps its namespace and its reach.
	pinned, err := os.Stat(m.kind.path(containerPrefix, before.ID, ""))
	must(t, err)
	after := before
	after.Version++
	must(t, k.Ensure(ctx, after))
	now, err := os.Stat(m.kind.path(containerPrefix, before.ID, ""))
	must(t, err)
	if !os.SameFile(pinned, now) {
		t.Error("a version that changes nothing made another namespace")
	}
	all, err := k.Observe(ctx)
	must(t, err)
	if s := all[before.ID]; s.State != contract.StateRunning || s.Version != 2 {
		t.Errorf("status %+v", s)
	}
	// Without its cable it is not well, and Ensure gives it another.
	must(t, m.kind.Remove(ctx, d.router("a")))
	all, err = k.Observe(ctx)
	must(t, err)
	if s := all[before.ID]; s.State == contract.StateRunning {
		t.Errorf("without its network: %+v", s)
	}
	must(t, m.kind.Ensure(ctx, d.desired(p, d.router("a").Name)))
	must(t, k.Ensure(ctx, before))
	must(t, m.kind.Attached(before.ID))
	// And nothing is left.
	for id := range all {
		must(t, k.Remove(ctx, id))
	}
	if left, err := m.kind.List(); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestTheKernelsWayInOutlivesTheDaemon: what encrypts for devices is the kernel's,
// and people notice nothing of a restart.
func TestTheKernelsWayInOutlivesTheDaemon(t *testing.T) {
	d := entered(t)
	l, m, web := d.laptop("laptop", "www", "b"), d.w.nodes["b"], d.place("web")
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	at := netip.AddrPortFrom(web.v6, 1)
	l.asks(t, web, at, "before")
	e := m.kind.entryOf(d.router("b"))
	if e.Engine() != wireguard.Kernel {
		t.Fatalf("the engine is %s", e.Engine())
	}
	before, err := e.Stats()
	must(t, err)
	must(t, m.kind.Close())
	l.asks(t, web, at, "meanwhile")
	m.open(t, d.w)
	l.asks(t, web, at, "not looked after yet")
	must(t, m.kind.Ensure(ctx, d.desired(d.plan(), d.router("b").Name)))
	l.asks(t, web, at, "after")
	after, err := m.kind.entryOf(d.router("b")).Stats()
	must(t, err)
	if len(after) != len(before) || len(after) != 2 {
		t.Fatalf("%d devices before, %d after, want 2", len(before), len(after))
	}
	for i := range after {
		if before[i].PublicKey != after[i].PublicKey || !before[i].LastHandshake.Equal(after[i].LastHandshake) || after[i].RxBytes < before[i].RxBytes {
			t.Errorf("before %+v\nafter  %+v", before[i], after[i])
		}
	}
}
