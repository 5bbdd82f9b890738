package firststage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/linux/link"
	"github.com/zero-os/zos/problem"
)

const (
	carrierWait = 10 * time.Second // for a cable to come alive
	leaseWait   = 10 * time.Second // for a DHCP server, per card
)

// readMachine collects what a slot's hint can name this machine by.
func readMachine() (Machine, error) {
	links, err := link.List()
	if err != nil {
		return Machine{}, err
	}
	var m Machine
	for _, l := range links {
		m.MACs = append(m.MACs, l.MAC)
	}
	// Absent on machines without SMBIOS; some firmware gives every machine the
	// same all-zero or all-one id, which names none.
	if b, err := os.ReadFile("/sys/class/dmi/id/product_uuid"); err == nil {
		m.UUID = usableUUID(string(b))
	}
	return m, nil
}

func usableUUID(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	if len(s) != 36 || strings.Trim(s, "0-") == "" || strings.Trim(s, "f-") == "" {
		return ""
	}
	return printable(s, 64)
}

// hintMAC returns the MAC in a hint, or "".
func hintMAC(hint string) string {
	if mac, ok := strings.CutPrefix(strings.ToLower(hint), "mac:"); ok {
		return mac
	}
	return ""
}

// connect brings up every card, waits for a cable and gets an address on the
// first card that can have one, the hinted one before others.
func connect(ctx context.Context, hint string) (boot.Network, error) {
	if err := link.Up("lo"); err != nil {
		return boot.Network{}, err
	}
	links, err := link.List()
	if err != nil {
		return boot.Network{}, err
	}
	if len(links) == 0 {
		return boot.Network{}, problem.New("network-missing", "this machine has no network card that the boot image has a driver for").
			WithFix("add its driver to the boot image")
	}
	for _, l := range links {
		if err := link.Up(l.Name); err != nil {
			return boot.Network{}, err
		}
	}
	waiting, cancel := context.WithTimeout(ctx, carrierWait)
	defer cancel()
	live, err := link.WaitCarrier(waiting, hintMAC(hint))
	if err != nil {
		return boot.Network{}, problem.New("network-missing", "no network cable is plugged in: %w", err).
			WithFix("plug one in, or switch on what is at its other end")
	}
	var errs []error
	for _, l := range live {
		n, err := lease(ctx, l)
		if err == nil {
			return n, nil
		}
		errs = append(errs, err)
	}
	return boot.Network{}, problem.New("network-missing", "%w", errors.Join(errs...)).
		WithFix("check that a DHCP server answers on this network")
}

// lease gets an address for the card, applies and publishes it.
func lease(ctx context.Context, l link.Link) (boot.Network, error) {
	ctx, cancel := context.WithTimeout(ctx, leaseWait)
	defer cancel()
	got, err := link.DHCP(ctx, l.Name)
	if err != nil {
		return boot.Network{}, err
	}
	if err := link.Apply(l.Name, got.Address); err != nil {
		return boot.Network{}, err
	}
	n := boot.Network{
		Interface: l.Name, MAC: l.MAC,
		Addresses: []string{got.Address.Prefix}, Gateway: got.Address.Gateway, DNS: got.Address.DNS,
		Lease: uint64(got.Time / time.Second), Since: uint64(time.Now().Unix()),
	}
	return n, publish(n)
}

// publish tells the resolver and zosd.
func publish(n boot.Network) error {
	if err := os.MkdirAll(boot.RunDir, 0o755); err != nil {
		return err
	}
	if err := boot.WriteFile(boot.ResolvConfPath, []byte(link.ResolvConf(n.DNS)), 0o644); err != nil {
		return err
	}
	return boot.WriteNetwork(boot.NetworkPath, n)
}

// KeepNetwork renews the node's address for ever, and gets the first one if the
// first stage could not. It is the whole of the second stage's network child.
func KeepNetwork(ctx context.Context, hint string, console *Console) error {
	const shortest, longest = time.Second, time.Minute
	wait := shortest
	for {
		pause := wait
		if wait == shortest { // nothing has failed
			if n, err := boot.ReadNetwork(boot.NetworkPath); err == nil && n.Interface != "" {
				pause = renewIn(n, time.Now())
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
		n, err := connect(ctx, hint)
		if err != nil {
			wait = min(2*wait, longest)
			console.Printf("renew … failed %s; trying again in %s", explain(err), wait)
			continue
		}
		wait = shortest
		console.Printf("renew … ok %s", describe(n))
	}
}

// renewIn is how long to wait before the lease is renewed: until half of it has
// passed, as RFC 2131 has it (T1). The clock may have been stepped since the
// lease began, so it is never more than half a lease from now.
func renewIn(n boot.Network, now time.Time) time.Duration {
	half := time.Duration(min(n.Lease, 1<<31)) * time.Second / 2
	since := time.Unix(int64(min(n.Since, 1<<40)), 0)
	return max(0, min(half-now.Sub(since), half))
}

func describe(n boot.Network) string {
	return fmt.Sprintf("%s %s via %s", n.Interface, strings.Join(n.Addresses, " "), n.Gateway)
}
