package client

import (
	"context"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/device"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// entryTime is how long an entry may take for one answer.
const entryTime = 10 * time.Second

// DeviceConfig asks the node by which a device enters for what the device needs.
// Only the device's account may.
func (c *Client) DeviceConfig(ctx context.Context, k Contract, slot canon.Hash, name string, key wireguard.Key, by sign.Signer) (device.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, entryTime)
	defer cancel()
	_ = ctx
	return device.Config{}, problem.New("unknown-method", "nodes do not know devices yet")
}

// DevicePending tells whether an error of DeviceConfig goes away by itself: the
// node has not heard of the approval yet, or is busy making the way in.
func DevicePending(err error) bool {
	switch problem.Code(err) {
	case "device-unknown", "not-yet", "network-pending", "not-permitted", "node-not-ready":
		return true
	}
	return passing(err)
}

var _ canon.Hash
