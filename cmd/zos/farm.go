package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/sign"
)

func (a *app) farmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "farm",
		Short: "Farms: who owns nodes, and whom they serve",
		Long: `A farm declares the slots of its nodes, delegates their admission to an agent, and
admits groups. Its verbs sign with the farm's key, found among the context's keys.`,
	}
	var farm string
	cmd.PersistentFlags().StringVar(&farm, "farm", "", "name of the farm (default: the one whose key is at hand)")
	_ = cmd.RegisterFlagCompletionFunc("farm", a.completeFirst(farmNames))
	cmd.AddCommand(a.farmCreateCommand(), a.farmListCommand(), a.farmShowCommand(), a.farmAdmitCommand(&farm), a.farmRevokeCommand(&farm),
		a.farmSlotCommand(&farm), a.farmDelegateCommand(&farm), a.farmPoolCommand(&farm))
	return cmd
}

func (a *app) farmCreateCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "create NAME",
		Short:   "Found a farm with a key of its own",
		Example: "  zos key generate farmer\n  zos farm create home --as farmer",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				by, err := c.DefaultSigner(ctx, a.as)
				if err != nil {
					return err
				}
				id, err := c.FoundFarm(ctx, args[0], by)
				if err != nil {
					return fmt.Errorf("found farm %s: %w", args[0], err)
				}
				return a.created("farm", args[0], id)
			})
		},
	}
}

func (a *app) farmListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the farms",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				farms, err := c.Farms(ctx)
				if err != nil {
					return err
				}
				nodes, err := c.Nodes(ctx)
				if err != nil {
					return err
				}
				type row struct {
					Name        string     `json:"name"`
					ID          canon.Hash `json:"id"`
					Fingerprint string     `json:"fingerprint"`
					Slots       int        `json:"slots"`
				}
				data, rows := []row{}, [][]string{}
				for _, f := range farms {
					r := row{Name: f.Is.Name, ID: f.ID, Fingerprint: sign.PublicKey(f.Is.Key).Fingerprint()}
					for _, n := range nodes {
						if n.Farm == f.ID {
							r.Slots++
						}
					}
					data = append(data, r)
					rows = append(rows, []string{r.Name, r.ID.Short(), fmt.Sprint(r.Slots), r.Fingerprint})
				}
				return a.table(data, []string{"FARM", "ID", "SLOTS", "KEY"}, rows)
			})
		},
	}
}

// grant is a farm's consent to a group for people and machines.
type grant struct {
	Group    string       `json:"group"`
	Capacity capacityJSON `json:"capacity"`
	Expiry   uint64       `json:"expiry"`
	Sequence uint64       `json:"sequence"`
	State    string       `json:"state"` // admitted, revoked or expired
}

// agent is a farm's delegation for people and machines.
type agent struct {
	Fingerprint string   `json:"fingerprint"`
	Actions     []string `json:"actions"`
	Count       uint64   `json:"count"`
	Expiry      uint64   `json:"expiry"`
}

func (a *app) farmShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show a farm: its slots, whom it admits, and its agents",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(farmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.lookup(cmd.Context(), func(ctx context.Context, c *client.Client, names client.Names) error {
				id, err := c.FarmID(ctx, args[0])
				if err != nil {
					return err
				}
				return a.showFarm(ctx, c, id, names)
			})
		},
	}
}

