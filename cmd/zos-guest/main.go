// Command zos-guest is process 1 of a micro-VM: it answers its node (package guest),
// starts one workload, and powers the machine off when that has ended. There is no shell
// beside it, no configuration and no disk of its own. What it is trusted with stands
// in package guest.
//
// The same program is the stage that a process of the workload passes through
// ("zos-guest enter"): it makes the root, gives up every right, and becomes the
// program.
package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

func main() {
	// The first thread stays with this goroutine. Threads that enter a workload's
	// namespaces end with their goroutine, and the first one couldn't.
	runtime.LockOSThread()
	switch {
	case len(os.Args) == 2 && os.Args[1] == stageArg:
		enter()
	case os.Getpid() == 1:
		if err := run(); err != nil {
			fmt.Printf("zos-guest: %v\n", err)
		}
		powerOff()
	default:
		fmt.Fprintln(os.Stderr, "zos-guest is process 1 of a micro-VM")
		os.Exit(2)
	}
}

// powerOff ends the machine with all its data written.
func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	// Without ACPI there is no off: end as a kernel panic does.
	os.Exit(1)
}
