package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/device"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
)

func (a *app) netJoinCommand() *cobra.Command {
	var f memberFlags
	var userspace bool
	cmd := &cobra.Command{
		Use:   "join [DEPLOYMENT/]NETWORK",
		Short: "Bring this machine into a network, and keep it there until Ctrl-C",
		Long: `Make this machine a member of a network: with a key that is made here and stays
here, approved by the network's group as a part of the deployment. Once it is
approved, this makes a WireGuard interface (which needs root) and holds it until
Ctrl-C. Run again it goes on where it stopped; the approval stays until somebody
runs zos net revoke.

Only packets for the network take the tunnel. From the network nobody reaches
this machine.`,
		Example:           "  zos net join front\n  zos net join demo/shop/front --name red-laptop --as red",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(networkNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				m, err := a.member(ctx, c, args[0], f)
				if err != nil || m == nil {
					return err
				}
				return a.join(ctx, c, m, userspace)
			})
		},
	}
	f.define(cmd)
	cmd.Flags().BoolVar(&userspace, "userspace", false, "encrypt in this process even if the kernel has WireGuard")
	return cmd
}

// joined is what a machine learns when it is in a network.
type joined struct {
	Contract  string         `json:"contract"` // group/deployment
	Network   string         `json:"network"`
	Device    string         `json:"device"`
	Interface string         `json:"interface"`
	Engine    string         `json:"engine"`
	Addresses []netip.Addr   `json:"addresses"`
	Resolver  []netip.Addr   `json:"resolver"`
	NamesBy   string         `json:"names_by"` // what on this machine asks the resolver; "" if nothing does
	Endpoint  netip.AddrPort `json:"endpoint"`
	After     int64          `json:"after_ms"` // from the first packet sent to the first one received
	Reach     []client.Reach `json:"reach"`
}

// rooted refuses without the rights that making an interface takes, and says the
// line that has them.
func rooted(args []string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	config, err := client.OpenConfig()
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	line := []string{"sudo", quoted(client.ConfigEnv + "=" + dir)}
	if agent := os.Getenv("SSH_AUTH_SOCK"); agent != "" { // the key that asks may be in it
		line = append(line, quoted("SSH_AUTH_SOCK="+agent))
	}
	for _, arg := range append([]string{self}, args...) {
		line = append(line, quoted(arg))
	}
	return problem.New("root-needed", "this machine is a member now; making the interface takes root").
		WithFix("%s\nor take a file for WireGuard programs: zos net export", strings.Join(line, " "))
}

