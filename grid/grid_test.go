package grid

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/ledger/ledgertest"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/vmtest/portscan"
)

// bootTime bounds a boot under emulation on a busy machine.
const bootTime = 6 * time.Minute

// actTime bounds what a running node does by itself.
const actTime = 3 * time.Minute

// world is a grid of real machines and what its tests need.
type world struct {
	*testing.T
	g    *Grid
	c    *client.Client
	keys map[string]sign.Signer
}

// startWorld starts the grid of o in a directory of its own and waits until its
// nodes have joined.
func startWorld(t *testing.T, o Options) *world {
	t.Helper()
	image, err := filepath.Abs("../bin/image")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "zos-grid-")
	if err != nil {
		t.Fatal(err)
	}
	logFile, err := os.Create(filepath.Join(dir, "grid.log"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	o.Dir, o.Image, o.Progress, o.Log = dir, image, t.Logf, slog.New(slog.NewTextHandler(logFile, nil))
	g, err := Up(ctx, o)
	if err != nil {
		t.Fatalf("start the grid (is it built? run: make build): %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, m := range g.machines {
				t.Logf("console of %s:\n%s", m.name, tail(m.config.Console, 16<<10))
			}
			t.Logf("grid.log:\n%s", tail(logFile.Name(), 8<<10))
		}
		if err := errors.Join(g.Close(), logFile.Close(), os.RemoveAll(dir)); err != nil {
			t.Errorf("end the grid: %v", err)
		}
	})
	w := &world{T: t, g: g, c: g.Client(), keys: map[string]sign.Signer{}}
	for _, name := range append([]string{keyFarmer}, people...) {
		if w.keys[name], err = g.d.signer(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return w
}

// tail returns the last bytes of a file.
func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-n):])
}

// with returns the world for a subtest.
func (w *world) with(t *testing.T) *world {
	v := *w
	v.T = t
	return &v
}

// eventually waits until f says so; what describes the state that was seen last.
func (w *world) eventually(timeout time.Duration, what string, f func(context.Context) (bool, string, error)) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), timeout)
	defer cancel()
	seen := ""
	if err := client.Poll(ctx, func(ctx context.Context) (bool, error) {
		ok, now, err := f(ctx)
		if now != "" {
			seen = now
		}
		return ok, err
	}); err != nil {
		w.Fatalf("%s: %v; last seen: %s", what, err, seen)
	}
}

