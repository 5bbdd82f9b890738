// Command zos-gateway serves what a node publishes to the world. It is started by
// the node daemon, once on a gateway node, in the namespace of the public card,
// and outlives the daemon. It reads what strangers send, and has no right at all:
// see package workload/gateway/sandbox.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/zero-os/zos/workload/gateway/sandbox"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "zos-gateway:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "confine":
		var j sandbox.Jail
		if err := json.Unmarshal([]byte(args[1]), &j); err != nil {
			return fmt.Errorf("read what to be confined to: %w", err)
		}
		return sandbox.Confine(j, []string{"serve"}, nil)
	case len(args) == 1 && args[0] == "serve":
		// Before anything is read. The daemon looks whether it took, by the kernel's word.
		if err := sandbox.Filter(); err != nil {
			return err
		}
		// What peers do wrong is not this machine's trouble, and they could fill its log:
		// net/http tells some of it ("Unsolicited response …") to this logger alone.
		log.SetOutput(io.Discard)
		debug.SetGCPercent(50)
		debug.SetMemoryLimit(memoryLimit)
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return serve(ctx)
	}
	return fmt.Errorf("it is started by the node daemon: want confine JAIL or serve")
}

// memoryLimit is where the garbage collector begins to work harder, in bytes; its
// cgroup allows more.
const memoryLimit = 192 << 20
