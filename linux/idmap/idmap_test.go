package idmap

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUserNamespaceHasTheRangeAndNoProcess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test makes user namespaces: run it as root (sudo make test)")
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			base := uint32(100_000 * (i + 1))
			ns, err := UserNamespace(base)
			if err != nil {
				t.Error(err)
				return
			}
			defer ns.Close()
			// Enter it and read the map that the kernel shows there.
			cmd := exec.Command("nsenter", "--user=/proc/self/fd/3", "cat", "/proc/self/uid_map", "/proc/self/gid_map")
			cmd.ExtraFiles = []*os.File{ns}
			out, err := cmd.CombinedOutput()
			want := strings.Repeat("0 "+strconv.Itoa(int(base))+" 65536 ", 2)
			if got := strings.Join(strings.Fields(string(out)), " ") + " "; err != nil || got != want {
				t.Errorf("maps %q, want %q (%v)", got, want, err)
			}
		})
	}
	wg.Wait()
	// Every child was waited for.
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Fatalf("a child is left: %d, %v", pid, err)
	}
}

func TestMappingWhatCannotBeMappedIsAnError(t *testing.T) {
	ns, err := UserNamespace(100_000)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := Mount(t.TempDir(), ns); err == nil {
		t.Fatal("a plain directory was mapped")
	}
}
