package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/spec/plan"
)

func (a *app) logsCommand() *cobra.Command {
	var follow, times bool
	var tail uint64
	var since string
	cmd := &cobra.Command{
		Use:   "logs CONTRACT[/WORKLOAD]",
		Short: "Show what a workload wrote, asked of its node over the sealed bus",
		Long: `Show what a workload wrote, asked of its node over the sealed bus. The name of a replica
set stands for all of the set, and that of a contract for all its workloads: each line
then begins with the workload's name.`,
		Example:           "  zos logs demo/hello\n  zos logs demo/shop/web-1 -f\n  zos logs demo/shop/web -f --since 10m --tail 20",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(workloadNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := parseSince(since, time.Now())
			if err != nil {
				return err
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				k, found, err := c.FindWorkloads(ctx, args[0])
				if err != nil {
					return err
				}
				by, err := a.memberOf(ctx, c, k)
				if err != nil {
					return err
				}
				w := &logWriter{a: a, times: times, names: len(found) > 1}
				for _, one := range found {
					w.width = max(w.width, len(one.Name))
				}
				err = eachLog(ctx, found, follow, func(ctx context.Context, r client.Running) error {
					r.Contract, r.By = k, by
					return w.show(ctx, c, r, protocol.LogsParams{Workload: r.Workload.Name, Follow: follow, Tail: tail, Since: from})
				})
				if errors.Is(err, context.Canceled) && follow {
					return nil // Ctrl-C is how following ends
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	f.BoolVarP(&times, "timestamps", "t", false, "show the time of each line")
	f.Uint64VarP(&tail, "tail", "n", 0, "only the last lines (default: all that is kept)")
	f.StringVar(&since, "since", "", "only what is newer: 10m, 2h30m, or 2006-01-02T15:04:05Z")
	return cmd
}

// eachLog calls fn for each workload: one after the other, or, to follow them, all
// at once until the first fails.
func eachLog(ctx context.Context, found []plan.Workload, together bool, fn func(context.Context, client.Running) error) error {
	if !together {
		for _, w := range found {
			if err := fn(ctx, client.Running{Workload: w}); err != nil {
				return err
			}
		}
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, w := range found {
		wg.Go(func() {
			if err := fn(ctx, client.Running{Workload: w}); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// logWriter writes the lines of several workloads so that none is torn.
type logWriter struct {
	a     *app
	times bool
	names bool // each line begins with the workload's name
	width int

	mu sync.Mutex
}

func (w *logWriter) show(ctx context.Context, c *client.Client, r client.Running, p protocol.LogsParams) error {
	said := false
	return firstWord(ctx, p.Follow || p.Since > 0, func(ctx context.Context) (bool, error) {
		err := c.Logs(ctx, r.Workload.Slot, r.Contract.ID, p, r.By, func(rec protocol.LogRecord) error {
			said = true
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.record(r.Workload.Name, rec)
		})
		return said, err
	})
}

// record prints a line of a log; the node's own remarks go to standard error.
func (w *logWriter) record(name string, r protocol.LogRecord) error {
	a := w.a
	line := string(r.Data)
	if a.format == "json" {
		return a.jsonLine(map[string]any{"workload": name, "seq": r.Sequence, "time": time.Unix(0, r.Time).UTC(), "stream": r.Stream, "line": line, "partial": r.Partial})
	}
	if w.times {
		line = time.Unix(0, r.Time).Format("2006-01-02 15:04:05.000 ") + line
	}
	out := a.out
	if r.Stream != "stdout" && r.Stream != "stderr" {
		out, line = a.err, a.paint(a.err, quiet, printable(line))
	}
	end := "\n"
	if w.names {
		// A part of a long line gets a line of its own: another's may come next.
		line = name + strings.Repeat(" ", w.width-len(name)) + " | " + line
	} else if r.Partial {
		end = ""
	}
	_, err := fmt.Fprint(out, line, end)
	return err
}

// firstWordTime is how long an empty log is looked at again: a program that has
// just started may not have written its first line yet.
const firstWordTime = 3 * time.Second

// firstWord shows a log; an empty one is looked at again for a moment.
func firstWord(ctx context.Context, follow bool, show func(context.Context) (said bool, err error)) error {
	end := time.Now().Add(firstWordTime)
	for {
		said, err := show(ctx)
		if said || err != nil || follow || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
