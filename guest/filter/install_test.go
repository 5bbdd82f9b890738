package filter

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// underEnv makes this test binary become the program that it names, under the filter.
const underEnv = "ZOS_TEST_UNDER_FILTER"

func TestMain(m *testing.M) {
	if program := os.Getenv(underEnv); program != "" {
		runtime.LockOSThread()
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = Install()
		}
		if err == nil {
			err = syscall.Exec(program, []string{program, "probe"}, nil)
		}
		println(err.Error())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// The kernel's own answers, to the program that has asked runc's filter in a namespace.
func TestKernelAnswersAsInNamespaces(t *testing.T) {
	probe := filepath.Join(t.TempDir(), "probe")
	build := exec.Command("go", "build", "-o", probe, "../../workload/escape/program")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	golden, err := os.ReadFile("../../workload/escape/testdata/namespace.golden")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{underEnv + "=" + probe}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	calls := func(text string) (all []string) {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "syscall ") || strings.HasPrefix(line, "status Seccomp ") {
				all = append(all, strings.TrimSpace(line))
			}
		}
		return all
	}
	want := calls(string(golden))
	if diff := cmp.Diff(want, calls(string(out))); diff != "" || len(want) < 380 {
		t.Errorf("%d calls, differences (-runc's +ours):\n%s", len(want), diff)
	}
}
