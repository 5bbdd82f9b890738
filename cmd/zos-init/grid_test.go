package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/vmtest"
)

const testMAC = "52:54:00:12:34:56"

// built is what all tests boot; compiling it once saves a minute.
type built struct {
	image boot.Image
	os    canon.Hash
	hub   string // directory with the OS's flist and objects
	dir   string
}

// testGrid is a grid with one farm, one slot, a hub on this host and one release key.
type testGrid struct {
	t       *testing.T
	built   *built
	id      canon.Hash
	archive boot.Archive
	release sign.Signer
	hubDir  string
	port    int
}

func sharedBuild(t *testing.T) *built {
	t.Helper()
	builtMu.Lock()
	defer builtMu.Unlock()
	if shared != nil {
		return shared
	}
	dir, err := os.MkdirTemp("", "zos-init-test-")
	if err != nil {
		t.Fatal(err)
	}
	b := &built{dir: dir, hub: filepath.Join(dir, "hub")}
	init := vmtest.BuildStatic(t, "github.com/zero-os/zos/cmd/zos-init")
	zosd := vmtest.BuildStatic(t, "github.com/zero-os/zos/cmd/zos-init/testdata/zosd")
	ctx := context.Background()
	b.image, err = boot.BuildImage(ctx, boot.ImageOptions{KernelDir: vmtest.Kernel(t), InitBinary: init, OutDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	w, err := hub.OpenWriter(b.hub, hub.WriterOptions{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	system, err := boot.BuildOS(ctx, boot.OSOptions{
		ZosInit: init, Zosd: zosd, ZosFault: zosd, ZosShim: zosd, ZosGateway: zosd, Runc: zosd,
		KernelDir: vmtest.Kernel(t), Modules: []string{"wireguard"}, Sink: w,
	})
	if err != nil {
		t.Fatal(err)
	}
	if b.os, err = w.PutFlist(ctx, system.Manifest); err != nil {
		t.Fatal(err)
	}
	shared = b
	return b
}

var (
	builtMu sync.Mutex
	shared  *built
)

func TestMain(m *testing.M) {
	code := m.Run()
	if shared != nil {
		os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

func newTestGrid(t *testing.T) *testGrid {
	t.Helper()
	g := &testGrid{t: t, built: sharedBuild(t)}
	g.hubDir = g.built.hub // releases of different grids don't meet
	_, g.release, _ = sign.Generate()
	_, farmer, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	genesis := contract.Genesis{
		V: contract.Version, Kind: contract.KindGenesis, Name: "test", Created: uint64(time.Now().Unix()),
		Nonce:            make([]byte, contract.NonceSize),
		Validators:       []contract.Validator{{Name: "v1", Key: make([]byte, 32), Power: 1}},
		ReleaseKeys:      [][]byte{g.release.Public()},
		ReleaseThreshold: 1,
	}
	_, _ = rand.Read(genesis.Nonce)
	gb, err := contract.EncodeGenesis(genesis)
	if err != nil {
		t.Fatal(err)
	}
	g.id = canon.Sum(gb)
	ctx := context.Background()
	farm, err := contract.Sign(ctx, contract.Farm{
		Header: contract.Header{V: contract.Version, Kind: contract.KindFarm, Grid: g.id},
		Name:   "farm", Key: farmer.Public(),
	}, contract.KindFarm, farmer)
	if err != nil {
		t.Fatal(err)
	}
	slot, err := contract.Sign(ctx, contract.Slot{
		Header: contract.Header{V: contract.Version, Kind: contract.KindSlot, Grid: g.id},
		Farm:   farm.ID(), Name: "node1", Hint: "mac:" + testMAC, Disks: []string{"named-1"}, Identity: "disk",
	}, contract.KindSlot, farmer)
	if err != nil {
		t.Fatal(err)
	}
	g.archive = boot.Archive{
		V: contract.Version, Genesis: gb, Farm: farm, Slots: []contract.Signed{slot},
		ReleaseFloor: 1, Built: uint64(time.Now().Add(-time.Hour).Unix()),
	}
	return g
}

// serve starts the hub, on the same port each time, and returns what ends it.
func (g *testGrid) serve() (stop func()) {
	g.t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", g.port))
	if err != nil {
		g.t.Fatal(err)
	}
	g.port = l.Addr().(*net.TCPAddr).Port
	g.archive.Hubs = []string{fmt.Sprintf("http://10.0.2.2:%d", g.port)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = hub.Serve(ctx, l, g.hubDir, slog.New(slog.DiscardHandler)) })
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	g.t.Cleanup(stop)
	return stop
}

// publish signs a release of the built OS as the latest, whatever was there.
func (g *testGrid) publish(r contract.Release, signer sign.Signer) {
	g.t.Helper()
	if r.Expiry == 0 {
		r.Expiry = uint64(time.Now().Add(24 * time.Hour).Unix())
	}
	if r.OS.IsZero() {
		r.OS = g.built.os
	}
	r.Name = fmt.Sprintf("test.%d", r.Sequence)
	s, err := boot.SignRelease(context.Background(), r, g.archive.Genesis, signer)
	if err != nil {
		g.t.Fatal(err)
	}
	b, err := s.Encode()
	if err != nil {
		g.t.Fatal(err)
	}
	g.publishBytes(b)
}

func (g *testGrid) publishBytes(b []byte) {
	g.t.Helper()
	path := filepath.Join(g.hubDir, "releases", g.id.String(), "latest")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		g.t.Fatal(err)
	}
	if err := boot.WriteFile(path, b, 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// initrd returns the path of the image's initrd followed by the grid's archive.
func (g *testGrid) initrd(archive []byte) string {
	g.t.Helper()
	b, err := os.ReadFile(g.built.image.Initrd)
	if err != nil {
		g.t.Fatal(err)
	}
	path := filepath.Join(g.t.TempDir(), "initrd")
	if err := os.WriteFile(path, append(b, archive...), 0o600); err != nil {
		g.t.Fatal(err)
	}
	return path
}

// boot starts a machine with the grid's archive.
func (g *testGrid) boot(c qemu.Config) *vmtest.Machine {
	g.t.Helper()
	if c.Initrd == "" {
		archive, err := boot.ArchiveInitrd(g.archive)
		if err != nil {
			g.t.Fatal(err)
		}
		c.Initrd = g.initrd(archive)
	}
	c.Kernel = g.built.image.Kernel
	c.Network = &qemu.Network{MAC: testMAC}
	c.NoReboot = true
	c.Cmdline += " console=ttyS0 loglevel=4"
	return vmtest.NewMachine(g.t, c)
}

// disk makes a raw disk image of size bytes.
func disk(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

// timeServer answers NTP requests (RFC 5905) with a clock that is ahead, and
// returns its address as guests see it.
func timeServer(t *testing.T, ahead time.Duration) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	wg.Go(func() {
		b := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if n < 48 {
				continue
			}
			// Seconds since 1900 and their fraction.
			d := time.Now().Add(ahead).Sub(time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC))
			now := uint64(d/time.Second)<<32 | uint64(d%time.Second)<<32/uint64(time.Second)
			a := make([]byte, 48)
			a[0], a[1], a[3] = 4<<3|4, 1, 0xec // version 4, server, stratum 1, a microsecond's precision
			copy(a[12:], "TEST")
			binary.BigEndian.PutUint64(a[16:], now)
			copy(a[24:], b[40:48]) // what the client sent
			binary.BigEndian.PutUint64(a[32:], now)
			binary.BigEndian.PutUint64(a[40:], now)
			_, _ = conn.WriteTo(a, from)
		}
	})
	return fmt.Sprintf("10.0.2.2:%d", conn.LocalAddr().(*net.UDPAddr).Port)
}
