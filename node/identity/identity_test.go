package identity

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	grid = canon.Sum([]byte("grid"))
	slot = canon.Sum([]byte("slot"))
)

func disk(t *testing.T) Config {
	return Config{Mode: contract.IdentityDisk, Grid: grid, Slot: slot, Dir: filepath.Join(t.TempDir(), "keys"), RunDir: t.TempDir()}
}

func open(t *testing.T, cfg Config) *Identity {
	t.Helper()
	id, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func same(a, b *Identity) bool {
	return a.Signer.Public().Equal(b.Signer.Public()) && bytes.Equal(a.Sealing.Public(), b.Sealing.Public()) && a.Entry == b.Entry
}

// reboot is the same machine with another boot: what was in memory is gone.
func reboot(t *testing.T, cfg Config) Config {
	cfg.RunDir = t.TempDir()
	return cfg
}

var errEmpty = errors.New("empty")

// chip is a TPM as far as package identity sees one.
type chip struct {
	index map[uint32][]byte
	err   error
}

func (c *chip) Seal(index uint32, secret []byte) error {
	if c.err != nil {
		return c.err
	}
	if len(secret) > 128 {
		return errors.New("a TPM seals 128 bytes")
	}
	c.index[index] = bytes.Clone(secret)
	return nil
}

func (c *chip) Unseal(index uint32) ([]byte, error) {
	if c.err != nil {
		return nil, c.err
	}
	b, ok := c.index[index]
	if !ok {
		return nil, errEmpty
	}
	return bytes.Clone(b), nil
}

func withTPM(t *testing.T, c *chip) Config {
	return Config{Mode: contract.IdentityTPM, Grid: grid, Slot: slot, RunDir: t.TempDir(), TPM: c, TPMIndex: 7, TPMEmpty: errEmpty}
}

func TestKeysComeBackAfterAReboot(t *testing.T) {
	for name, cfg := range map[string]Config{"disk": disk(t), "tpm": withTPM(t, &chip{index: map[uint32][]byte{}})} {
		first := open(t, cfg)
		second := open(t, reboot(t, cfg))
		if !first.Fresh || second.Fresh || !same(first, second) {
			t.Errorf("%s: fresh %v, then %v; same keys %v", name, first.Fresh, second.Fresh, same(first, second))
		}
		if first.BootNonce == second.BootNonce || first.BootNonce == [NonceSize]byte{} {
			t.Errorf("%s: boot nonces %x, %x", name, first.BootNonce, second.BootNonce)
		}
	}
}

func TestKeysOfOneBootLastForOneBoot(t *testing.T) {
	cfg := Config{Mode: contract.IdentityNone, Grid: grid, Slot: slot, RunDir: t.TempDir()}
	first, again := open(t, cfg), open(t, cfg)
	if !same(first, again) || first.BootNonce != again.BootNonce || again.Fresh {
		t.Error("a restart of the daemon changed the keys or the boot's nonce")
	}
	if next := open(t, reboot(t, cfg)); same(first, next) || !next.Fresh {
		t.Error("another boot has the same keys")
	}
}

func TestKeysWork(t *testing.T) {
	id := open(t, disk(t))
	if _, err := id.Signer.Sign(t.Context(), contract.KindNode, []byte("x")); err != nil {
		t.Error(err)
	}
	n := contract.Node{SigningKey: id.Signer.Public(), SealingKey: id.Sealing.Public(), BootNonce: id.BootNonce[:]}
	if err := n.Validate(); err != nil {
		t.Error(err)
	}
}

func TestKeysOfAnotherSlotAreRefusedAndKept(t *testing.T) {
	c := &chip{index: map[uint32][]byte{}}
	for name, cfg := range map[string]Config{"disk": disk(t), "tpm": withTPM(t, c)} {
		first := open(t, cfg)
		for what, change := range map[string]func(*Config){
			"slot": func(c *Config) { c.Slot = canon.Sum([]byte("another")) },
			"grid": func(c *Config) { c.Grid = canon.Sum([]byte("another")) },
		} {
			other := cfg
			change(&other)
			if _, err := Open(other); problem.Code(err) != "key-foreign" {
				t.Errorf("%s of another %s: %v", name, what, err)
			}
		}
		if !same(first, open(t, cfg)) {
			t.Errorf("%s: the slot's own keys were lost", name)
		}
	}
}

func TestDamagedKeysAreReportedAndKept(t *testing.T) {
	cfg := disk(t)
	open(t, cfg)
	path := filepath.Join(cfg.Dir, keyFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty": {}, "short": good[:len(good)-1], "long": append(bytes.Clone(good), 0), "huge": make([]byte, 1<<20),
		"other format": append([]byte{0xa3}, good[1:]...),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(cfg)
		if problem.Code(err) != "key-damaged" {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), string(good[20:40])) {
			t.Errorf("%s: the error quotes the file", name)
		}
		if now, _ := os.ReadFile(path); !bytes.Equal(now, b) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// A crash at any point of the first save leaves no half keys.
func TestInterruptedSaveIsNoKey(t *testing.T) {
	cfg := disk(t)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, ".new-123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := open(t, cfg)
	names, err := os.ReadDir(cfg.Dir)
	if err != nil || len(names) != 1 || names[0].Name() != keyFile {
		t.Errorf("the directory holds %v, %v", names, err)
	}
	if !same(first, open(t, cfg)) {
		t.Error("the keys changed")
	}
}

func TestStoredKeysAreNeverReplaced(t *testing.T) {
	f := fileStore{t.TempDir(), keyFile}
	if err := f.save([]byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := f.save([]byte("second")); err == nil {
		t.Error("a second save succeeded")
	}
	if b, _ := f.load(); string(b) != "first" {
		t.Errorf("stored: %q", b)
	}
}

func TestSecretsAreNotReadableByOthers(t *testing.T) {
	cfg := disk(t)
	open(t, cfg)
	for path, want := range map[string]os.FileMode{cfg.Dir: 0o700, filepath.Join(cfg.Dir, keyFile): 0o600} {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, st.Mode().Perm(), want)
		}
	}
}

// A TPM that fails is not taken for an empty one: its keys would be overwritten.
func TestFailingTPMIsAnError(t *testing.T) {
	c := &chip{index: map[uint32][]byte{}}
	cfg := withTPM(t, c)
	first := open(t, cfg)
	c.err = problem.New("tpm-failed", "no answer")
	if _, err := Open(cfg); problem.Code(err) != "tpm-failed" {
		t.Errorf("error %v", err)
	}
	c.err = nil
	if !same(first, open(t, cfg)) {
		t.Error("the keys changed")
	}
}

// deaf accepts a secret and does not keep it.
type deaf struct{ chip }

func (d *deaf) Seal(uint32, []byte) error { return nil }

func TestKeysThatCannotBeReadBackAreAnError(t *testing.T) {
	cfg := withTPM(t, nil)
	cfg.TPM = &deaf{chip{index: map[uint32][]byte{}}}
	if _, err := Open(cfg); err == nil {
		t.Error("keys that were not stored are used")
	}
}

func TestMissingStoreIsNamed(t *testing.T) {
	for _, cfg := range []Config{
		{Mode: contract.IdentityDisk, Grid: grid, Slot: slot, RunDir: t.TempDir()},
		{Mode: contract.IdentityTPM, Grid: grid, Slot: slot, RunDir: t.TempDir()},
	} {
		if _, err := Open(cfg); problem.Code(err) != "key-store-missing" {
			t.Errorf("%s: %v", cfg.Mode, err)
		}
	}
	for name, cfg := range map[string]Config{
		"no mode":                         {Grid: grid, Slot: slot, RunDir: t.TempDir()},
		"no grid":                         {Mode: contract.IdentityNone, Slot: slot, RunDir: t.TempDir()},
		"no slot":                         {Mode: contract.IdentityNone, Grid: grid, RunDir: t.TempDir()},
		"no run":                          {Mode: contract.IdentityNone, Grid: grid, Slot: slot},
		"a file instead of the directory": {Mode: contract.IdentityNone, Grid: grid, Slot: slot, RunDir: "/proc/version"},
	} {
		if _, err := Open(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestForgottenKeysAreGone(t *testing.T) {
	cfg := disk(t)
	first := open(t, cfg)
	for range 2 {
		if err := Forget(cfg.Dir); err != nil {
			t.Fatal(err)
		}
	}
	if second := open(t, cfg); same(first, second) || !second.Fresh {
		t.Error("the keys are still there")
	}
}

func TestStoredFormFitsATPM(t *testing.T) {
	s := &seeds{}
	b, err := s.encode(binding(grid, slot))
	if err != nil || len(b) > maxStored {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestHintsAreWhatTheHardwareSays(t *testing.T) {
	sys := t.TempDir()
	write := func(path, text string) {
		path = filepath.Join(sys, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := Hints(sys); len(got) != 0 {
		t.Errorf("nothing there: %v", got)
	}
	write("class/dmi/id/product_uuid", "4C4C4544-0042-3510-8052-B4C04F305931\n")
	write("class/net/eth0/device/vendor", "")
	write("class/net/eth0/address", "52:54:00:AA:00:01\n")
	write("class/net/lo/address", "00:00:00:00:00:00\n")    // no device: not hardware
	write("class/net/veth0/address", "02:00:00:00:00:01\n") // likewise
	write("class/net/eth1/device/vendor", "")               // no address
	want := []string{"smbios:4c4c4544-0042-3510-8052-b4c04f305931", "mac:52:54:00:aa:00:01"}
	if got := Hints(sys); !slices.Equal(got, want) {
		t.Errorf("hints %v, want %v", got, want)
	}
	for _, h := range want {
		s := contract.Slot{Name: "n", Hint: h, Identity: contract.IdentityNone, Capacity: contract.Capacity{CPU: 1, Memory: 1}}
		if err := s.Validate(); err != nil {
			t.Errorf("a farm can't declare what we say: %v", err)
		}
	}
}

func FuzzDecodeSeeds(f *testing.F) {
	to := binding(grid, slot)
	b, err := (&seeds{signing: [32]byte{1}, sealing: [32]byte{2}}).encode(to)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:60])
	f.Add(append(bytes.Clone(b), 0))
	f.Add([]byte{0xbf, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s seeds
		if s.decode(b, to) != nil {
			return
		}
		if again, err := s.encode(to); err != nil || !bytes.Equal(again, b) {
			t.Errorf("it encodes to other bytes: %v", err)
		}
	})
}
