package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/linux/tap"
	"github.com/zero-os/zos/workload/control"
)

// net sends TCP between a machine and a network namespace that stands for what is
// outside. The micro-VM's way is that of nodes: a tap, a bridge and a veth; the peer has
// its tap right in that namespace, and nothing else in between. Neither has vhost-net,
// which this host may lack.
func (b *bench) net(ctx context.Context) (err error) {
	outside, inside := fmt.Sprintf("zosbo%d", os.Getpid()), fmt.Sprintf("zosbi%d", os.Getpid())
	defer func() {
		for _, n := range []string{inside, outside} {
			err = errors.Join(err, command(context.Background(), "ip", "netns", "del", n))
		}
	}()
	for _, args := range [][]string{
		{"netns", "add", outside}, {"netns", "add", inside},
		{"-n", outside, "link", "add", "v0", "type", "veth", "peer", "name", "eth0", "netns", inside},
		{"-n", outside, "addr", "add", "10.9.0.1/24", "dev", "v0"}, {"-n", outside, "link", "set", "v0", "up"},
		{"-n", inside, "link", "add", "hub0", "type", "bridge"},
		{"-n", inside, "link", "set", "eth0", "master", "hub0"}, {"-n", inside, "link", "set", "eth0", "up"},
		{"-n", inside, "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr"},
		{"-n", inside, "link", "set", "tap0", "master", "hub0"}, {"-n", inside, "link", "set", "tap0", "up"},
		{"-n", inside, "link", "set", "hub0", "up"},
		{"-n", outside, "tuntap", "add", "tap1", "mode", "tap", "vnet_hdr"},
		{"-n", outside, "addr", "add", "10.9.1.1/24", "dev", "tap1"}, {"-n", outside, "link", "set", "tap1", "up"},
	} {
		if err := command(ctx, "ip", args...); err != nil {
			return err
		}
	}
	ns, err := netns.Open("/run/netns/" + inside)
	if err != nil {
		return err
	}
	defer ns.Close()
	var tap0 *os.File
	if err := netns.Do(int(ns.Fd()), func() (err error) { tap0, err = tap.Open("tap0"); return err }); err != nil {
		return err
	}
	disk, err := b.parts.newDisk("upper")
	if err != nil {
		return err
	}
	m, err := b.parts.startMicroVM(ctx, microVMOptions{disk: disk, tap: tap0, ifaces: []control.Iface{{
		Name: "eth0", MAC: guestMAC, MTU: 1500, Addresses: []string{"10.9.0.2/24"},
	}}})
	if err != nil {
		return err
	}
	defer m.stop()
	p, err := b.parts.startPlain(ctx, plainOptions{initrd: b.parts.plain, tap: "tap1", within: []string{"ip", "netns", "exec", outside}})
	if err != nil {
		return err
	}
	defer p.stop()
	if _, err := p.measure(nil, "address", "10.9.1.2/24"); err != nil {
		return err
	}
	ours := func(started func(), args ...string) (float64, error) { return m.measure(ctx, started, args...) }
	var in, out, plainIn, plainOut []float64
	for range b.times {
		for _, side := range []struct {
			subnet  string
			measure func(func(), ...string) (float64, error)
			in, out *[]float64
		}{{"10.9.0", ours, &in, &out}, {"10.9.1", p.measure, &plainIn, &plainOut}} {
			i, err := b.into(outside, side.subnet+".2:7000", side.measure)
			if err != nil {
				return err
			}
			o, err := b.outOf(outside, side.subnet+".1:7000", side.measure)
			if err != nil {
				return err
			}
			*side.in, *side.out = append(*side.in, i), append(*side.out, o)
		}
	}
	b.addRatio("network, TCP into the machine (tap, bridge and veth)", in, plainIn, "virtio-net on a tap in plain QEMU", 0.8)
	b.addRatio("network, TCP out of the machine (tap, bridge and veth)", out, plainOut, "virtio-net on a tap in plain QEMU", 0.8)
	return nil
}

// outsideMeter starts the meter in the namespace outside.
func (b *bench) outsideMeter(ns string, args ...string) (*exec.Cmd, *output, error) {
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns, b.parts.meter}, args...)...)
	out := &output{changed: make(chan struct{}, 1)}
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	return cmd, out, cmd.Start()
}

func (b *bench) into(ns, address string, measure func(func(), ...string) (float64, error)) (float64, error) {
	var cmd *exec.Cmd
	var err error
	got, failed := measure(func() {
		cmd, _, err = b.outsideMeter(ns, "send", address, fmt.Sprint(b.length.Milliseconds()))
	}, "recv", ":7000")
	if cmd != nil && cmd.Process != nil {
		err = errors.Join(err, cmd.Wait())
	}
	return got, errors.Join(failed, err)
}

// outOf counts what arrives outside, which is what counts.
func (b *bench) outOf(ns, address string, measure func(func(), ...string) (float64, error)) (float64, error) {
	cmd, out, err := b.outsideMeter(ns, "recv", address)
	if err != nil {
		return 0, err
	}
	if err := out.wait("listens"); err != nil {
		return 0, errors.Join(err, cmd.Process.Kill())
	}
	_, err = measure(nil, "send", address, fmt.Sprint(b.length.Milliseconds()))
	if err != nil {
		_ = cmd.Process.Kill()
	}
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return 0, err
	}
	return result(out.String())
}
