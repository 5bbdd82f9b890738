package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/ledger/ledgertest"
)

// Idle ledger: how long it settles, and how long it is watched.
const (
	settle = 10 * time.Second
	watch  = time.Minute
)

// ledger measures the processor time of a ledger with nothing to do, as a
// process of its own.
func (b *bench) ledger(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, exe, "-ledger", filepath.Join(b.tmp, "ledger"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	var used [2]time.Duration
	for i, pause := range []time.Duration{settle, watch} {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		if used[i], err = processorTime(cmd.Process.Pid); err != nil {
			return err
		}
	}
	share := 100 * float64(used[1]-used[0]) / float64(watch)
	b.Add("idle ledger", fmt.Sprintf("%.2f %% of a core", share), "≤ 0.5 %", share <= 0.5)
	return nil
}

// idleLedger runs one validator until it is told to end.
func idleLedger(ctx context.Context, dir string) error {
	g, err := ledgertest.NewGrid("idle")
	if err != nil {
		return err
	}
	n, err := ledger.Start(ctx, ledger.Config{Dir: dir, Genesis: g.Genesis, ValidatorKey: g.ValidatorKey,
		RPC: "127.0.0.1:0", P2P: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return n.Stop()
}

// processorTime is the user and system time of a process so far.
func processorTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(after)
	if len(f) < 13 {
		return 0, fmt.Errorf("read the times of process %d: %q", pid, b)
	}
	user, err1 := strconv.ParseUint(f[11], 10, 64)
	system, err2 := strconv.ParseUint(f[12], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("read the times of process %d: %q", pid, b)
	}
	// The kernel counts in hundredths of a second (USER_HZ).
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}