func (a *app) showFarm(ctx context.Context, c *client.Client, id canon.Hash, names client.Names) error {
	farm, err := c.Farm(ctx, id)
	if err != nil {
		return err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	consents, err := c.Consents(ctx, id)
	if err != nil {
		return err
	}
	delegations, err := c.Delegations(ctx, id)
	if err != nil {
		return err
	}
	slots, grants, agents := []string{}, []grant{}, []agent{}
	rows := [][2]string{{"farm", farm.Name}, {"id", id.String()}, {"key", sign.PublicKey(farm.Key).String()}}
	for _, n := range nodes {
		if n.Farm == id {
			slots = append(slots, n.Name)
			rows = append(rows, [2]string{"slot", fmt.Sprintf("%s  %s  %s  keys: %s  %s", n.Name, n.Slot.Short(), n.Hint, n.Identity, amount(n.Capacity))})
		}
	}
	now := uint64(time.Now().Unix())
	for _, s := range consents {
		g := grant{names.Of(s.Group), capacityJSON(s.Capacity), s.Expiry, s.Sequence, "admitted"}
		switch {
		case s.Capacity.IsZero():
			g.State = "revoked"
		case s.Expiry <= now:
			g.State = "expired"
		}
		grants = append(grants, g)
		rows = append(rows, [2]string{"group", fmt.Sprintf("%s  %s  %s  until %s", g.Group, g.State, amount(s.Capacity), when(g.Expiry))})
	}
	for _, d := range delegations {
		agents = append(agents, agent{sign.PublicKey(d.Key).Fingerprint(), d.Actions, d.Count, d.Expiry})
		rows = append(rows, [2]string{"agent", fmt.Sprintf("%s  may %s  up to %d slots  until %s", sign.PublicKey(d.Key).Fingerprint(), strings.Join(d.Actions, ","), d.Count, when(d.Expiry))})
	}
	if a.format == "json" {
		return a.json(map[string]any{"name": farm.Name, "id": id, "key": sign.PublicKey(farm.Key).String(), "slots": slots, "groups": grants, "agents": agents})
	}
	a.fields(rows)
	return nil
}

func (a *app) farmAdmitCommand(farm *string) *cobra.Command {
	var limit capacity
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "admit GROUP",
		Short: "Let a group use the farm's nodes",
		Long: `Let a group use the farm's nodes, up to a capacity. Without --cpu, --memory and
--disk that is everything the farm's slots offer now.`,
		Example:           "  zos farm admit demo --cpu 4 --memory 8GiB --disk 100GiB",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(groupNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.admit(cmd.Context(), *farm, args[0], life, func(ctx context.Context, c *client.Client, id canon.Hash) (contract.Capacity, error) {
				if limit.value() != (contract.Capacity{}) {
					return limit.value(), nil
				}
				return offered(ctx, c, id)
			})
		},
	}
	limit.flags(cmd.Flags(), "that the group's contracts may use in all")
	cmd.Flags().DurationVar(&life, "expiry", year, "how long new approvals of the group count here")
	return cmd
}

// offered is the capacity of all slots of a farm.
func offered(ctx context.Context, c *client.Client, farm canon.Hash) (contract.Capacity, error) {
	nodes, err := c.Nodes(ctx)
	var sum contract.Capacity
	for _, n := range nodes {
		if n.Farm == farm {
			sum.CPU += n.Capacity.CPU
			sum.Memory += n.Capacity.Memory
			sum.Disk += n.Capacity.Disk
		}
	}
	if err == nil && sum.IsZero() {
		return sum, usageError{fmt.Errorf("the farm has no slots yet; say how much with --cpu, --memory and --disk")}
	}
	return sum, err
}

func (a *app) farmRevokeCommand(farm *string) *cobra.Command {
	return &cobra.Command{
		Use:               "revoke GROUP",
		Short:             "Withdraw a group's admission; nodes end what it runs",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(groupNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.admit(cmd.Context(), *farm, args[0], year, func(context.Context, *client.Client, canon.Hash) (contract.Capacity, error) {
				return contract.Capacity{}, nil
			})
		},
	}
}

