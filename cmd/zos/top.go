package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
)

func (a *app) topCommand() *cobra.Command {
	var once bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "top [CONTRACT[/WORKLOAD]…]",
		Short: "Show what workloads use, again and again",
		Long: `Show what workloads use: processor, memory, disk, network, and the share of the last ten
seconds in which something in them had to wait (WAIT: processor, memory, disks). Without
a name: of every contract of your groups. Ctrl-C ends it.`,
		Example:           "  zos top demo/shop\n  zos top --once -o json",
		ValidArgsFunction: a.completeAll(workloadNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if every < 500*time.Millisecond {
				return usageError{errors.New("--interval: at least 500ms")}
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				scopes, err := a.scopes(ctx, c, args)
				if err != nil {
					return err
				}
				for _, s := range scopes {
					if err := c.UseSession(ctx, s.by); err != nil {
						return err
					}
				}
				err = a.top(ctx, c, scopes, once, every)
				if errors.Is(err, context.Canceled) && !once {
					return nil
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "show it once, after a second of measuring")
	cmd.Flags().DurationVar(&every, "interval", 2*time.Second, "time between two looks")
	return cmd
}

// usage is one workload in top.
type usage struct {
	Contract string `json:"contract"`
	Node     string `json:"node"`
	// CPU is how many cores it used since the look before.
	CPU float64 `json:"cpu"`
	protocol.Stats
}

type look struct {
	time int64
	cpu  uint64
}

// top shows rounds of figures; the first one only measures.
func (a *app) top(ctx context.Context, c *client.Client, scopes []scope, once bool, every time.Duration) error {
	before := map[string]look{}
	live := false
	if f, ok := a.out.(*os.File); ok && !once && a.format != "json" {
		live = term.IsTerminal(int(f.Fd()))
	}
	if once {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for round := 0; ; round++ {
		rows, err := a.usages(ctx, c, scopes, before)
		if err != nil && (len(rows) == 0 || once) {
			return err
		}
		if round > 0 {
			if live {
				fmt.Fprint(a.out, "\x1b[H\x1b[J")
			}
			if err := a.showUsages(rows, once); err != nil {
				return err
			}
			if err != nil {
				a.progress("%s", printableLines(err.Error()))
			}
			if once {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *app) usages(ctx context.Context, c *client.Client, scopes []scope, before map[string]look) ([]usage, error) {
	names, err := c.Names(ctx)
	if err != nil {
		return nil, err
	}
	rows := []usage{}
	err = eachNode(ctx, scopes, false, func(ctx context.Context, s scope, slot canon.Hash) error {
		m, err := c.Metrics(ctx, slot, s.contract.ID, s.one(), s.by)
		if err != nil {
			return fmt.Errorf("%s on %s: %w", s.name, names.Of(slot), err)
		}
		for _, w := range m.Workloads {
			if !s.has(w.Name, slot) {
				continue
			}
			row := usage{Contract: s.name, Node: names.Of(slot), Stats: w}
			key := s.name + "/" + w.Name + "@" + slot.String()
			if last, ok := before[key]; ok && m.Time > last.time && w.CPUMicros >= last.cpu {
				row.CPU = float64(w.CPUMicros-last.cpu) * 1000 / float64(m.Time-last.time)
			}
			before[key] = look{m.Time, w.CPUMicros}
			rows = append(rows, row)
		}
		return nil
	})
	return rows, err
}

func (a *app) showUsages(rows []usage, once bool) error {
	if a.format == "json" && !once {
		return a.jsonLine(rows)
	}
	lines := [][]string{}
	for _, u := range rows {
		state := u.State
		if u.Problem != "" {
			state += " (" + u.Problem + ")"
		}
		lines = append(lines, []string{
			u.Contract + "/" + u.Name, u.Node, state, fmt.Sprintf("%.1f%% of %g", u.CPU*100, float64(u.CPULimit)/1000),
			bytesOf(u.Memory) + " / " + bytesOf(u.MemoryLimit), bytesOf(u.DiskUsed) + " / " + bytesOf(u.DiskSize),
			bytesOf(u.NetReceived) + " / " + bytesOf(u.NetSent), fmt.Sprint(u.PIDs), fmt.Sprint(u.Restarts),
			fmt.Sprintf("%s %s %s", percent(u.PressureCPU), percent(u.PressureMemory), percent(u.PressureIO)),
		})
	}
	return a.table(rows, []string{"WORKLOAD", "NODE", "STATE", "CPU", "MEMORY", "DISK", "NET IN / OUT", "PIDS", "RESTARTS", "WAIT"}, lines)
}

// percent shows hundredths of a percent.
func percent(n uint64) string { return fmt.Sprintf("%.0f%%", float64(n)/100) }

// bytesOf shows bytes for people, in three digits.
func bytesOf(n uint64) string {
	f, unit := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f < 1000 {
			break
		}
		f, unit = f/1024, next
	}
	if unit == "B" || f >= 100 {
		return fmt.Sprintf("%.0f%s", f, unit)
	}
	return fmt.Sprintf("%.1f%s", f, unit)
}

// codeFor is the problem code of an error, "internal" for one without.
func codeFor(err error) string {
	if code := problem.Code(err); code != "" {
		return code
	}
	return "internal"
}
