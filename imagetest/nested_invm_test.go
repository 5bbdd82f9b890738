//go:build invm

package imagetest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestContainersRunInAWorkload runs the image nested as a guest's agent runs a
// privileged workload: as root with every capability. It keeps the test's process ids,
// which the mounted /proc shows.
func TestContainersRunInAWorkload(t *testing.T) {
	const root = "/tmp/nested"
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/dev/vda", root, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	for _, m := range [][2]string{{"proc", "proc"}, {"sysfs", "sys"}, {"tmpfs", "run"}, {"tmpfs", "tmp"}} {
		if err := unix.Mount(m[0], root+"/"+m[1], m[0], 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("/dev", root+"/dev", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	image := nested()
	cmd := exec.Command(image.Config.Entrypoint[0], image.Config.Entrypoint[1:]...)
	cmd.Env, cmd.Dir = image.Config.Env, "/"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Cloneflags: unix.CLONE_NEWIPC | unix.CLONE_NEWUTS, Unshareflags: unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := image.Wait(ctx, &net.Dialer{}, "127.0.0.1:8080"); err != nil {
		t.Fatal(err)
	}
}
