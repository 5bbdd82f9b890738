package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/farm"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// world is a grid without machines, made with nothing but the command line: its
// services are processes of `zos serve`, everything on its ledger was put there
// by verbs. Only the node is the test's: it joins and answers like one, and runs
// nothing.
type world struct {
	t      *testing.T
	dir    string
	config string
	urls   map[string]string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), urls: map[string]string{}}
	w.config = filepath.Join(w.dir, "config")
	for _, key := range []string{"release-1", "release-2", "release-3"} {
		w.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", w.path(key))
	}
	w.zos("genesis", "create", "test", "--out", w.path("genesis.cbor"), "--validator-key", w.path("validator.seed"), "--release-key", w.path("release-1.pub"),
		"--release-key", w.path("release-2.pub"), "--release-key", w.path("release-3.pub"), "--release-threshold", "2")
	genesis := []string{"--genesis", w.path("genesis.cbor"), "--rpc", "127.0.0.1:0", "--p2p", "127.0.0.1:0"}
	validator := w.serve("ledger", append(genesis, "--dir", w.path("ledger"), "--validator-key", w.path("validator.seed"))...)
	witness := w.serve("ledger", append(genesis, "--dir", w.path("witness"), "--peer", validator["p2p"])...)
	hub := w.serve("hub", "--dir", w.path("hub"), "--listen", "127.0.0.1:0")
	meeting := w.serve("rendezvous", "--dir", w.path("rendezvous"), "--listen", "127.0.0.1:0",
		"--genesis", w.path("genesis.cbor"), "--ledger", validator["url"], "--ledger", witness["url"])
	w.urls = map[string]string{"ledger": validator["url"], "witness": witness["url"], "hub": hub["url"], "rendezvous": meeting["url"]}
	w.zos("context", "create", "test", "--genesis", w.path("genesis.cbor"), "--ledger", validator["url"], "--ledger", witness["url"],
		"--hub", hub["url"], "--rendezvous", meeting["url"], "--hub-dir", w.path("hub"))
	w.found()
	return w
}

// found plays the verbs that make a grid's people, farm and node.
func (w *world) found() {
	for _, key := range []string{"release-1", "release-2", "release-3"} {
		w.zos("key", "add", key, w.path(key))
	}
	for _, who := range []string{"red", "green", "blue", "mallory"} {
		w.zos("key", "generate", who)
		w.zos("account", "create", who, "--as", who)
	}
	w.zos("key", "use", "red")
	w.zos("group", "create", "demo", "--member", "red", "--member", "green", "--member", "blue", "--threshold", "2")
	w.zos("key", "generate", "farmer")
	w.zos("farm", "create", "home", "--as", "farmer")
	slot := w.zos("farm", "slot", "add", "node-1", "--hint", "mac:52:54:00:00:00:01", "--identity", "none", "--cpu", "64", "--memory", "64GiB", "--disk", "64GiB")
	w.zos("farm", "slot", "add", "node-2", "--hint", "mac:52:54:00:00:00:02", "--cpu", "1", "--memory", "1GiB", "--disk", "1GiB")
	w.zos("farm", "admit", "demo")
	w.zos("key", "generate", "agent")
	w.zos("farm", "delegate", "agent")
	w.serve("farm", "--farm", "home", "--as", "agent")
	w.join(slot)
}

// join has a node admitted by the farm's agent, and answers in its place.
func (w *world) join(slotID string) {
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(cancel)
	slot, err := canon.ParseHash(slotID)
	w.must(err)
	w.t.Setenv(client.ConfigEnv, w.config)
	config, err := client.OpenConfig()
	w.must(err)
	known, err := config.Load("")
	w.must(err)
	c, err := client.Open(ctx, config, known, nil)
	w.must(err)
	defer c.Close()
	farmID, err := c.FarmID(ctx, "home")
	w.must(err)
	home, err := c.Farm(ctx, farmID)
	w.must(err)

	var members []sign.PublicKey // of group demo
	for _, who := range []string{"red", "green", "blue"} {
		signer, err := c.Signer(ctx, who)
		w.must(err)
		members = append(members, signer.Public())
	}

	_, key, err := sign.Generate()
	w.must(err)
	var seed [32]byte
	_, _ = rand.Read(seed[:])
	sealing, err := seal.KeyFromSeed(seed)
	w.must(err)
	conn, err := bus.Connect(bus.ConnConfig{URLs: known.Rendezvous, Role: bus.AsNode(slot)})
	w.must(err)
	w.t.Cleanup(conn.Close)
	nonce := [16]byte{1}
	join, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	epoch, err := farm.Ask(join, farm.AskConfig{Conn: conn, Grid: known.Grid(), Farm: farmID, FarmKey: home.Key, Slot: slot, Signer: key,
		SealingKey: sealing.Public(), BootNonce: nonce, Hints: []string{"mac:52:54:00:00:00:01"}})
	w.must(err)

	n, err := bus.NewNode(bus.NodeConfig{Conn: conn, Grid: known.Grid(), Slot: slot, Epoch: epoch, BootNonce: nonce, Signer: key, Sealing: sealing, Release: 1,
		Facts: func(_ context.Context, contract canon.Hash) (bus.Facts, error) {
			return bus.Facts{FarmKey: home.Key, Contract: !contract.IsZero(), Members: members, Access: granted()}, nil
		},
		Status: func() bus.Status { return bus.Status{Ready: true, Head: 7} }})
	w.must(err)
	n.HandleCall(bus.MethodResources, func(context.Context, bus.Query) ([]byte, error) {
		return canon.Marshal(protocol.Resources{Mounts: []string{"/data"}, Processes: []string{"zosd"}, Bytes: 12, Files: 3, Cached: 4096})
	})
	n.HandleCall(bus.MethodNetwork, func(context.Context, bus.Query) ([]byte, error) {
		return canon.Marshal(protocol.NetworkStatus{Slot: slot, Networks: []protocol.Network{{
			Name: "front", Keys: []protocol.NetworkKey{{Device: "wg0", Engine: protocol.EngineKernel, Epoch: 7, PublicKey: make([]byte, 32)}},
			Firewall: protocol.Check{OK: true}, Resolver: protocol.Check{OK: true}}}})
	})
	w.publish(ctx, n, slot, known)
	w.inside(n)
	n.HandleCall(bus.MethodNode, func(context.Context, bus.Query) ([]byte, error) {
		return canon.Marshal(protocol.NodeStatus{Slot: slot, Epoch: epoch, Release: 1, Store: "disk", Uptime: 61})
	})
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && ctx.Err() == nil {
			w.t.Errorf("the node ended: %v", err)
		}
	})
}

