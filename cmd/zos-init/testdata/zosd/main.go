// Command zosd stands in for the node daemon where process 1 is tested: it says
// what it was handed, dies, comes back, and asks process 1 to execute itself anew.
// The console is the test's only view into the machine.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/linux/reap"
)

const memory = "/run/zos/test-" // what one run leaves to the next

func main() {
	switch filepath.Base(os.Args[0]) {
	case "zos-fault":
		fmt.Println("args", strings.Join(os.Args[1:], " "))
		time.Sleep(time.Hour)
	case "orphan":
		<-time.After(300 * time.Millisecond) // until its parent has ended
		os.Exit(7)
	}
	b, err := os.ReadFile(memory + "run")
	if errors.Is(err, fs.ErrNotExist) {
		first()
	}
	second(strings.Fields(string(b)))
}

func first() {
	h, err := boot.ReadHandover(boot.HandoverPath)
	check(err)
	fmt.Printf("handover slot=%s sequence=%d floor=%d disk=%s serial=%s fresh=%t clock=%s tpm=%s\n",
		h.SlotName, h.Sequence, h.Floor, h.Disk.Kind, h.Disk.Serial, h.Disk.Fresh, h.Clock.Source, h.TPM)
	fmt.Printf("network %s %v dns %v\n", h.Network.Interface, h.Network.Addresses, h.Network.DNS)
	fmt.Printf("degraded %q\n", h.Degraded)
	mounts, err := mount.Under("/")
	check(err)
	for _, m := range mounts {
		if m.Target == "/" || m.Target == "/data" {
			fmt.Printf("mount %s %s %s %s\n", m.Target, m.Type, strings.Join(m.Options, ","), strings.Join(m.Super, ","))
		}
	}
	cgroup, err := os.ReadFile("/proc/self/cgroup")
	check(err)
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	check(err)
	weight, err := os.ReadFile("/sys/fs/cgroup/zos/zosd/cpu.weight")
	check(err)
	fmt.Printf("cgroup %s oom %s weight %s\n", strings.TrimSpace(string(cgroup)), strings.TrimSpace(string(score)), strings.TrimSpace(string(weight)))
	_, err = os.Stat("/init")
	fmt.Printf("initramfs gone %t\n", errors.Is(err, fs.ErrNotExist))
	err = os.WriteFile("/bin/zosd", nil, 0o755)
	fmt.Printf("root read-only %t\n", errors.Is(err, unix.EROFS))

	self, err := os.Executable()
	check(err)
	orphan := &exec.Cmd{Path: self, Args: []string{"orphan"}, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	check(orphan.Start())
	lost, err := reap.ReadStat(orphan.Process.Pid)
	check(err)
	me, err := reap.ReadStat(os.Getpid())
	check(err)
	check(os.WriteFile(memory+"run", fmt.Appendf(nil, "%d %d %d %d", lost.PID, lost.Start, me.PID, me.Start), 0o600))
	for i := range 1000 {
		fmt.Println("flood", i)
	}
	os.Exit(3)
}

func second(fields []string) {
	n := make([]int, 4)
	for i := range n {
		var err error
		n[i], err = strconv.Atoi(fields[i])
		check(err)
	}
	for i, who := range []string{"orphan", "predecessor"} {
		fmt.Println(who, waitExit(n[2*i], uint64(n[2*i+1])))
	}
	me, err := reap.ReadStat(os.Getpid())
	check(err)
	before, err := os.Readlink("/proc/1/exe")
	check(err)
	check(unix.Kill(1, unix.SIGHUP))
	time.Sleep(2 * time.Second) // process 1 says on the console when it is back
	after, err := reap.ReadStat(os.Getpid())
	check(err)
	fmt.Printf("after execution anew: same process %t, child of 1 %t, program %s\n", after.Start == me.Start, os.Getppid() == 1, before)
	fmt.Println("all done")
	cmdline, err := os.ReadFile("/proc/cmdline")
	check(err)
	switch {
	case strings.Contains(string(cmdline), "test.stay"):
	case strings.Contains(string(cmdline), "test.restart"):
		check(unix.Kill(1, unix.SIGTERM))
	default:
		check(unix.Kill(1, unix.SIGUSR2))
	}
	time.Sleep(time.Hour)
}

func waitExit(pid int, start uint64) string {
	for range 100 {
		if e, err := reap.Read(boot.ExitsDir, pid, start); err == nil {
			return e.String()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "was not recorded"
}

func check(err error) {
	if err != nil {
		fmt.Println("test daemon:", err)
		os.Exit(99)
	}
}
