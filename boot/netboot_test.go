package boot_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/vmtest"
)

// testSigner is the key number n: the same in every process, because fuzzing
// spreads its corpus over several.
func testSigner(n byte) sign.Signer { return sign.FromSeed([32]byte{31: n}) }

// testGenesis founds a grid, another one for each nonce, whose releases need
// threshold of the keys.
func testGenesis(t testing.TB, nonce byte, threshold uint64, keys ...sign.Signer) []byte {
	t.Helper()
	g := contract.Genesis{
		V: contract.Version, Kind: contract.KindGenesis, Name: "test", Created: 1700000000,
		Nonce:            bytes.Repeat([]byte{nonce}, contract.NonceSize),
		Validators:       []contract.Validator{{Name: "v1", Key: make([]byte, 32), Power: 1}},
		ReleaseThreshold: threshold,
	}
	for _, k := range keys {
		g.ReleaseKeys = append(g.ReleaseKeys, k.Public())
	}
	b, err := contract.EncodeGenesis(g)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testArchive is a valid archive of grid number nonce.
func testArchive(t testing.TB, nonce byte) boot.Archive {
	t.Helper()
	farmer := testSigner(100)
	genesis := testGenesis(t, nonce, 1, testSigner(101))
	grid := canon.Sum(genesis)
	ctx := context.Background()
	farm, err := contract.Sign(ctx, contract.Farm{
		Header: contract.Header{V: contract.Version, Kind: contract.KindFarm, Grid: grid},
		Name:   "farm", Key: farmer.Public(),
	}, contract.KindFarm, farmer)
	if err != nil {
		t.Fatal(err)
	}
	slot, err := contract.Sign(ctx, contract.Slot{
		Header: contract.Header{V: contract.Version, Kind: contract.KindSlot, Grid: grid},
		Farm:   farm.ID(), Name: "node1", Hint: "mac:52:54:00:00:00:01", Disks: []string{"d1"}, Identity: "disk",
	}, contract.KindSlot, farmer)
	if err != nil {
		t.Fatal(err)
	}
	return boot.Archive{
		V: contract.Version, Genesis: genesis, Farm: farm, Slots: []contract.Signed{slot}, ReleaseFloor: 1, Built: 1700000000,
		Hubs: []string{"http://10.0.2.2:8001"}, Ledgers: []string{"http://10.0.2.2:8002"}, Rendezvous: []string{"tls://10.0.2.2:4222#abababababababababababababababababababababababababababababababab"},
		NTP: []string{},
	}
}

// bootSource serves a boot image with the real first stage, and returns the
// script's URL as guests see it and the grid's id.
func bootSource(t *testing.T) (url string, grid canon.Hash) {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := boot.BuildImage(ctx, boot.ImageOptions{
		KernelDir: vmtest.Kernel(t), InitBinary: vmtest.BuildStatic(t, "github.com/zero-os/zos/cmd/zos-init"), OutDir: dir,
	}); err != nil {
		t.Fatal(err)
	}
	a := testArchive(t, 1)
	if err := boot.WriteGrid(dir, a, ""); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- boot.Serve(ctx, l, dir, slog.New(slog.NewTextHandler(os.Stderr, nil))) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf("http://10.0.2.2:%d/%s", l.Addr().(*net.TCPAddr).Port, boot.ScriptFile), canon.Sum(a.Genesis)
}

func TestNetworkBootReachesTheFirstStageWithTheGridsArchive(t *testing.T) {
	url, grid := bootSource(t)
	for _, firmware := range []qemu.Firmware{qemu.BIOS, qemu.UEFI} {
		t.Run(string(firmware), func(t *testing.T) {
			started := time.Now()
			m := vmtest.NewMachine(t, qemu.Config{
				Firmware: firmware, TPM: filepath.Join(t.TempDir(), "tpm"),
				Network: &qemu.Network{MAC: "52:54:00:00:00:01", BootFile: url, Segment: filepath.Join(t.TempDir(), "segment")},
			})
			ok := func(re string) string {
				t.Helper()
				return m.WaitConsole(t, re, 3*time.Minute)[0]
			}
			ok(fmt.Sprintf("^zos: drivers … ok .*%d modules", len(modules(t))))
			t.Logf("%s: first stage after %.1f s", firmware, time.Since(started).Seconds())
			// Every parameter that we set is one that the first stage expects.
			if line := ok("^zos: kernel … ok .*lockdown integrity"); strings.Contains(line, "ignored") {
				t.Error(line)
			}
			ok("^zos: archive … ok .*grid " + grid.Short() + ", farm farm, 1 slots")
			ok("^zos: slot … ok .*node1")
			ok("^zos: tpm … ok .*/dev/tpmrm0")
			ok("^zos: network … ok .*10.0.2.15")
			ok("^zos: release … failed .*hub-unreachable")
			if uefi := strings.Contains(m.ConsoleText(t), "EFI stub:"); uefi != (firmware == qemu.UEFI) {
				t.Errorf("UEFI on the console: %t", uefi)
			}
		})
	}
}

// modules is what the first stage must load.
func modules(t *testing.T) []boot.Module {
	t.Helper()
	m, err := boot.KernelModules(context.Background(), vmtest.Kernel(t), boot.FirstStageModules()...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
