package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

func (a *app) psCommand() *cobra.Command {
	var wait string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List what approved contracts run, by the nodes' signed receipts",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				rows, err := a.waitFor(ctx, c, wait, timeout)
				if rows != nil {
					err = errors.Join(a.showWorkloads(rows), err)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&wait, "wait", "", "wait until every workload is in this state: ready, running, exited or failed")
	f.DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{"ready", "running", "exited", "failed"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// waitFor lists workloads once, or until all of them (at least one) are in a
// state. It returns what it saw last, also when time runs out.
func (a *app) waitFor(ctx context.Context, c *client.Client, state string, timeout time.Duration) ([]client.Workload, error) {
	if state == "" {
		return c.Workloads(ctx)
	}
	if state == readyState {
		return a.waitUntil(ctx, c, state, timeout, func(w client.Workload) bool { return w.Ready || !plan.Runs(w.Kind) && w.State == contract.StateRunning })
	}
	states := map[string]bool{contract.StateRunning: true, contract.StateExited: true, contract.StateFailed: true, contract.StatePending: true}
	if !states[state] {
		return nil, usageError{fmt.Errorf("--wait %s: the states are ready, pending, running, exited and failed", state)}
	}
	return a.waitUntil(ctx, c, state, timeout, func(w client.Workload) bool { return w.State == state })
}

// readyState is running and healthy, or exited with 0.
const readyState = "ready"

// waitUntil is waitFor with a condition, which name says in an error.
func (a *app) waitUntil(ctx context.Context, c *client.Client, name string, timeout time.Duration, is func(client.Workload) bool) ([]client.Workload, error) {
	wait, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var rows []client.Workload
	err := client.Poll(wait, func(ctx context.Context) (bool, error) {
		now, err := c.Workloads(ctx)
		if err != nil {
			return false, err
		}
		rows = now
		for _, w := range rows {
			if !is(w) {
				return false, nil
			}
		}
		return len(rows) > 0, nil
	})
	if err != nil && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = problem.New("timeout", "not every workload is %s after %s", name, timeout)
	}
	return rows, err
}

func (a *app) showWorkloads(rows []client.Workload) error {
	if rows == nil {
		rows = []client.Workload{}
	}
	var lines [][]string
	for _, w := range rows {
		state := w.State
		if w.State == contract.StateExited {
			state = fmt.Sprintf("exited %d", w.ExitCode)
		}
		since := ""
		if w.Time > 0 {
			since = time.Since(time.Unix(int64(w.Time), 0)).Round(time.Second).String()
		}
		version := fmt.Sprint(w.Version)
		if w.Runs > 0 && w.Runs != w.Version {
			version += fmt.Sprintf(" (%d runs)", w.Runs)
		}
		ready, restarts := "-", "-"
		if plan.Runs(w.Kind) {
			ready, restarts = yesNo(w.Ready), fmt.Sprint(w.Restarts)
		}
		lines = append(lines, []string{w.Contract, w.Name, w.Node, version, state, ready, orDash(w.Isolation), restarts, w.Reason, since, verity(w.Verity)})
	}
	err := a.table(rows, []string{"CONTRACT", "WORKLOAD", "NODE", "VERSION", "STATE", "READY", "ISOLATION", "RESTARTS", "REASON", "SINCE", "FILES"}, lines)
	if a.format != "json" {
		for _, w := range rows {
			if w.Detail != "" && w.Reason != "" && w.State != contract.StateExited {
				a.progress("%s/%s: %s", w.Contract, w.Name, printable(w.Detail))
			}
		}
	}
	return err
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// verity says how a workload's files are checked.
func verity(on bool) string {
	if on {
		return "verified"
	}
	return "-"
}

// memberOf finds a key at hand that is a member of the contract's group.
func (a *app) memberOf(ctx context.Context, c *client.Client, k client.Contract) (sign.Signer, error) {
	keys, err := c.MemberKeys(ctx, k.Group)
	if err != nil {
		return nil, err
	}
	return c.SignerAmong(ctx, a.as, func(key sign.PublicKey) bool {
		for _, m := range keys {
			if m.Equal(key) {
				return true
			}
		}
		return false
	})
}
