package netns

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func pin(t *testing.T) (*os.File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ns")
	ns, made, err := Pin(path)
	if err != nil || !made {
		t.Fatalf("made %t, %v (run as root)", made, err)
	}
	t.Cleanup(func() {
		ns.Close()
		if err := Unpin(path); err != nil {
			t.Error(err)
		}
	})
	return ns, path
}

func TestPinnedNamespaceStaysUntilUnpinned(t *testing.T) {
	before := inode(t, own)
	ns, path := pin(t)
	if inode(t, path) == before || inode(t, own) != before {
		t.Fatal("the pin is of this thread's own namespace, or the thread stayed in the new one")
	}
	if err := Do(int(ns.Fd()), func() error {
		if inode(t, own) != inode(t, path) {
			t.Error("not in the namespace")
		}
		ifs, err := net.Interfaces()
		if err == nil && (len(ifs) != 1 || ifs[0].Name != "lo") {
			t.Errorf("interfaces %v, want lo alone", ifs)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	again, made, err := Pin(path)
	if err != nil || made {
		t.Fatalf("pinned twice: made %t, %v", made, err)
	}
	again.Close()
	if err := Unpin(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unpinned: %v", err)
	}
	if err := Unpin(path); err != nil {
		t.Errorf("unpinned twice: %v", err)
	}
}

func TestFileWithoutNamespaceIsNone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "uts")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/proc/self/ns/uts", other, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(other, 0)
	for _, p := range []string{path, other, filepath.Join(dir, "absent")} {
		if _, err := Open(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", filepath.Base(p), err)
		}
	}
	// After a crash between making the file and mounting on it.
	ns, made, err := Pin(path)
	if err != nil || !made {
		t.Fatalf("a left file stops a pin: %v", err)
	}
	ns.Close()
	if err := Unpin(path); err != nil {
		t.Error(err)
	}
}

func TestWhatHappensInsideIsTheCallers(t *testing.T) {
	ns, _ := pin(t)
	before := inode(t, own)
	if err := Do(int(ns.Fd()), func() error { return fs.ErrInvalid }); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("error: %v", err)
	}
	func() {
		defer func() {
			if p := recover(); p != "inside" {
				t.Errorf("panic: %v", p)
			}
		}()
		_ = Do(int(ns.Fd()), func() error { panic("inside") })
	}()
	ended := make(chan bool)
	go func() {
		defer close(ended)
		_ = Do(int(ns.Fd()), func() error { runtime.Goexit(); return nil })
		t.Error("went on after the goroutine was ended")
	}()
	<-ended
	if err := Do(-1, func() error { t.Error("ran nowhere"); return nil }); err == nil {
		t.Error("no error for a descriptor that is none")
	}
	if inode(t, own) != before {
		t.Error("a thread stayed behind")
	}
}

func TestSettingsAreOfTheNamespace(t *testing.T) {
	const path = "ipv4/ip_unprivileged_port_start"
	read := func() string {
		b, err := os.ReadFile("/proc/sys/net/" + path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	before := read()
	ns, _ := pin(t)
	err := Do(int(ns.Fd()), func() error {
		if err := Set(Setting{Path: path, Value: "7"}, Setting{Path: "no/such", Value: "1", Optional: true}); err != nil {
			return err
		}
		if read() != "7" {
			t.Errorf("it is %s inside", read())
		}
		if err := Set(Setting{Path: "no/such", Value: "1"}); err == nil {
			t.Error("a setting that does not exist was set")
		}
		return nil
	})
	if err != nil || read() != before {
		t.Errorf("%v; outside it is %s, was %s", err, read(), before)
	}
}

func TestSysfsShowsTheNamespace(t *testing.T) {
	ns, _ := pin(t)
	dir := t.TempDir()
	if err := MountSysfs(int(ns.Fd()), dir); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	entries, err := os.ReadDir(filepath.Join(dir, "class/net"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if n := e.Name(); n != "lo" && n != "bonding_masters" {
			t.Errorf("shows %s", n)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "class/net/lo/mtu"), []byte("1000"), 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("is written to: %v", err)
	}
}

func TestNewNamespaceIsHeldByItsDescriptor(t *testing.T) {
	before := inode(t, own)
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := Do(int(ns.Fd()), func() error {
		if inode(t, own) == before {
			t.Error("it is the one that this thread was in")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if inode(t, own) != before {
		t.Error("a thread stayed in it")
	}
}
