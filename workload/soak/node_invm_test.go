//go:build invm

package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/linux/mount"
	netplan "github.com/zero-os/zos/network"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/supervise"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/vmtest/asnode"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
	"github.com/zero-os/zos/workload/network"
	"github.com/zero-os/zos/workload/shim"
	"github.com/zero-os/zos/workload/yield"
)

const (
	dataDir  = asnode.DataDir
	dataSize = 2 << 30
	nodeLog  = "/tmp/node.log"
	wantEnv  = "ZOS_TEST_DESIRED"
)

// TestMain plays three roles: process 1 of a node, below it the tests, and a node
// daemon that tests may kill.
func TestMain(m *testing.M) {
	switch role := os.Getenv(asnode.RoleEnv); role {
	case "":
		os.Exit(asnode.ProcessOne())
	case asnode.RoleTests:
		if err := prepare(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	default:
		if err := daemonMain(role); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// prepare makes the machine a node: the VMM's files on the first disk, the data disk
// on the second, cgroups as process 1 of a node makes them, with this process and all
// shims in the daemon's.
func prepare() error {
	if err := errors.Join(asnode.MountVMM("/dev/vda"), asnode.MountData("/dev/vdb", dataSize)); err != nil {
		return err
	}
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/zos"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+cpu +memory +pids +io"), 0); err != nil {
			return err
		}
	}
	const own = "/sys/fs/cgroup/zos/zosd"
	if err := errors.Join(os.MkdirAll(own, 0o755), os.WriteFile(own+"/cgroup.procs", []byte("0"), 0)); err != nil {
		return err
	}
	if err := (firewall.Host{}).Apply(); err != nil {
		return err
	}
	return vmm.AllowKVM()
}

// image is the root file system of every workload. What it mounts is made once for each
// range of user ids: a program that is written anew is also translated anew by an
// emulator.
type image struct{ asnode.Rootfs }

func newImage() image {
	return image{asnode.Rootfs{Program: "/bin/payload", Prepare: func(_ canon.Hash, lower string) error {
		for _, d := range []string{"/etc", "/proc", "/dev", "/sys", "/tmp", "/run/secrets"} {
			if err := os.MkdirAll(lower+d, 0o755); err != nil {
				return err
			}
		}
		return nil
	}}}
}

func (i image) Mount(ctx context.Context, flist canon.Hash, target, upper, work string, idBase uint32) (bool, error) {
	lower := fmt.Sprintf("/tmp/lower/%s-%d", flist.Short(), idBase)
	if _, err := os.Stat(lower + "/whole"); err != nil || upper == "" {
		ok, err := i.Rootfs.Mount(ctx, flist, target, upper, work, idBase)
		if err == nil && upper != "" {
			err = os.WriteFile(lower+"/whole", nil, 0o644)
		}
		return ok, err
	}
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return false, err
		}
	}
	if err := os.Chown(upper, int(idBase), int(idBase)); err != nil {
		return false, err
	}
	return true, mount.Overlay(mount.OverlaySpec{Lower: []string{lower}, Upper: upper, Work: work, NoDev: true}, target)
}

// noMesh stands for WireGuard, which a network of one node has no use for.
type noMesh struct{}

func (noMesh) Ensure(context.Context, netplan.Topology, int) error { return nil }
func (noMesh) Remove(context.Context, canon.Hash) error            { return nil }

func slot() canon.Hash { return canon.Sum([]byte("slot")) }

// daemon is a node daemon, as far as workloads go.
type daemon struct {
	*container.Kind
	routers *network.Kind
	log     *os.File
	end     context.CancelFunc
	ended   chan struct{}
}

