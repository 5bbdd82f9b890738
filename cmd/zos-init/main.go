// Command zos-init is process 1 of a node, in two stages, and the small child
// that keeps the node's address.
//
// Started by the kernel from the initramfs it is the first stage: package
// firststage. The first stage moves into the verified OS and executes this same
// program again from there; the hand-over it left makes that the second stage,
// which stays: it starts zos-fault, zosd and the network child, reaps, records
// exits, and restarts what dies.
//
// As process 1 it takes no arguments and reads no environment: the kernel passes
// on what it finds on its command line, and the boot source writes that.
//
// Signals to process 1: SIGTERM and SIGINT (ctrl-alt-del) restart the machine in
// order, SIGUSR2 powers it off, SIGHUP executes /bin/zos-init anew without
// disturbing any child.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/boot/firststage"
)

// restartAfter is how long a person has to read why the machine restarts.
const restartAfter = 30 * time.Second

func main() {
	if os.Getpid() != 1 {
		os.Exit(child(os.Args[1:]))
	}
	console := firststage.NewConsole(os.Stderr)
	err := processOne(console)
	// Only a failure comes here, and process 1 must not end: the kernel would
	// panic, without the line below.
	console.Printf("process 1 can't go on: %v; restarting the machine in %s", err, restartAfter)
	time.Sleep(restartAfter)
	unix.Sync()
	err = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	console.Printf("restart: %v", err)
	select {}
}

// processOne is either stage; it returns only when it can't go on.
func processOne(console *firststage.Console) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error, please report it: %v", r)
		}
	}()
	handover, err := boot.ReadHandover(boot.HandoverPath)
	if errors.Is(err, os.ErrNotExist) {
		if err := firststage.Run(context.Background(), console); err != nil {
			return err
		}
		return become(firststage.SecondStage)
	}
	if err != nil {
		return err
	}
	return secondStage(console, handover)
}

// become executes the program at path in place of this one, with a clean
// environment.
func become(path string) error {
	if err := unix.Exec(path, []string{path}, []string{"PATH=/bin", "HOME=/"}); err != nil {
		return fmt.Errorf("execute %s: %w", path, err)
	}
	return nil
}

// child is everything that is not process 1.
func child(args []string) int {
	if len(args) != 1 || args[0] != networkArg {
		fmt.Fprintln(os.Stderr, "zos-init: this is process 1 of a Zero-OS node; it is started by the kernel")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	handover, err := boot.ReadHandover(boot.HandoverPath)
	if err != nil {
		fmt.Fprintln(os.Stderr, "zos-init:", err)
		return 1
	}
	if err := firststage.KeepNetwork(ctx, handover.Hint, firststage.NewOutput(os.Stderr)); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "zos-init:", err)
		return 1
	}
	return 0
}
