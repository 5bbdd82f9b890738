package network

import (
	"context"
	"fmt"
	"slices"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// Devices is the kind of people's machines that enter networks at this node. They
// run elsewhere: what there is of one here is its place in the router's way in,
// which the router's own Ensure makes. It implements workload.Kind.
type Devices struct{ *Kind }

var _ workload.Kind = Devices{}

// Devices is the kind "device" of the same networks.
func (k *Kind) Devices() Devices { return Devices{k} }

// Ensure implements workload.Kind: it only tells whether the router lets the device
// in as desired.
func (k Devices) Ensure(_ context.Context, d workload.Desired) error {
	config, err := plan.DecodeDevice(d.Plan.Config)
	if err != nil {
		return fmt.Errorf("ensure device %s: %w", d.ID.Name, err)
	}
	if d.Plan.Slot != k.cfg.Slot || d.Plan.Name != d.ID.Name || d.Plan.Kind != plan.KindDevice {
		return problem.New(CodeInvalid, "ensure device %.63s: it is no device of this node, or not under its own name", d.ID.Name)
	}
	router := workload.ID{Contract: d.ID.Contract, Name: plan.RouterName(config.Network.Network, k.cfg.Slot)}
	s, r := k.look(router), record{}
	if s.State == contract.StateRunning && s.Version >= d.Version {
		if r, err = k.readRecord(router); err == nil && slices.ContainsFunc(r.View.Devices, func(v Device) bool { return v.Workload == d.ID.Name }) {
			return nil
		}
	}
	return problem.New(ReasonPending, "ensure device %s: network %s does not let it in here yet", d.ID.Name, config.Network.Network)
}

// Observe implements workload.Kind.
func (k Devices) Observe(ctx context.Context) (map[workload.ID]workload.Status, error) {
	routers, err := k.Kind.Observe(ctx)
	if err != nil {
		return nil, err
	}
	out := map[workload.ID]workload.Status{}
	for id, s := range routers {
		r, err := k.readRecord(id)
		if err != nil {
			continue
		}
		for _, d := range r.View.Devices {
			out[workload.ID{Contract: id.Contract, Name: d.Workload}] = s
		}
	}
	return out, nil
}

// Remove implements workload.Kind. The router of the version without the device, or
// its removal, has cut it off; there is nothing else.
func (k Devices) Remove(context.Context, workload.ID) error { return nil }
