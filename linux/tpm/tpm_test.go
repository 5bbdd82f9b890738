package tpm

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// emulated is a TPM whose state is in a directory, as a chip's is in the machine.
type emulated struct {
	t     *testing.T
	state string
}

// power starts the emulator, which is what a machine's reset is to a TPM, and
// returns the TPM and what switches it off.
func (e emulated) power() (*TPM, func()) {
	e.t.Helper()
	swtpm, err := exec.LookPath("swtpm")
	if err != nil {
		e.t.Fatalf("%v; run: sudo make deps", err)
	}
	sock := filepath.Join(e.t.TempDir(), "tpm")
	cmd := exec.Command(swtpm, "socket", "--tpm2", "--tpmstate", "dir="+e.state,
		"--server", "type=unixio,path="+sock, "--flags", "not-need-init,startup-clear")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var conn net.Conn
	for conn == nil {
		if conn, err = net.Dial("unix", sock); err != nil {
			if ctx.Err() != nil {
				e.t.Fatalf("swtpm does not answer: %v\n%s", err, out.Bytes())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	tpm := New(transport.FromReadWriteCloser(conn))
	off := false
	stop := func() {
		if off {
			return
		}
		off = true
		_ = tpm.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	e.t.Cleanup(stop)
	return tpm, stop
}

func TestSecretSurvivesPowerAndStaysOnThisMachine(t *testing.T) {
	e := emulated{t, t.TempDir()}
	chip, off := e.power()
	if _, err := chip.Unseal(IndexIdentity); !errors.Is(err, ErrEmpty) {
		t.Fatalf("a new TPM: %v, want ErrEmpty", err)
	}
	long := bytes.Repeat([]byte{0xA5}, MaxSecret)
	for _, secret := range [][]byte{{1}, bytes.Repeat([]byte{2}, 64), long} {
		if err := chip.Seal(IndexIdentity, secret); err != nil {
			t.Fatalf("seal %d bytes: %v", len(secret), err)
		}
		got, err := chip.Unseal(IndexIdentity)
		if err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("unseal %d bytes: %x, %v", len(secret), got, err)
		}
	}
	raw, err := chip.readNV(IndexIdentity)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, long[:16]) {
		t.Error("the NV index holds the secret in the clear")
	}
	off()

	chip, off = e.power()
	got, err := chip.Unseal(IndexIdentity)
	if err != nil || !bytes.Equal(got, long) {
		t.Fatalf("after power-on: %x, %v", got, err)
	}
	off()

	// The blob in another chip is of no use.
	thief, _ := emulated{t, t.TempDir()}.power()
	if err := thief.writeNV(IndexIdentity, raw); err != nil {
		t.Fatal(err)
	}
	if got, err := thief.Unseal(IndexIdentity); err == nil {
		t.Errorf("another TPM unsealed %x", got)
	}
}

func TestSecretsOfImpossibleSizeAreRefused(t *testing.T) {
	chip, _ := emulated{t, t.TempDir()}.power()
	for _, n := range []int{0, MaxSecret + 1} {
		if err := chip.Seal(IndexIdentity, make([]byte, n)); err == nil {
			t.Errorf("%d bytes were sealed", n)
		}
	}
}

func TestForgottenSecretIsGone(t *testing.T) {
	chip, _ := emulated{t, t.TempDir()}.power()
	if err := chip.Forget(IndexIdentity); err != nil {
		t.Fatalf("forget nothing: %v", err)
	}
	if err := chip.Seal(IndexIdentity, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := chip.Forget(IndexIdentity); err != nil {
		t.Fatal(err)
	}
	if _, err := chip.Unseal(IndexIdentity); !errors.Is(err, ErrEmpty) {
		t.Errorf("unseal: %v, want ErrEmpty", err)
	}
}

func TestFloorOnlyRisesAndStaysLockedUntilReset(t *testing.T) {
	e := emulated{t, t.TempDir()}
	chip, off := e.power()
	if err := chip.LockFloor(); err != nil {
		t.Fatalf("lock a floor that is not there: %v", err)
	}
	floor := func(want uint64) {
		t.Helper()
		if got, err := chip.ReadFloor(); err != nil || got != want {
			t.Fatalf("floor %d, %v; want %d", got, err, want)
		}
	}
	floor(0)
	for _, c := range []struct{ raise, want uint64 }{{7, 7}, {3, 7}, {0, 7}, {1 << 60, 1 << 60}} {
		if err := chip.RaiseFloor(c.raise); err != nil {
			t.Fatal(err)
		}
		floor(c.want)
	}
	if err := chip.LockFloor(); err != nil {
		t.Fatal(err)
	}
	if err := chip.LockFloor(); err != nil {
		t.Errorf("lock twice: %v", err)
	}
	// Whatever runs later can neither lower nor raise it …
	if err := chip.writeNV(IndexFloor, make([]byte, 8)); !errors.Is(err, tpm2.TPMRCNVLocked) {
		t.Errorf("write to a locked floor: %v", err)
	}
	floor(1 << 60)
	off()
	// … until the machine is reset.
	chip, _ = e.power()
	floor(1 << 60)
	if err := chip.RaiseFloor(1<<60 + 1); err != nil {
		t.Fatal(err)
	}
	floor(1<<60 + 1)
}

func TestMachineWithoutTPMIsToldApart(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		if _, err := Open(path); !errors.Is(err, ErrNoTPM) {
			t.Errorf("%v, want ErrNoTPM", err)
		}
	}
}

func TestIndexOfSomebodyElseIsNotTakenForASecret(t *testing.T) {
	chip, _ := emulated{t, t.TempDir()}.power()
	for _, b := range [][]byte{{0}, {0, 5, 1}, bytes.Repeat([]byte{0xff}, 64), {0, 1, 9, 0, 1, 9}} {
		if err := chip.writeNV(IndexIdentity, b); err != nil {
			t.Fatal(err)
		}
		if got, err := chip.Unseal(IndexIdentity); err == nil {
			t.Errorf("%x was unsealed as %x", b, got)
		}
	}
}

func FuzzDecodeObject(f *testing.F) {
	f.Add(encodeBlob(blob{public: []byte{1}, private: []byte{2}}))
	f.Add([]byte{0, 0})
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeBlob(b)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, encodeBlob(got)) {
			t.Errorf("%x decoded as %+v", b, got)
		}
		_, _, _ = decodeObject(b)
	})
}