// propose plans and proposes a spec as red, who approves it thereby.
func (w *world) propose(text string) (client.Proposal, client.Planned) {
	w.Helper()
	d, err := spec.Parse("test.yaml", []byte(text))
	if err != nil {
		w.Fatal(err)
	}
	p, err := w.c.Plan(w.Context(), d)
	if err != nil {
		w.Fatal(err)
	}
	id, err := w.c.Propose(w.Context(), p, w.keys["red"])
	if err != nil {
		w.Fatal(err)
	}
	proposal, err := w.c.Proposal(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	return proposal, p
}

func (w *world) approve(p client.Proposal, who string) {
	w.Helper()
	if err := w.c.Approve(w.Context(), p, w.keys[who]); err != nil {
		w.Fatal(err)
	}
}

// deploy proposes and approves, and returns the contract.
func (w *world) deploy(text string) canon.Hash {
	w.Helper()
	p, planned := w.propose(text)
	w.approve(p, "green")
	if planned.Contract.IsZero() {
		return p.ID
	}
	return planned.Contract
}

// cancel ends a contract by quorum.
func (w *world) cancel(id canon.Hash) {
	w.Helper()
	pid, err := w.c.ProposeCancel(w.Context(), id, w.keys["red"])
	if err != nil {
		w.Fatal(err)
	}
	p, err := w.c.Proposal(w.Context(), pid)
	if err != nil {
		w.Fatal(err)
	}
	w.approve(p, "green")
}

// workload waits until a workload of a contract is as wanted.
func (w *world) workload(id canon.Hash, name string, timeout time.Duration, what string, want func(client.Workload) bool) client.Workload {
	w.Helper()
	var got client.Workload
	w.eventually(timeout, fmt.Sprintf("%s: %s", name, what), func(ctx context.Context) (bool, string, error) {
		rows, err := w.c.Workloads(ctx)
		if err != nil {
			return false, "", err
		}
		for _, r := range rows {
			if r.ContractID == id && r.Name == name {
				got = r
				return want(r), fmt.Sprintf("%s %s %s (epoch %d)", r.State, r.Reason, r.Detail, r.Epoch), nil
			}
		}
		return false, "no such workload", nil
	})
	return got
}

func (w *world) running(id canon.Hash, name string, timeout time.Duration) client.Workload {
	w.Helper()
	return w.workload(id, name, timeout, "runs", func(r client.Workload) bool { return r.State == contract.StateRunning })
}

// log waits until a workload's log on a node has a line that contains want.
func (w *world) log(slot, id canon.Hash, name, want string) {
	w.Helper()
	w.logWithin(actTime, slot, id, name, want)
}

func (w *world) logWithin(timeout time.Duration, slot, id canon.Hash, name, want string) {
	w.Helper()
	w.eventually(timeout, fmt.Sprintf("log of %s has %q", name, want), func(ctx context.Context) (bool, string, error) {
		seen, err := w.output(ctx, slot, id, name)
		return strings.Contains(seen, want), seen, transient(err)
	})
}

// logs is what a workload has written to its standard output so far.
func (w *world) logs(slot, id canon.Hash, name string) string {
	w.Helper()
	var seen string
	w.eventually(actTime, "log of "+name, func(ctx context.Context) (bool, string, error) {
		var err error
		seen, err = w.output(ctx, slot, id, name)
		return err == nil, "", transient(err)
	})
	return seen
}

func (w *world) output(ctx context.Context, slot, id canon.Hash, name string) (string, error) {
	var seen strings.Builder
	err := w.c.Logs(ctx, slot, id, protocol.LogsParams{Workload: name}, w.keys["red"], func(r protocol.LogRecord) error {
		if r.Stream == "stdout" {
			seen.Write(r.Data)
			seen.WriteByte('\n')
		}
		return nil
	})
	return seen.String(), err
}

func (w *world) heartbeat(i int) bus.Heartbeat {
	w.Helper()
	var beat bus.Heartbeat
	w.eventually(actTime, "heartbeat of "+nodeName(i), func(ctx context.Context) (bool, string, error) {
		b, err := w.c.Heartbeat(ctx, w.g.founding.slotIDs[i-1])
		beat = b
		return err == nil, "", err
	})
	return beat
}

// rebooted waits until node i answers from another boot and reconciles.
func (w *world) rebooted(i int, before bus.Heartbeat) {
	w.Helper()
	w.eventually(bootTime, nodeName(i)+" boots again", func(ctx context.Context) (bool, string, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		b, err := w.c.Heartbeat(ctx, w.g.founding.slotIDs[i-1])
		if err != nil {
			return false, err.Error(), transient(err)
		}
		return !bytes.Equal(b.BootNonce, before.BootNonce) && b.Status.Ready, fmt.Sprintf("%+v", b.Status), nil
	})
}

// transient keeps Poll waiting while a node is away.
func transient(err error) error {
	if problem.Code(err) == "node-silent" || problem.Code(err) == "node-rekeyed" || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

func (w *world) resources(i int) protocol.Resources {
	w.Helper()
	var r protocol.Resources
	w.eventually(actTime, "resources of "+nodeName(i), func(ctx context.Context) (bool, string, error) {
		var err error
		r, err = w.c.Resources(ctx, w.g.founding.slotIDs[i-1], w.keys[keyFarmer])
		return err == nil, "", err
	})
	return r
}

// publish tags an image of red's.
func (w *world) publish(name string, digest canon.Hash) {
	w.Helper()
	now := time.Now()
	tag, err := contract.Sign(w.Context(), contract.NewTag(w.c.Grid(), w.g.founding.accounts["red"], name, "1", digest,
		uint64(now.UnixNano()), uint64(now.Add(time.Hour).Unix())), contract.KindTag, w.keys["red"])
	if err != nil {
		w.Fatal(err)
	}
	h := w.hub()
	if err := errors.Join(h.PublishTag(w.Context(), tag), h.Close()); err != nil {
		w.Fatal(err)
	}
}

func (w *world) hub() *hub.Writer {
	w.Helper()
	h, err := hub.OpenWriter(w.g.d.hub(), hub.WriterOptions{NoSync: true})
	if err != nil {
		w.Fatal(err)
	}
	return h
}

// variant publishes the demo program with other bytes: its own object, fetched
// by nobody yet. It returns the program and its manifest entry.
func (w *world) variant(name string) ([]byte, *flist.File) {
	w.Helper()
	program, err := os.ReadFile("../bin/hello")
	if err != nil {
		w.Fatal(err)
	}
	_, _ = rand.Read(program[9:16]) // padding of the ELF identification
	h := w.hub()
	t := flist.NewTree(h, flist.Options{})
	if err := errors.Join(t.AddDir("", flist.Meta{Mode: 0o755}), t.AddFile(w.Context(), "hello", flist.Meta{Mode: 0o755}, bytes.NewReader(program))); err != nil {
		w.Fatal(err)
	}
	_, m, _, err := t.Manifest()
	if err != nil {
		w.Fatal(err)
	}
	m.Config.Entrypoint = []string{"/hello"}
	digest, err := h.PutFlist(w.Context(), m)
	if err = errors.Join(err, h.Close()); err != nil {
		w.Fatal(err)
	}
	w.publish(name, digest)
	e, ok := m.Lookup("hello")
	if !ok {
		w.Fatal("no program in the image")
	}
	return program, e.File
}

// flip inverts one byte of a file.
func (w *world) flip(path string, offset int64) {
	w.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		w.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, offset); err != nil {
		w.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b, offset); err != nil {
		w.Fatal(err)
	}
}

const trio = `apiVersion: zos/v1
name: trio
group: demo
networks: [{name: mesh}]
workloads:
  - {name: a, kind: container, isolation: namespace, image: red/hello:1, node: node-1, env: {GREETING: on-disk}, networks: [mesh], resources: {disk: 16MiB}}
  - {name: b, kind: container, isolation: namespace, image: red/hello:1, node: node-2, env: {GREETING: on-tpm}, networks: [mesh], resources: {disk: 16MiB}}
  - {name: c, kind: container, isolation: namespace, image: red/hello:1, node: node-3, env: {GREETING: on-nothing}, networks: [mesh], resources: {disk: 16MiB}}
`

// single is a deployment of one workload on the first node.
func single(name, image, extra string) string {
	return fmt.Sprintf("apiVersion: zos/v1\nname: %s\ngroup: demo\nworkloads:\n  - {name: %s, kind: container, isolation: namespace, image: %s, node: node-1, resources: {disk: 16MiB}%s}\n",
		name, name, image, extra)
}

// TestGrid is the whole of the project on real machines: three nodes that keep
// their keys on a disk, in a TPM, and nowhere, and whose networks know no other
// way than the relay. TestNetworks has those that find each other.
func TestGrid(t *testing.T) {
	debian := make(chan error, 1)
	root := t.TempDir()
	go func() { debian <- debootstrap(t.Context(), root) }()
	w := startWorld(t, Options{Nodes: 3, Identity: "disk,tpm,none", Firmware: qemu.BIOS, RelayOnly: true})
	var before [3]protocol.Resources
	for i := range before {
		before[i] = w.resources(i + 1)
	}
	var contractID canon.Hash
	ok := t.Run("OneApprovalIsNotEnoughTwoAre", func(t *testing.T) {
		w := w.with(t)
		p, _ := w.propose(trio)
		contractID = p.ID
		time.Sleep(10 * time.Second) // long enough for a node that would start it
		for i := 1; i <= 3; i++ {
			if b := w.heartbeat(i); b.Status.Running != 0 {
				t.Fatalf("%s runs %d workloads after one approval", nodeName(i), b.Status.Running)
			}
		}
		w.approve(p, "green")
		for name, greeting := range map[string]string{"a": "on-disk", "b": "on-tpm", "c": "on-nothing"} {
			r := w.running(contractID, name, actTime)
			if !r.Verity {
				t.Errorf("%s runs from files that the kernel does not verify", name)
			}
			w.log(r.Slot, contractID, name, greeting)
		}
		w.meshUp(contractID)
		for _, slot := range w.g.founding.slotIDs {
			status, err := w.c.NetworkStatus(w.Context(), slot, contractID, w.keys["red"])
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range status.Networks[0].Keys {
				if k.Port != 0 || k.Engine != protocol.EngineUserspace {
					t.Errorf("relay-only, and node %s has a UDP port: %+v", slot.Short(), k)
				}
			}
		}
	}) && t.Run("NothingListens", func(t *testing.T) { nothingListens(w.with(t)) }) &&
		t.Run("DebianRuns", func(t *testing.T) {
			if err := <-debian; err != nil {
				t.Fatal(err)
			}
			debianRuns(w.with(t), root)
		}) &&
		t.Run("AFailedUpdateReturns", func(t *testing.T) { updateReturns(w.with(t)) }) &&
		t.Run("FlippedByteInTheHub", func(t *testing.T) { flippedInHub(w.with(t)) }) &&
		t.Run("PowerCut", func(t *testing.T) {
			powerCut(w.with(t), contractID)
			w.with(t).meshUp(contractID)
		}) &&
		t.Run("FlippedByteOnTheDisk", func(t *testing.T) { flippedOnDisk(w.with(t)) }) &&
		t.Run("CancellationLeavesNothing", func(t *testing.T) {
			w := w.with(t)
			w.cancel(contractID)
			for i := range before {
				w.sameResources(i+1, before[i])
			}
		})
	if ok {
		t.Run("ForgerWithAllValidatorKeys", func(t *testing.T) { forger(w.with(t)) })
	}
}

// updateReturns updates a replica on each node, one after another, to a version that
// is never healthy: all of them run the former one again, and those whose turn had not
// come never stopped doing so. The next version then finds its way.
func updateReturns(w *world) {
	version := func(greeting, extra string) string {
		return fmt.Sprintf(`apiVersion: zos/v1
name: replicas
group: demo
update: {strategy: rolling, maxUnavailable: 1, deadline: 20s, onFailure: return}
workloads:
  - {name: r, kind: container, isolation: namespace, image: red/hello:1, replicas: 3, spread: node, env: {GREETING: %s}, resources: {disk: 16MiB}%s}
`, greeting, extra)
	}
	replicas := []string{"r-1", "r-2", "r-3"}
	id := w.deploy(version("first", ""))
	for _, name := range replicas {
		w.workload(id, name, actTime, "is ready", func(r client.Workload) bool { return r.Ready })
	}
	w.deploy(version("second", `, health: {exec: ["/none"], interval: 1s, retries: 1}`))
	tried := 0
	for _, name := range replicas {
		r := w.workload(id, name, actTime, "runs its former version", func(r client.Workload) bool {
			return r.State == contract.StateRunning && r.Reason == "update-returned" && !r.Ready
		})
		if log := w.logs(r.Slot, id, name); !strings.Contains(log, "first from") {
			w.Errorf("%s has never run its first version: %q", name, log)
		} else if strings.Contains(log, "second from") {
			tried++
		} else if strings.Contains(log, "bye") {
			w.Errorf("%s was stopped before its turn: %q", name, log)
		}
	}
	if tried != 1 {
		w.Errorf("%d replicas tried the second version, want one at a time, and the first of them to fail", tried)
	}
	w.deploy(version("third", ""))
	for _, name := range replicas {
		r := w.workload(id, name, actTime, "is ready in its third version", func(r client.Workload) bool { return r.Ready && r.Runs == 3 })
		w.log(r.Slot, id, name, "third from")
	}
	w.cancel(id)
}

// meshUp waits until every node of a contract's network has shaken hands with
// every other one, by keys that both hold now.
func (w *world) meshUp(id canon.Hash) {
	w.Helper()
	slots := w.g.founding.slotIDs
	w.eventually(actTime, "the network is up between all nodes", func(ctx context.Context) (bool, string, error) {
		keys, up, seen := map[canon.Hash][]byte{}, 0, ""
		var all []protocol.NetworkStatus
		for _, slot := range slots {
			s, err := w.c.NetworkStatus(ctx, slot, id, w.keys["red"])
			if err != nil {
				return false, err.Error(), transient(err)
			}
			all = append(all, s)
			for _, n := range s.Networks {
				for _, k := range n.Keys {
					keys[slot] = k.PublicKey // the newest comes last
				}
			}
		}
		for _, s := range all {
			for _, n := range s.Networks {
				for _, p := range n.Peers {
					seen += fmt.Sprintf("%s→%s %s %s; ", s.Slot.Short(), p.Slot.Short(), p.State, p.Code)
					if p.State == protocol.PeerUp && bytes.Equal(p.PublicKey, keys[p.Slot]) {
						up++
					}
				}
			}
		}
		return up == len(slots)*(len(slots)-1), seen, nil
	})
}

// sameResources waits until a node has what it had before, and nothing else.
func (w *world) sameResources(i int, before protocol.Resources) {
	w.Helper()
	w.eventually(actTime, nodeName(i)+" is as before", func(ctx context.Context) (bool, string, error) {
		r, err := w.c.Resources(ctx, w.g.founding.slotIDs[i-1], w.keys[keyFarmer])
		if err != nil {
			return false, "", err
		}
		same := slices.Equal(r.Mounts, before.Mounts) && slices.Equal(r.Cgroups, before.Cgroups) && len(r.Namespaces) == len(before.Namespaces) &&
			slices.Equal(r.Interfaces, before.Interfaces) && slices.Equal(r.Processes, before.Processes) && r.Files == before.Files && r.Bytes == before.Bytes
		return same, fmt.Sprintf("before %+v\nnow    %+v", before, r), nil
	})
}

// nothingListens scans a node from its own layer-2 segment.
func nothingListens(w *world) {
	ctx, cancel := context.WithTimeout(w.Context(), 10*time.Minute)
	defer cancel()
	report, err := portscan.Scan(ctx, portscan.Options{
		Segment: w.g.machines[0].config.Network.Segment, Control: true, Subnet: netip.MustParsePrefix("10.0.2.0/24"), Log: w.Logf,
	})
	if err != nil {
		w.Fatal(err)
	}
	if report.Control == nil || !report.Control.Found || !report.OK {
		w.Fatalf("%+v", report)
	}
}

// debootstrap makes a minimal Debian root file system.
func debootstrap(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "debootstrap", "--variant=minbase", "bookworm", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("debootstrap: %w\n%s", err, out[max(0, len(out)-2000):])
	}
	return nil
}

