// Command zosd is the node daemon: a child of process 1, which starts it again
// whenever it ends. Everything it needs to know lies in /run/zos.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/zero-os/zos/node"
)

func main() {
	// The users of containers pass through directories that the daemon makes.
	syscall.Umask(0o022)
	// A node of 512 MB runs workloads, too: collect early.
	debug.SetMemoryLimit(96 << 20)
	debug.SetGCPercent(50)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := node.Run(ctx, log); err != nil && ctx.Err() == nil {
		log.Error("the node daemon ends, process 1 will start it again", "error", err)
		os.Exit(1)
	}
}

// withoutTime leaves the time to the console, which has its own.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
