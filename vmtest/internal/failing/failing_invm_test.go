//go:build invm

package failing

import (
	"os"
	"syscall"
	"testing"
)

func TestFails(t *testing.T) { t.Error("this test fails") }

func TestHangs(t *testing.T) { select {} }

func TestPanics(t *testing.T) {
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
		t.Fatal(err)
	}
}

func TestIsKilled(t *testing.T) {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