// debianRuns runs a real distribution through the whole path.
func debianRuns(w *world, root string) {
	h := w.hub()
	digest, m, _, err := flist.BuildDir(w.Context(), root, h, flist.Options{Config: &flist.Config{Cmd: []string{"/bin/bash"}}})
	if err != nil {
		w.Fatal(err)
	}
	if got, err := h.PutFlist(w.Context(), m); err != nil || got != digest {
		w.Fatalf("publish: %s, %v", got, err)
	}
	if err := h.Close(); err != nil {
		w.Fatal(err)
	}
	w.publish("debian", digest)
	id := w.deploy(single("debian", "red/debian:1", `, restart: never, command: ["/bin/bash", "-c", "read v < /etc/debian_version; echo debian $v; perl -e 'print 6*7, qq(\\n)'; touch /etc/written && ls /etc/written; dpkg -l | grep -c ^ii; id -u"]`))
	r := w.workload(id, "debian", actTime, "ends", func(r client.Workload) bool { return r.State == contract.StateExited })
	if r.ExitCode != 0 {
		w.Errorf("exit code %d", r.ExitCode)
	}
	for _, want := range []string{"debian 12", "42", "/etc/written"} {
		w.log(r.Slot, id, "debian", want)
	}
	status, err := w.c.WorkloadStatus(w.Context(), r.Slot, id, w.keys["red"])
	if err != nil {
		w.Fatal(err)
	}
	if s := status.Workloads[0]; s.Fetched == 0 || s.Fetched*2 > s.Total {
		w.Errorf("fetched %d of %d bytes: not lazily", s.Fetched, s.Total)
	}
	w.cancel(id)
}