func newDaemon() (*daemon, error) {
	f, err := os.OpenFile(nodeLog, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(f, nil))
	routers, err := network.New(network.Config{Slot: slot(), Agent: noMesh{}, Secrets: network.NewSecrets(slot()), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	k, err := container.New(container.Config{
		Data: dataDir + "/workloads", Grace: time.Second, LogBound: 256 << 10, Rootfs: newImage(), Networks: routers,
		Backoff:  supervise.Backoff{First: 200 * time.Millisecond, Max: 2 * time.Second, Reset: time.Minute},
		Machines: &container.Machines{Root: asnode.VMMRoot, Vhost: true, Networks: routers},
		Secrets: func(_ context.Context, _ workload.Desired, s plan.Secret) ([]byte, error) {
			return append([]byte("opened "), s.Sealed...), nil
		},
		Log: log,
	})
	if err != nil {
		return nil, errors.Join(err, routers.Close(), f.Close())
	}
	d := &daemon{Kind: k, routers: routers, log: f, ended: make(chan struct{})}
	var ctx context.Context
	ctx, d.end = context.WithCancel(context.Background())
	go func() {
		defer close(d.ended)
		_ = yield.Run(ctx, cgroup.At("/zos"), func(err error) { log.Warn("let busy workloads yield", "error", err) })
	}()
	return d, nil
}

func (d *daemon) close() error {
	d.end()
	<-d.ended
	return errors.Join(d.routers.Close(), d.log.Close())
}

// ensure does what the reconciler does: the routers of the plan, then the workload.
func (d *daemon) ensure(ctx context.Context, w workload.Desired) error {
	for _, r := range routersOf(w) {
		if err := d.routers.Ensure(ctx, r); err != nil {
			return err
		}
	}
	return d.Ensure(ctx, w)
}

func (d *daemon) remove(ctx context.Context, w workload.Desired) error {
	if err := d.Remove(ctx, w.ID); err != nil {
		return err
	}
	for _, r := range routersOf(w) {
		if err := d.routers.Remove(ctx, r.ID); err != nil {
			return err
		}
	}
	return nil
}

func routersOf(w workload.Desired) (out []workload.Desired) {
	for _, p := range w.Deployment.Workloads {
		if p.Kind == plan.KindNetwork {
			out = append(out, workload.Desired{ID: workload.ID{Contract: w.ID.Contract, Name: p.Name}, Version: w.Version, Plan: p, Deployment: w.Deployment})
		}
	}
	return out
}

// daemonMain is a node daemon in a process of its own: it does one thing, says so, and
// goes on until it is killed.
func daemonMain(verb string) error {
	var w workload.Desired
	if err := json.Unmarshal([]byte(os.Getenv(wantEnv)), &w); err != nil {
		return err
	}
	d, err := newDaemon()
	if err != nil {
		return err
	}
	for {
		if verb == "remove" {
			err = d.remove(context.Background(), w)
		} else {
			err = d.ensure(context.Background(), w)
		}
		if err == nil {
			select {}
		}
		time.Sleep(50 * time.Millisecond) // the reconciler's pause
	}
}

func startDaemon(verb string, w workload.Desired) (*exec.Cmd, error) {
	b, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asnode.RoleEnv+"="+verb, wantEnv+"="+string(b))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd, cmd.Start()
}

// place is where things of a workload lie; it asserts what container's doc says.
type place struct{ key, data, run, runc string }

func placeOf(id workload.ID) place {
	key := id.Contract.String() + "-" + id.Name
	return place{key: key, data: filepath.Join(dataDir, "workloads", id.Contract.String(), id.Name), run: "/run/zos/container/" + key, runc: "/run/zos/runc/" + key}
}

func (p place) status() (shim.Status, bool) {
	st, err := shim.ReadStatus(p.run)
	return st, err == nil
}

// desired is the workload of a cycle, and the plan that it is in.
func desired(c Cycle) (workload.Desired, error) {
	name := c.Name()
	life := plan.DefaultLife()
	if c.Job() {
		life.Restart = plan.RestartNever
	}
	if c.Health != "" {
		life.Health = &plan.Health{Kind: c.Health, Port: 8080, Interval: 200, Timeout: 20_000, Retries: 3, Start: 120_000, Args: []string{}}
		if c.Health == plan.CheckHTTP {
			life.Health.Path = "/"
		}
	}
	k := plan.Container{
		V: plan.Version, Flist: canon.Sum([]byte("payload")), Size: 1, Args: []string{"/bin/payload", string(c.Program), fmt.Sprint(c.Code)},
		Env: []string{"PATH=/bin"}, WorkDir: "/", Isolation: c.Isolation, Life: life, NoNewPrivs: true,
	}
	for i := range c.Files {
		k.Files = append(k.Files, plan.File{Path: fmt.Sprintf("/etc/given-%d", i), Mode: 0o444, Content: fmt.Appendf(nil, "file %d", i)})
	}
	for i := range c.Secrets {
		s := plan.Secret{Name: fmt.Sprintf("s-%d", i), Epoch: 1, Sealed: fmt.Appendf(nil, "secret %d", i)}
		if i%2 == 0 {
			s.Env = fmt.Sprintf("SECRET_%d", i)
		} else {
			s.Path, s.Mode = fmt.Sprintf("/run/secrets/s-%d", i), 0o400
		}
		k.Secrets = append(k.Secrets, s)
	}
	r := plan.Resources{CPU: c.CPU, Memory: c.Memory, Disk: c.Disk, PIDs: c.PIDs}
	if c.Isolation == plan.IsolationMicroVM {
		r.CPU, r.Memory = 1000, r.Memory+plan.VMMMemory+plan.GuestMemory
		if c.Fault == Agent {
			k.Privileged, k.NoNewPrivs = true, false
		}
	}
	p := &plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: canon.Sum([]byte("group")), Name: "soak"}
	if c.Network {
		ula := plan.ULA(p.Group, "soak", "net")
		a6 := ula.Addr().As16()
		a6[7] = 1
		n := plan.NetworkNode{Slot: slot(), IPv4: "10.20.1.0/24", IPv6: netip.PrefixFrom(netip.AddrFrom16(a6), 64).String()}
		p.Networks = []plan.Network{{Name: "net", IPv4: "10.20.0.0/16", IPv6: ula.String(), Nodes: []plan.NetworkNode{n}}}
		a6[15] = 10
		k.Networks = []plan.Attachment{{Network: "net", IPv4: "10.20.1.10", IPv6: netip.AddrFrom16(a6).String(), Aliases: []string{}, Open: true, Allow: []plan.Rule{}, Egress: plan.EgressNone}}
		config, err := plan.NetworkConfig{V: plan.Version, Network: "net"}.Encode()
		if err != nil {
			return workload.Desired{}, err
		}
		p.Workloads = append(p.Workloads, plan.Workload{Name: plan.RouterName("net", slot()), Kind: plan.KindNetwork, Slot: slot(), Resources: plan.RouterResources(), Config: config})
	}
	config, err := canon.Marshal(k)
	if err != nil {
		return workload.Desired{}, err
	}
	w := plan.Workload{Name: name, Kind: plan.KindContainer, Slot: slot(), Resources: r, Config: config}
	p.Workloads = append(p.Workloads, w)
	return workload.Desired{ID: workload.ID{Contract: canon.Sum([]byte("soak")), Name: name}, Version: 1, Plan: w, Deployment: p}, nil
}

// processes lists those for which keep says so, by their command lines.
func processes(keep func(pid int, cmdline string) bool) (out []int) {
	ents, _ := os.ReadDir("/proc")
	for _, e := range ents {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && len(b) > 0 && keep(pid, strings.ReplaceAll(string(b), "\x00", " ")) {
			out = append(out, pid)
		}
	}
	return out
}
