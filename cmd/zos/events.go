package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/sign"
)

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var since string
	cmd := &cobra.Command{
		Use:   "events [CONTRACT[/WORKLOAD]…]",
		Short: "Show what happened to workloads, and who did it",
		Long: `Show what happened to workloads: starts, ends, health, updates, and who ran programs
in them, copied files or restarted them. Without a name: of every contract of your
groups. The times are the nodes'.`,
		Example:           "  zos events demo/shop\n  zos events demo/shop/web -f --since 10m",
		ValidArgsFunction: a.completeAll(workloadNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := parseSince(since, time.Now())
			if err != nil {
				return err
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				scopes, err := a.scopes(ctx, c, args)
				if err != nil {
					return err
				}
				err = a.events(ctx, c, scopes, from, follow)
				if errors.Is(err, context.Canceled) && follow {
					return nil // Ctrl-C is how following ends
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	f.StringVar(&since, "since", "", "only what is newer: 10m, 2h30m, or 2006-01-02T15:04:05Z")
	return cmd
}

// event is one line of output.
type event struct {
	Contract string `json:"contract"`
	Account  string `json:"account"` // whose key it was, by the ledger; "" if nobody's
	protocol.Event
}

// events shows those of all scopes: sorted by time, or as they come.
func (a *app) events(ctx context.Context, c *client.Client, scopes []scope, since int64, follow bool) error {
	who, err := byFingerprint(ctx, c)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var list []event
	err = eachNode(ctx, scopes, follow, func(ctx context.Context, s scope, slot canon.Hash) error {
		params := protocol.EventsParams{Workload: s.one(), Since: since, Follow: follow}
		return c.Events(ctx, slot, s.contract.ID, params, s.by, func(e protocol.Event) error {
			if !s.has(e.Workload, slot) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if follow {
				return a.showEvent(event{s.name, who[e.Who], e})
			}
			list = append(list, event{s.name, who[e.Who], e})
			return nil
		})
	})
	slices.SortStableFunc(list, func(x, y event) int { return cmp.Compare(x.Time, y.Time) })
	for _, e := range list {
		if err := a.showEvent(e); err != nil {
			return err
		}
	}
	return err
}

// byFingerprint names the accounts by what events have of their keys.
func byFingerprint(ctx context.Context, c *client.Client) (map[string]string, error) {
	accounts, err := c.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, a := range accounts {
		out[sign.PublicKey(a.Is.Key).Fingerprint()] = a.Is.Name
	}
	return out, nil
}

func (a *app) showEvent(e event) error {
	if a.format == "json" {
		return a.jsonLine(e)
	}
	what := e.Kind
	if e.Reason != "" {
		what += " " + e.Reason
	}
	var more []string
	if e.Code != 0 {
		more = append(more, fmt.Sprintf("code %d", e.Code))
	}
	if len(e.Argv) > 0 {
		more = append(more, strings.Join(e.Argv, " "))
	}
	if e.Detail != "" {
		more = append(more, e.Detail)
	}
	if e.Who != "" {
		more = append(more, "by "+cmp.Or(e.Account, e.Who))
	}
	at := time.Unix(0, e.Time).Format("2006-01-02 15:04:05")
	_, err := fmt.Fprintf(a.out, "%s  %-24s  %-16s  %s\n", at, printable(e.Contract+"/"+e.Workload), printable(what), printable(strings.Join(more, ", ")))
	return err
}

// eachNode calls fn for each node of each scope: one after the other, or, to follow
// them, all at once until the first fails.
func eachNode(ctx context.Context, scopes []scope, together bool, fn func(context.Context, scope, canon.Hash) error) error {
	if !together {
		var errs []error
		for _, s := range scopes {
			for _, slot := range s.slots() {
				errs = append(errs, fn(ctx, s, slot))
			}
		}
		return errors.Join(errs...)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, s := range scopes {
		for _, slot := range s.slots() {
			wg.Go(func() {
				if err := fn(ctx, s, slot); err != nil {
					cancel(err)
				}
			})
		}
	}
	wg.Wait()
	return context.Cause(ctx)
}

// parseSince reads how long ago, or when; it returns Unix nanoseconds, 0 for always.
func parseSince(s string, now time.Time) (int64, error) {
	if s == "" {
		return 0, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return max(1, now.Add(-d).UnixNano()), nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04:05", time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(form, s, time.Local); err == nil && t.Unix() > 0 {
			return t.UnixNano(), nil
		}
	}
	return 0, usageError{fmt.Errorf("--since %s: want a time ago like 10m, or a time like 2006-01-02T15:04:05Z", s)}
}