// flippedInHub flips a byte of an object that nobody has fetched yet.
func flippedInHub(w *world) {
	_, file := w.variant("flipped")
	name := file.Digest
	if len(file.Chunks) > 0 {
		name = file.Chunks[1]
	}
	path := filepath.Join(w.g.d.hub(), hub.ObjectPath(name))
	w.flip(path, 1000)
	id := w.deploy(single("flipped", "red/flipped:1", ""))
	w.workload(id, "flipped", actTime, "is refused as digest-mismatch", func(r client.Workload) bool {
		if r.State == contract.StateRunning {
			w.Fatal("it runs from a damaged object")
		}
		return r.Reason == "digest-mismatch"
	})
	w.flip(path, 1000)
	r := w.running(id, "flipped", actTime)
	w.log(r.Slot, id, "flipped", "hello from flipped")
	w.cancel(id)
}

// powerCut takes the power from all nodes at once, and the disk's content from
// the one with a TPM.
func powerCut(w *world, id canon.Hash) {
	var beats [3]bus.Heartbeat
	for i := range beats {
		beats[i] = w.heartbeat(i + 1)
	}
	for _, m := range w.g.machines {
		if err := m.powerOff(); err != nil {
			w.Fatal(err)
		}
	}
	blank := w.g.machines[1].config.Disks[0].Path
	if err := errors.Join(os.Truncate(blank, 0), os.Truncate(blank, diskSize)); err != nil {
		w.Fatal(err)
	}
	for _, m := range w.g.machines {
		m.powerOn()
	}
	for i, name := range []string{"a", "b", "c"} {
		w.rebooted(i+1, beats[i])
		epoch := uint64(1)
		if name == "c" {
			epoch = 2 // keys of one boot only: re-keyed by the farm's agent
		}
		// The workload, and the router of its network.
		w.eventually(actTime, name+" runs again", func(ctx context.Context) (bool, string, error) {
			b, err := w.c.Heartbeat(ctx, w.g.founding.slotIDs[i])
			return err == nil && b.Status.Running == 2 && b.Epoch == epoch, fmt.Sprintf("epoch %d, %+v", b.Epoch, b.Status), err
		})
		r := w.workload(id, name, actTime, "has a receipt of this boot's key", func(r client.Workload) bool {
			return r.State == contract.StateRunning && r.Epoch == epoch
		})
		w.log(r.Slot, id, name, map[string]string{"a": "on-disk", "b": "on-tpm", "c": "on-nothing"}[name])
	}
}

