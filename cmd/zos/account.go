package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/sign"
)

func (a *app) accountCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "account", Short: "Accounts: a name and the key that speaks for it"}
	cmd.AddCommand(a.accountCreateCommand(), a.accountListCommand(), a.accountShowCommand())
	return cmd
}

// created prints what a founding verb made.
func (a *app) created(kind, name string, id canon.Hash) error {
	if a.format == "json" {
		return a.json(map[string]any{"kind": kind, "name": name, "id": id})
	}
	a.progress("%s %s is on the ledger", kind, name)
	_, err := fmt.Fprintln(a.out, id)
	return err
}

func (a *app) accountCreateCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "create NAME",
		Short:   "Found an account for your key",
		Example: "  zos key generate red\n  zos account create red --as red",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				by, err := c.DefaultSigner(ctx, a.as)
				if err != nil {
					return err
				}
				id, err := c.FoundAccount(ctx, args[0], by)
				if err != nil {
					return fmt.Errorf("found account %s: %w", args[0], err)
				}
				return a.created("account", args[0], id)
			})
		},
	}
}

// accountRow is an account for people and machines.
type accountRow struct {
	Name        string     `json:"name"`
	ID          canon.Hash `json:"id"`
	Fingerprint string     `json:"fingerprint"`
	Key         string     `json:"key"` // authorized_keys form
	Time        uint64     `json:"time"`
}

func accountRowOf(f client.Founded[contract.Account]) accountRow {
	key := sign.PublicKey(f.Is.Key)
	return accountRow{f.Is.Name, f.ID, key.Fingerprint(), key.String(), f.Time}
}

func (a *app) accountListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the accounts",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				list, err := c.Accounts(ctx)
				if err != nil {
					return err
				}
				data, rows := []accountRow{}, [][]string{}
				for _, f := range list {
					r := accountRowOf(f)
					data = append(data, r)
					rows = append(rows, []string{r.Name, r.ID.Short(), r.Fingerprint, when(r.Time)})
				}
				return a.table(data, []string{"ACCOUNT", "ID", "KEY", "SINCE"}, rows)
			})
		},
	}
}

func (a *app) accountShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show an account and the groups it is in",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(accountNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				id, err := c.AccountID(ctx, args[0])
				if err != nil {
					return err
				}
				account, err := c.Account(ctx, id)
				if err != nil {
					return err
				}
				groups, err := c.Groups(ctx)
				if err != nil {
					return err
				}
				in := []string{}
				for _, g := range groups {
					if g.Is.Weight(id) > 0 {
						in = append(in, g.Is.Name)
					}
				}
				r := accountRowOf(client.Founded[contract.Account]{ID: id, Is: account})
				if a.format == "json" {
					return a.json(map[string]any{"name": r.Name, "id": r.ID, "key": r.Key, "fingerprint": r.Fingerprint, "groups": in})
				}
				a.fields([][2]string{{"account", r.Name}, {"id", r.ID.String()}, {"key", r.Key}, {"fingerprint", r.Fingerprint}, {"groups", fmt.Sprint(in)}})
				return nil
			})
		},
	}
}
