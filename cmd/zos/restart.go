package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
)

func (a *app) restartCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restart CONTRACT[/WORKLOAD]…",
		Short: "End workloads gracefully and start them again",
		Long: `End workloads gracefully and start them again, by the own key of a member of the
contract's group. Their files stay. A contract stands for all its workloads, the name of
a replica set for all of the set: each is told to in turn, and none is waited for. The
spec must not say  access: {restart: none}.  It is recorded among the workloads' events.`,
		Example:           "  zos restart demo/shop/web-1\n  zos restart demo/shop/web demo/shop/db",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeAll(workloadNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				var told []string
				var errs []error
				for _, ref := range args {
					at, err := a.scope(ctx, c, ref)
					if err != nil {
						errs = append(errs, err)
						continue
					}
					for _, w := range at.workloads {
						if err := c.Restart(ctx, client.Running{Contract: at.contract, Workload: w, By: at.by}); err != nil {
							errs = append(errs, fmt.Errorf("restart %s/%s: %w", at.name, w.Name, err))
							continue
						}
						told = append(told, at.name+"/"+w.Name)
						if a.format != "json" {
							fmt.Fprintln(a.out, at.name+"/"+w.Name)
						}
					}
				}
				if a.format == "json" {
					errs = append(errs, a.json(append([]string{}, told...)))
				}
				return errors.Join(errs...)
			})
		},
	}
}