// flippedOnDisk flips a byte of a program on the raw disk of a node that is off.
func flippedOnDisk(w *world) {
	program, _ := w.variant("rotten")
	id := w.deploy(single("rotten", "red/rotten:1", ""))
	w.running(id, "rotten", actTime)
	m := w.g.machines[0]
	before := w.heartbeat(1)
	// An object whose name is not in the journal yet would be fetched again; ext4
	// commits every five seconds.
	time.Sleep(12 * time.Second)
	if err := m.powerOff(); err != nil {
		w.Fatal(err)
	}
	if n := w.flipOnDisk(m.config.Disks[0].Path, program[:4096], 200); n == 0 {
		w.Fatal("the program was not found on the disk")
	}
	m.powerOn()
	w.rebooted(1, before)
	// The damaged page is never served: the node finds it, fetches the object
	// again, and runs the right bytes.
	w.eventually(actTime, "the node notices the damage", func(context.Context) (bool, string, error) {
		return strings.Contains(tail(m.config.Console, 64<<10), "an object on the data disk was damaged"), "", nil
	})
	r := w.running(id, "rotten", actTime)
	w.log(r.Slot, id, "rotten", "hello from rotten")
	w.cancel(id)
}

// flipOnDisk flips a byte in every copy of a page on a sparse disk image.
func (w *world) flipOnDisk(path string, page []byte, offset int64) (copies int) {
	w.Helper()
	f, err := os.Open(path)
	if err != nil {
		w.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err != nil {
			return copies
		}
		n, err := f.ReadAt(buf, data&^4095)
		if err != nil && !errors.Is(err, io.EOF) {
			w.Fatal(err)
		}
		for i := 0; i+len(page) <= n; i += 4096 {
			if bytes.Equal(buf[i:i+len(page)], page) {
				w.flip(path, data&^4095+int64(i)+offset)
				copies++
			}
		}
		at = data&^4095 + int64(n)
	}
}

