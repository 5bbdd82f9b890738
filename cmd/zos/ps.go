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
	f.StringVar(&wait, "wait", "", "wait until every workload is in this state: running, exited or failed")
	f.DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{"running", "exited", "failed"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// waitFor lists workloads once, or until all of them (at least one) are in a
// state. It returns what it saw last, also when time runs out.
func (a *app) waitFor(ctx context.Context, c *client.Client, state string, timeout time.Duration) ([]client.Workload, error) {
	if state == "" {
		return c.Workloads(ctx)
	}
	states := map[string]bool{contract.StateRunning: true, contract.StateExited: true, contract.StateFailed: true, contract.StatePending: true}
	if !states[state] {
		return nil, usageError{fmt.Errorf("--wait %s: the states are pending, running, exited and failed", state)}
	}
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
			if w.State != state {
				return false, nil
			}
		}
		return len(rows) > 0, nil
	})
	if err != nil && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = problem.New("timeout", "not every workload is %s after %s", state, timeout)
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
		lines = append(lines, []string{w.Contract, w.Name, w.Node, fmt.Sprint(w.Version), state, w.Reason, since, verity(w.Verity)})
	}
	return a.table(rows, []string{"CONTRACT", "WORKLOAD", "NODE", "VERSION", "STATE", "REASON", "SINCE", "FILES"}, lines)
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
