package namespace

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func TestNewNamespaceIsSeenWhileItLives(t *testing.T) {
	own, err := Of(os.Getpid(), "net")
	if err != nil {
		t.Fatal(err)
	}
	before, err := All()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := before[own]; !ok {
		t.Errorf("%s of this process is not among %v", own, before)
	}
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (run as root)", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	theirs, err := Of(cmd.Process.Pid, "net")
	if err != nil {
		t.Fatal(err)
	}
	now, err := All()
	if err != nil {
		t.Fatal(err)
	}
	if now[theirs] != cmd.Process.Pid || theirs == own {
		t.Errorf("%s of process %d is not seen", theirs, cmd.Process.Pid)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	after, err := All()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := after[theirs]; ok {
		t.Error("a namespace without a process is counted")
	}
}