// forger puts contracts on the ledger with every validator key in hand, but
// without the approvals of a group or the consent of the farm.
func forger(w *world) {
	ctx := w.Context()
	slot, grid := w.g.founding.slotIDs[0], w.c.Grid()
	group, farmID := w.g.founding.group, w.g.founding.farm
	seed, err := w.g.d.validatorKey()
	if err != nil {
		w.Fatal(err)
	}
	image, err := w.c.ImageDigest(ctx, "red/hello:1")
	if err != nil {
		w.Fatal(err)
	}
	node, _, err := client.Get[contract.NodeRecord](ctx, w.c, contract.KeyNode(slot))
	if err != nil {
		w.Fatal(err)
	}
	s := w.g.services
	if err := errors.Join(s.witness.Stop(), s.validator.Stop()); err != nil {
		w.Fatal(err)
	}
	address := func(url string) string { return strings.TrimPrefix(url, "http://") }
	evil, err := ledgertest.StartForger(ctx, ledger.Config{Dir: w.g.d.ledger(), Genesis: w.c.Context().Genesis,
		ValidatorKey: seed.Seed(), RPC: address(s.urls.Ledger), P2P: "127.0.0.1:0", Logger: w.g.o.Log})
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = evil.Stop() }()
	accomplice, err := ledgertest.StartForger(ctx, ledger.Config{Dir: w.g.d.witness(), Genesis: w.c.Context().Genesis,
		RPC: address(s.urls.Witness), P2P: "127.0.0.1:0", PersistentPeers: []string{evil.P2PAddr()}, Logger: w.g.o.Log})
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = accomplice.Stop() }()

	// A group of his own making, with members of his own making, that the farm
	// never admitted; and the demo group's name under one true approval.
	writes, ownContract := forgedGroup(w, grid, farmID, slot, image)
	more, underApproved := forgedApproval(w, grid, group, slot, image)
	entries := []contract.RunEntry{ownContract, underApproved}
	slices.SortFunc(entries, func(a, b contract.RunEntry) int { return bytes.Compare(a.Contract[:], b.Contract[:]) })
	list, err := contract.Root(entries)
	if err != nil {
		w.Fatal(err)
	}
	writes = append(append(writes, more...),
		w.write(contract.KeyRuns(slot), contract.RunsRecord{Entries: entries}),
		w.write(contract.KeyNode(slot), contract.NodeRecord{Count: 2, Version: node.Version + 1, Root: list}))
	if err := evil.Write(ctx, writes...); err != nil {
		w.Fatal(err)
	}
	w.eventually(actTime, "the node refuses both contracts", func(ctx context.Context) (bool, string, error) {
		st, err := w.c.NodeStatus(ctx, slot, w.keys[keyFarmer])
		if err != nil {
			return false, "", err
		}
		codes := map[canon.Hash]string{}
		for _, r := range st.Refused {
			codes[r.Contract] = r.Code
		}
		return codes[ownContract.Contract] == "no-consent" && codes[underApproved.Contract] == "approvals-insufficient", fmt.Sprint(st.Refused), nil
	})
	if b := w.heartbeat(1); b.Status.Running != 0 {
		w.Errorf("the node runs %d forged workloads", b.Status.Running)
	}
}