// publish answers as a node that is a gateway and an entry of devices. What it says
// of gateways is what the plan says, all of it well; its keys are made up.
func (w *world) publish(ctx context.Context, n *bus.Node, slot canon.Hash, known *client.Context) {
	config, err := client.OpenConfig()
	w.must(err)
	c, err := client.Open(ctx, config, known, nil)
	w.must(err)
	w.t.Cleanup(func() { _ = c.Close() })
	n.HandleCall(bus.MethodGateway, func(ctx context.Context, q bus.Query) ([]byte, error) {
		k, err := c.Contract(ctx, q.Contract)
		if err != nil {
			return nil, err
		}
		status := protocol.GatewayStatus{Slot: slot}
		for _, p := range client.GatewaysOf(k) {
			g := protocol.Gateway{Name: p.Workload.Name, Version: k.Version, Addresses: p.Gateway.Addresses, Process: protocol.Check{OK: true}, Public: protocol.Check{OK: true}}
			for _, r := range p.Gateway.Routes {
				live := protocol.GatewayRoute{Name: r.String(), Mode: r.Mode, Port: uint64(r.Port), Network: r.Network, Target: uint64(r.Target), Entry: r.Entry, Serving: true}
				for _, b := range r.Backends {
					live.Backends = append(live.Backends, protocol.GatewayBackend{Name: b, State: protocol.BackendHealthy, Since: &protocol.Age{}})
				}
				g.Routes = append(g.Routes, live)
			}
			status.Gateways = append(status.Gateways, g)
		}
		return canon.Marshal(status)
	})
	n.HandleCall(bus.MethodDevice, func(ctx context.Context, q bus.Query) ([]byte, error) {
		var params protocol.DeviceParams
		if err := canon.Unmarshal(q.Params, &params); err != nil {
			return nil, err
		}
		k, err := c.Contract(ctx, q.Contract)
		if err != nil {
			return nil, err
		}
		d, ok := client.Devices(&k.Plan)[params.Workload]
		if !ok {
			return nil, problem.New("device-unknown", "no device %s", params.Workload)
		}
		net, err := client.FindNetwork(&k.Plan, d.Network.Network)
		if err != nil {
			return nil, err
		}
		answer := protocol.DeviceConfig{Network: net.Name, EntryKey: bytes.Repeat([]byte{7}, 32), Preshared: bytes.Repeat([]byte{8}, 32), Device: d.Key,
			Addresses: []string{d.Network.IPv4, d.Network.IPv6}, Ranges: []string{net.IPv4, net.IPv6}, DNS: []string{d.Network.IPv4, d.Network.IPv6}, MTU: 1280}
		for _, e := range client.EndpointsOf(&k.Plan, net.Name, slot) {
			answer.Endpoints = append(answer.Endpoints, e.String())
		}
		return canon.Marshal(answer)
	})
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// command prepares a program with the world's configuration.
func (w *world) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), client.ConfigEnv+"="+w.config, "SSH_AUTH_SOCK=")
	return cmd
}

// run runs a program and returns its standard output without the last newline.
func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := w.command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		w.t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return strings.TrimSpace(out.String())
}

func (w *world) zos(args ...string) string { w.t.Helper(); return w.run("zos", args...) }

// serve starts a service and waits for the line in which it says where it is.
// It must end by itself, without an error, at SIGTERM.
func (w *world) serve(service string, args ...string) map[string]string {
	w.t.Helper()
	var errs bytes.Buffer
	cmd := w.command(context.Background(), "zos", append([]string{"serve", service, "-o", "json"}, args...)...)
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	watchdog := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadBytes('\n')
	watchdog.Stop()
	if err != nil {
		_ = cmd.Process.Kill()
		w.t.Fatalf("serve %s is not ready: %v, %v\n%s", service, err, cmd.Wait(), errs.String())
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		if err := cmd.Wait(); err != nil {
			w.t.Errorf("serve %s did not end well: %v\n%s", service, err, errs.String())
		}
	})
	facts := map[string]string{}
	w.must(json.Unmarshal(line, &facts))
	return facts
}
