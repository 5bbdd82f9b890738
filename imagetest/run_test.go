//go:build !invm

package imagetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/idmap"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// TestEachImageWorksInAContainer runs every image as nodes run containers: in all
// namespaces, as a user of a range of its own, without capabilities, under the
// seccomp profile, on an overlay, with no network but its own; and asks it what its
// clients would ask.
func TestEachImageWorksInAContainer(t *testing.T) {
	runc := Get(t, "nested").path("usr/bin/runc")
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			image := Get(t, name)
			if image.Privileged {
				return // TestContainersRunInAWorkloadInTheNodesKernel
			}
			started := time.Now()
			ns, said := start(t, runc, image)
			ctx, cancel := context.WithTimeout(t.Context(), image.Start)
			defer cancel()
			if err := image.Wait(ctx, ns, net.JoinHostPort("127.0.0.1", image.PortString())); err != nil {
				out, _ := os.ReadFile(said)
				t.Fatalf("%v; it said:\n%s", err, out)
			}
			t.Logf("measured: %s answered after %.1f s", name, time.Since(started).Seconds())
		})
	}
}

// TestContainersRunInAWorkloadInTheNodesKernel runs nested_invm_test.go: containers
// in it want control groups that hosts where tests run don't have.
func TestContainersRunInAWorkloadInTheNodesKernel(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if out, err := exec.Command("mkfs.ext4", "-q", "-d", Get(t, "nested").Tree, disk, "64M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	vmtest.RunInVM(t, ".", vmtest.Options{Disks: []qemu.Disk{{Path: disk}}})
}

// TestAnImageIsMadeOnce: the second run finds what the first has made, without apt.
func TestAnImageIsMadeOnce(t *testing.T) {
	first := Get(t, "busybox")
	t.Setenv("PATH", filepath.Dir(goTool(t))) // neither apt-get nor dpkg-deb
	if again := Get(t, "busybox"); again.Tree != first.Tree {
		t.Errorf("made again: %s, then %s", first.Tree, again.Tree)
	}
}

// TestNoImageHoldsWhatIsThisMachines: names and keys of the machine that made it.
func TestNoImageHoldsWhatIsThisMachines(t *testing.T) {
	for _, image := range All(t) {
		for _, path := range []string{"etc/hostname", "etc/machine-id", "etc/resolv.conf"} {
			if b, err := os.ReadFile(image.path(path)); err == nil && len(b) > 0 {
				t.Errorf("%s holds /%s: %q", image.Name, path, b)
			}
		}
		if keys, err := filepath.Glob(image.path("etc/ssh/ssh_host_*")); err != nil || len(keys) > 0 {
			t.Errorf("%s holds %v (%v)", image.Name, keys, err)
		}
	}
}

// TestSpecNamesEverything that a test needs to deploy an image.
func TestSpecNamesEverything(t *testing.T) {
	got := nested().Spec("red/nested:1")
	want := `  - name: nested
    kind: container
    image: red/nested:1
    isolation: microvm
    privileged: true
    resources:
      cpu: 1
      memory: 128MiB
      disk: 64MiB
      pids: 64
`
	if got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func goTool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// netns is a network namespace with a loopback device; connections are opened in it.
type netns struct{ path string }

func newNetns(t *testing.T) netns {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(lo), mount.Bind("/proc/thread-self/ns/net", path, false))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(path); err != nil {
			t.Error(err)
		}
	})
	return netns{path}
}

// DialContext connects from within the namespace.
func (n netns) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = onThread(func() error {
		f, err := os.Open(n.path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		// An address in numbers: the connection is made on this thread.
		c, err = (&net.Dialer{Timeout: 5 * time.Second, FallbackDelay: -1}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// onThread runs f on a thread that is not used for anything afterwards.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// start runs the image until the test ends. said is the file with its output.
func start(t *testing.T, runc string, image Image) (ns netns, said string) {
	t.Helper()
	const base = 1 << 20 // of the range of user ids
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ns = newNetns(t)
	dir, err := os.MkdirTemp("", "imagetest")
	must(err)
	t.Cleanup(func() { must(removeTree(dir)) })
	must(os.Chmod(dir, 0o755))
	lower, bundle := filepath.Join(dir, "lower"), filepath.Join(dir, "bundle")
	upper, work, root := filepath.Join(dir, "disk/upper"), filepath.Join(dir, "disk/work"), filepath.Join(bundle, "rootfs")
	for _, d := range []string{lower, upper, work, root} {
		must(os.MkdirAll(d, 0o755))
	}
	must(os.Chown(upper, base, base))
	must(mount.Bind(image.Tree, lower, false))
	t.Cleanup(func() { must(mount.Detach(lower)) })
	user, err := idmap.UserNamespace(base)
	must(err)
	must(idmap.Mount(lower, user))
	must(user.Close())
	must(mount.Overlay(mount.OverlaySpec{Lower: []string{lower}, Upper: upper, Work: work, NoDev: true}, root))
	t.Cleanup(func() { must(mount.Detach(root)) })

	id := fmt.Sprintf("imagetest-%s-%d", image.Name, os.Getpid())
	config, err := json.Marshal(ociSpec(t, image, base, id, ns.path))
	must(err)
	must(os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600))
	said = filepath.Join(dir, "said")
	out, err := os.Create(said)
	must(err)
	defer out.Close()
	state := filepath.Join(dir, "state")
	cmd := exec.Command(runc, "--root", state, "run", "--bundle", bundle, id)
	cmd.Stdout, cmd.Stderr = out, out
	must(cmd.Start())
	t.Cleanup(func() {
		if b, err := exec.Command(runc, "--root", state, "delete", "--force", id).CombinedOutput(); err != nil {
			t.Errorf("end the container: %v: %s", err, b)
		}
		_ = cmd.Wait() // it was killed
	})
	return ns, said
}

// ociSpec is what workload/container makes of a plan, but for cgroup limits: hosts
// where tests run have other cgroups than nodes.
func ociSpec(t *testing.T, image Image, base uint32, id, netns string) *specs.Spec {
	t.Helper()
	ids := []specs.LinuxIDMapping{{HostID: base, Size: idmap.Size}}
	uid, gid, _ := strings.Cut(image.Config.User, ":")
	s := &specs.Spec{
		Version: specs.Version, Hostname: image.Name, Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			User: specs.User{UID: number(t, uid), GID: number(t, gid)}, Args: image.Config.Entrypoint, Env: image.Config.Env, Cwd: image.Config.WorkDir,
			Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=67108864"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmp", Options: []string{"nosuid", "nodev", "mode=1777", "size=67108864"}},
		},
		Linux: &specs.Linux{
			UIDMappings: ids, GIDMappings: ids, CgroupsPath: "/" + id, RootfsPropagation: "private",
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.UserNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: netns},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	profile, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		t.Fatal(err)
	}
	s.Linux.Seccomp = profile
	return s
}

func number(t *testing.T, s string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}