func (w *world) write(key string, record any) ledgertest.Write {
	w.Helper()
	b, err := canon.Marshal(record)
	if err != nil {
		w.Fatal(err)
	}
	return ledgertest.Write{Key: key, Value: b}
}

// forgedPlan is a plan of one container on the slot, for a group.
func forgedPlan(w *world, group, slot, image canon.Hash, name string) (plan.Plan, []byte) {
	w.Helper()
	config, err := canon.Marshal(plan.Container{V: plan.Version, Flist: image, Size: 1, Args: []string{"/hello"}, Env: []string{"PATH=/"},
		WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), NoNewPrivs: true})
	if err != nil {
		w.Fatal(err)
	}
	p := plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: group, Name: name, Workloads: []plan.Workload{{Name: name, Kind: plan.KindContainer, Slot: slot,
		Resources: plan.Resources{CPU: 100, Memory: 64 << 20, Disk: 16 << 20, PIDs: 16}, Config: config}}}
	b, err := plan.Encode(p)
	if err != nil {
		w.Fatal(err)
	}
	return p, b
}

// forgedContract is everything that the ledger would hold of a contract which
// the given keys approved.
func forgedContract(w *world, grid, group, slot, image canon.Hash, name string, by ...sign.Signer) ([]ledgertest.Write, contract.RunEntry) {
	w.Helper()
	p, encoded := forgedPlan(w, group, slot, image, name)
	approval, err := contract.Sign(w.Context(), contract.NewDeploy(grid, p, encoded, 1, contract.NewNonce(), uint64(time.Now().Add(time.Hour).Unix())),
		contract.KindApproval, by...)
	if err != nil {
		w.Fatal(err)
	}
	entry := contract.RunEntry{Contract: approval.ID(), Version: 1, Plan: plan.Hash(encoded)}
	return []ledgertest.Write{
		w.write(contract.KeyContract(entry.Contract), contract.ContractRecord{Group: group, Name: name, Version: 1, State: contract.ContractActive,
			Plan: entry.Plan, History: []contract.Signed{approval}}),
		w.write(contract.KeyRun(slot, entry.Contract), contract.RunRecord{Version: 1, Plan: entry.Plan}),
	}, entry
}

