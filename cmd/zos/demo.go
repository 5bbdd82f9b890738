package main

import (
	"context"
	"fmt"
	"time"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/examples"
	"github.com/zero-os/zos/grid"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/spec"
)

// quietTime is how long the demo shows that one approval starts nothing.
const quietTime = 3 * time.Second

// startTimeout bounds how long the demo waits for its container.
const startTimeout = 2 * time.Minute

// demo plays the first deployment: one approval is not enough, two are.
func (a *app) demo(ctx context.Context, g *grid.Grid) error {
	c := g.Client()
	d, err := spec.Parse("examples/hello.yaml", examples.Hello)
	if err != nil {
		return err
	}
	if rows, err := c.Workloads(ctx); err != nil {
		return err
	} else if len(rows) > 0 {
		a.progress("%d workloads return", len(rows))
		return nil
	}
	planned, err := c.Plan(ctx, d)
	if err != nil {
		return err
	}
	red, err := c.Signer(ctx, "red")
	if err != nil {
		return err
	}
	id, err := c.Propose(ctx, planned, red)
	if err != nil {
		return err
	}
	a.progress("red    proposes demo/hello and approves it: 1 of 2 (plan %s)", planned.Hash.Short())
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(quietTime):
	}
	rows, err := c.Workloads(ctx)
	if err != nil {
		return err
	}
	a.progress("       %d workloads run: one approval is not enough", len(rows))
	p, err := c.Proposal(ctx, id)
	if err != nil {
		return err
	}
	green, err := c.Signer(ctx, "green")
	if err != nil {
		return err
	}
	if err := c.Approve(ctx, p, green); err != nil {
		return err
	}
	began := time.Now()
	a.progress("green  approves: 2 of 2")
	wait, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var w client.Workload
	if err := client.Poll(wait, func(ctx context.Context) (bool, error) {
		rows, err := c.Workloads(ctx)
		if err != nil || len(rows) == 0 {
			return false, err
		}
		w = rows[0]
		return w.State == contract.StateRunning, nil
	}); err != nil {
		return fmt.Errorf("wait for demo/hello to run (now %s %s %s): %w", w.State, w.Reason, w.Detail, err)
	}
	a.progress("%s  runs demo/hello after %.1f s; it says:", w.Node, time.Since(began).Seconds())
	said := fmt.Errorf("said") // ends the log after its first line
	err = c.Logs(wait, w.Slot, w.ContractID, protocol.LogsParams{Workload: w.Name, Follow: true}, red, func(r protocol.LogRecord) error {
		if r.Stream != "stdout" {
			return nil
		}
		a.progress("       %s", a.paint(a.err, good, printable(string(r.Data))))
		return said
	})
	if err != said {
		return err
	}
	status, err := c.WorkloadStatus(wait, w.Slot, w.ContractID, red)
	if err != nil {
		return err
	}
	for _, s := range status.Workloads {
		a.progress("       fetched %s of %s of its files", mib(s.Fetched), mib(s.Total))
	}
	return nil
}
