package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
)

// completeFor is how long the shell waits for names at most.
const completeFor = 2 * time.Second

// completion offers names for the next argument. What can't be had in time is
// left out: completion never complains.
type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeFirst completes the first argument from the grid.
func (a *app) completeFirst(names func(context.Context, *client.Client) ([]string, error)) completion {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctxOf(cmd)), completeFor)
		defer cancel()
		var found []string
		_ = a.withClient(ctx, func(ctx context.Context, c *client.Client) (err error) {
			found, err = names(ctx, c)
			return err
		})
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

func ctxOf(cmd *cobra.Command) context.Context {
	if ctx := cmd.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}

func contractNames(ctx context.Context, c *client.Client) ([]string, error) {
	names, err := c.Names(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := c.Contracts(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, k := range rows {
		out = append(out, names.Of(k.Group)+"/"+k.Name)
	}
	return out, nil
}

func proposalNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, err := c.Proposals(ctx, false)
	var out []string
	for _, p := range list {
		out = append(out, p.ID.String()[:8]+"\t"+p.Record.Action+" "+p.Record.Name)
	}
	return out, err
}

func nodeNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, err := c.Nodes(ctx)
	var out []string
	for _, n := range list {
		out = append(out, n.Name)
	}
	return out, err
}

func groupNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, err := c.Groups(ctx)
	var out []string
	for _, g := range list {
		out = append(out, g.Is.Name)
	}
	return out, err
}

func accountNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, err := c.Accounts(ctx)
	var out []string
	for _, g := range list {
		out = append(out, g.Is.Name)
	}
	return out, err
}

func farmNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, err := c.Farms(ctx)
	var out []string
	for _, g := range list {
		out = append(out, g.Is.Name)
	}
	return out, err
}

func (a *app) completeKeys(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var out []string
	if _, c, err := a.openContext(); err == nil {
		for _, k := range c.Keys {
			out = append(out, k.Name)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	config, err := client.OpenConfig()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, _, _ := config.List()
	return names, cobra.ShellCompDirectiveNoFileComp
}