// forgedGroup founds a group of two invented people, fully approved by them.
func forgedGroup(w *world, grid, farmID, slot, image canon.Hash) ([]ledgertest.Write, contract.RunEntry) {
	w.Helper()
	var writes []ledgertest.Write
	var members []contract.Member
	var keys []sign.Signer
	for i := range 2 {
		_, key, err := sign.Generate()
		if err != nil {
			w.Fatal(err)
		}
		account, err := contract.Sign(w.Context(), contract.NewAccount(grid, fmt.Sprintf("ghost-%d", i), key.Public()), contract.KindAccount, key)
		if err != nil {
			w.Fatal(err)
		}
		writes = append(writes, w.write(contract.KeyAccount(account.ID()), contract.AccountRecord{Signed: account}))
		members = append(members, contract.Member{Account: account.ID(), Weight: 1})
		keys = append(keys, key)
	}
	slices.SortFunc(members, func(a, b contract.Member) int { return bytes.Compare(a.Account[:], b.Account[:]) })
	group, err := contract.Sign(w.Context(), contract.NewGroup(grid, "ghosts", members[0].Account, 2, contract.NewNonce(), members...), contract.KindGroup, keys[0])
	if err != nil {
		w.Fatal(err)
	}
	writes = append(writes, w.write(contract.KeyGroup(group.ID()), contract.GroupRecord{Signed: group, Epoch: 1}))
	// A consent in the farm's name, signed by a ghost.
	consent, err := contract.Sign(w.Context(), contract.NewConsent(grid, farmID, group.ID(), contract.Capacity{CPU: 1000, Memory: 1 << 30, Disk: 1 << 30}, 1,
		uint64(time.Now().Add(time.Hour).Unix())), contract.KindConsent, keys[0])
	if err != nil {
		w.Fatal(err)
	}
	writes = append(writes, w.write(contract.KeyConsent(farmID, group.ID()), contract.ConsentRecord{Signed: consent}))
	more, entry := forgedContract(w, grid, group.ID(), slot, image, "ghost", keys...)
	return append(writes, more...), entry
}

// forgedApproval is a contract of the true group that red alone approved.
func forgedApproval(w *world, grid, group, slot, image canon.Hash) ([]ledgertest.Write, contract.RunEntry) {
	return forgedContract(w, grid, group, slot, image, "alone", w.keys["red"])
}
