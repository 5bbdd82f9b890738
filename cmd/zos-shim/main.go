// Command zos-shim keeps one container running: see package shim. It is started
// by the node daemon, once per workload, and outlives it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/zero-os/zos/workload/machine"
	"github.com/zero-os/zos/workload/shim"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "zos-shim:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: zos-shim DIR")
	}
	// SIGTERM ends the container and then the shim. The others are caught rather
	// than ignored: the container would inherit that they are ignored.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT)
	return shim.Run(ctx, args[0], shim.LockFD, shim.Engines{shim.EngineRunc: shim.OpenRunc, shim.EngineMachine: machine.Open})
}