// admit signs a consent with the farm's key.
func (a *app) admit(ctx context.Context, farm, group string, life time.Duration, limit func(context.Context, *client.Client, canon.Hash) (contract.Capacity, error)) error {
	return a.withClient(ctx, func(ctx context.Context, c *client.Client) error {
		id, err := c.GroupID(ctx, group)
		if err != nil {
			return err
		}
		f, by, err := c.OwnFarm(ctx, farm, a.as)
		if err != nil {
			return err
		}
		grants, err := limit(ctx, c, f.ID)
		if err != nil {
			return err
		}
		consent, err := c.Admit(ctx, f.ID, id, grants, until(life), by)
		if err != nil {
			return fmt.Errorf("farm %s: consent to %s: %w", f.Is.Name, group, err)
		}
		a.progress("farm %s grants %s: %s", f.Is.Name, group, amount(grants))
		return a.created("consent", group, consent)
	})
}

func (a *app) farmSlotCommand(farm *string) *cobra.Command {
	cmd := &cobra.Command{Use: "slot", Short: "Places for nodes in the farm"}
	cmd.AddCommand(a.farmSlotAddCommand(farm))
	return cmd
}

func (a *app) farmSlotAddCommand(farm *string) *cobra.Command {
	s := contract.Slot{}
	var offers capacity
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Declare a slot: which machine fills it, and what it offers",
		Example: `  zos farm slot add node-1 --hint mac:52:54:00:00:00:01 --identity disk --serial WD-1234 \
    --cpu 4 --memory 8GiB --disk 100GiB`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				f, by, err := c.OwnFarm(ctx, *farm, a.as)
				if err != nil {
					return err
				}
				s.Name, s.Farm, s.Capacity = args[0], f.ID, offers.value()
				id, err := c.AddSlot(ctx, s, by)
				if err != nil {
					return fmt.Errorf("add slot %s to farm %s: %w", args[0], f.Is.Name, err)
				}
				return a.created("slot", args[0], id)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.Hint, "hint", "", "the machine: mac:… or smbios:…")
	f.StringVar(&s.Identity, "identity", contract.IdentityDisk, "where its keys live: disk, tpm or none")
	f.StringSliceVar(&s.Disks, "serial", nil, "serial of a disk that may be formatted; repeat it")
	offers.flags(f, "that it offers to contracts")
	_ = cmd.MarkFlagRequired("hint")
	_ = cmd.RegisterFlagCompletionFunc("identity", cobra.FixedCompletions([]string{contract.IdentityDisk, contract.IdentityTPM, contract.IdentityNone}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) farmDelegateCommand(farm *string) *cobra.Command {
	d := contract.Delegation{}
	var bound capacity
	var slots []string
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "delegate KEY",
		Short: "Let an agent's key admit nodes into the farm's slots",
		Long:  "Let an agent's key admit nodes into the farm's slots. KEY is a key of the context, or a .pub file.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				f, by, err := c.OwnFarm(ctx, *farm, a.as)
				if err != nil {
					return err
				}
				key, err := publicKey(c, args[0])
				if err != nil {
					return err
				}
				d.Farm, d.Key, d.Capacity, d.Expiry, d.Sequence = f.ID, key, bound.value(), until(life), 1
				old, found, err := client.Get[contract.AgentRecord](ctx, c, contract.KeyAgent(f.ID, key))
				if err != nil {
					return err
				}
				if found {
					d.Sequence = old.Sequence + 1
				}
				for _, name := range slots {
					n, err := c.FindNode(ctx, name)
					if err != nil {
						return err
					}
					d.Slots = append(d.Slots, n.Slot)
				}
				sortHashes(d.Slots)
				id, err := c.Delegate(ctx, d, by)
				if err != nil {
					return fmt.Errorf("delegate for farm %s: %w", f.Is.Name, err)
				}
				return a.created("delegation", args[0], id)
			})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&d.Actions, "may", []string{contract.MayAdmit, contract.MayRekey}, "what it may do: admit, rekey")
	f.StringSliceVar(&slots, "slot", nil, "only these slots (default: all)")
	f.Uint64Var(&d.Count, "count", 64, "how many slots it may admit")
	bound.flags(f, "of all slots that it admits (0: no bound)")
	f.DurationVar(&life, "expiry", year, "how long it may")
	return cmd
}