// quoted is an argument as a shell reads it.
func quoted(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_./=:,@+", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// interfaceName is of 15 bytes at most, and differs between networks of one name.
func interfaceName(k client.Contract, network string) string {
	return "zos-" + network[:min(6, len(network))] + "-" + k.ID.String()[:4]
}

func (a *app) join(ctx context.Context, c *client.Client, m *member, userspace bool) error {
	if err := rooted(os.Args[1:]); err != nil {
		return err
	}
	config, err := a.deviceConfig(ctx, c, m)
	if err != nil {
		return err
	}
	engine := wireguard.Auto
	if userspace {
		engine = wireguard.Userspace
	}
	begin := time.Now()
	link, err := device.Up(ctx, config, device.Options{Name: interfaceName(m.k, m.n.Name), Engine: engine, Logger: a.logger()})
	if err != nil {
		return err
	}
	for _, w := range link.Warnings {
		a.progress("%s %s", a.paint(a.err, bad, "!"), w)
	}
	first := true
	err = link.Run(ctx, func(e device.Event) {
		switch {
		case e.Up && first:
			first = false
			_ = a.showJoined(joined{Contract: m.names.Of(m.k.Group) + "/" + m.k.Name, Network: m.n.Name, Device: m.name,
				Interface: interfaceName(m.k, m.n.Name), Engine: link.Engine().String(), Addresses: config.Addresses, Resolver: config.DNS,
				NamesBy: link.NamesBy, Endpoint: e.Endpoint, After: time.Since(begin).Milliseconds(), Reach: client.ReachedBy(&m.k.Plan, m.n.Name, m.name)})
		case e.Up:
			a.progress("connected again by %s", e.Endpoint)
		case len(config.Endpoints) > 1 || !first:
			a.progress("no answer; trying %s", e.Endpoint)
		}
	})
	if err = errors.Join(err, link.Close()); err != nil {
		return err
	}
	a.progress("left %s", m.n.Name)
	return nil
}

// showJoined tells what is reachable now.
func (a *app) showJoined(j joined) error {
	if a.format == "json" {
		return a.jsonLine(j)
	}
	addresses := make([]string, len(j.Addresses))
	for i, addr := range j.Addresses {
		addresses[i] = addr.String()
	}
	a.fields([][2]string{
		{"joined", j.Network + " of " + j.Contract + " as " + j.Device},
		{"address", strings.Join(addresses, "  ")},
		{"interface", j.Interface + ", WireGuard of the " + map[bool]string{true: "kernel", false: "zos process"}[j.Engine == wireguard.Kernel.String()]},
		{"through", fmt.Sprintf("%s, after %d ms", j.Endpoint, j.After)},
	})
	var rows [][]string
	for _, r := range j.Reach {
		ports := "all"
		if len(r.Ports) > 0 {
			ports = strings.Join(r.Ports, ", ")
		}
		rows = append(rows, []string{r.Names[0] + "." + j.Network + ".internal", r.IPv4, ports, orDash(strings.Join(r.Names[1:], ", "))})
	}
	if err := a.section([]string{"REACHABLE", "ADDRESS", "PORTS", "ALSO NAMED"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	if len(rows) == 0 {
		fmt.Fprintf(a.out, "Nothing in %s lets %s in; say so in the spec: allow: [{ports: 5432/tcp, from: [%s]}]\n", j.Network, j.Device, j.Device)
	}
	switch {
	case j.NamesBy != "" || len(rows) == 0:
	case len(j.Resolver) > 0:
		fmt.Fprintf(a.out, "This machine does not ask the network's resolver by itself. Use addresses, or ask it:\n  dig @%s %s\n", j.Resolver[0], rows[0][0])
	default:
		fmt.Fprintln(a.out, "The network's resolver answers no devices: use addresses.")
	}
	a.progress("Ctrl-C leaves it.")
	return nil
}

// deviceTime is how long an approved device waits for its node to know it.
const deviceTime = 60 * time.Second

// deviceConfig asks the entry until it knows of the device.
func (a *app) deviceConfig(ctx context.Context, c *client.Client, m *member) (device.Config, error) {
	entry := m.names.Of(m.slot)
	var config device.Config
	var last error
	told := false
	wait, cancel := context.WithTimeout(ctx, deviceTime)
	defer cancel()
	err := client.Poll(wait, func(ctx context.Context) (done bool, err error) {
		config, last = c.DeviceConfig(ctx, m.k, m.name, m.key, m.by)
		if last == nil {
			return true, nil
		}
		if !client.DevicePending(last) {
			return false, last
		}
		if !told {
			a.progress("waiting for %s, the node by which %s enters", entry, m.name)
			told = true
		}
		return false, nil
	})
	if err != nil && ctx.Err() == nil && last != nil {
		err = last
	}
	if err != nil {
		return config, fmt.Errorf("ask %s for the configuration of %s: %w", entry, m.name, err)
	}
	if len(m.endpoints) > 0 {
		config.Endpoints = m.endpoints
	}
	config.Title = fmt.Sprintf("%s in network %s of %s/%s", m.name, m.n.Name, m.names.Of(m.k.Group), m.k.Name)
	return config, nil
}

// networkNames completes the networks that this person may join.
func networkNames(ctx context.Context, c *client.Client) ([]string, error) {
	names, err := c.Names(ctx)
	if err != nil {
		return nil, err
	}
	contracts, err := c.Networked(ctx)
	var out []string
	for _, k := range contracts {
		for _, n := range k.Plan.Networks {
			line := names.Of(k.Group) + "/" + k.Name + "/" + n.Name
			if len(client.EntriesOf(&k.Plan, n.Name)) == 0 {
				line += "\tno way in yet"
			}
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out, err
}
