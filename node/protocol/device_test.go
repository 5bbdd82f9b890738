package protocol

import (
	"bytes"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func deviceConfig() DeviceConfig {
	return DeviceConfig{
		Network: "front", EntryKey: bytes.Repeat([]byte{1}, 32), Preshared: bytes.Repeat([]byte{2}, 32), Device: bytes.Repeat([]byte{3}, 32),
		Addresses: []string{"10.20.1.9", "fd00:0:0:1::9"}, Ranges: []string{"10.20.0.0/16", "fd00::/48"}, DNS: []string{"10.20.1.1", "fd00:0:0:1::1"},
		Endpoints: []string{"198.51.100.9:4500", "[2001:db8::9]:4500"}, MTU: 1280,
	}
}

func TestADevicesConfigurationTravelsWhole(t *testing.T) {
	b, err := canon.Marshal(deviceConfig())
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeDeviceConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := canon.Marshal(got); err != nil || !bytes.Equal(again, b) {
		t.Errorf("%v: %+v", err, got)
	}
}

func TestALyingEntryIsRefused(t *testing.T) {
	for what, change := range map[string]func(*DeviceConfig){
		"no network":                 func(c *DeviceConfig) { c.Network = "" },
		"a short key":                func(c *DeviceConfig) { c.EntryKey = c.EntryKey[1:] },
		"no preshared key":           func(c *DeviceConfig) { c.Preshared = nil },
		"another key":                func(c *DeviceConfig) { c.Device = append(c.Device, 0) },
		"one address":                func(c *DeviceConfig) { c.Addresses = c.Addresses[:1] },
		"no address":                 func(c *DeviceConfig) { c.Addresses[0] = "10.20.1" },
		"two of a family":            func(c *DeviceConfig) { c.Addresses[1] = c.Addresses[0] },
		"an address of a link":       func(c *DeviceConfig) { c.Addresses[1] = "fe80::1%eth0" },
		"a range with host bits":     func(c *DeviceConfig) { c.Ranges[0] = "10.20.1.0/16" },
		"ranges the other way round": func(c *DeviceConfig) { c.Ranges[0], c.Ranges[1] = c.Ranges[1], c.Ranges[0] },
		"a resolver's name":          func(c *DeviceConfig) { c.DNS[0] = "router" },
		"an endpoint without a port": func(c *DeviceConfig) { c.Endpoints[0] = "198.51.100.9:0" },
		"an endpoint's name":         func(c *DeviceConfig) { c.Endpoints[0] = "gateway:4500" },
		"too many endpoints":         func(c *DeviceConfig) { c.Endpoints = make([]string, MaxEndpoints+1) },
		"a tiny MTU":                 func(c *DeviceConfig) { c.MTU = 500 },
	} {
		c := deviceConfig()
		change(&c)
		b, err := canon.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeDeviceConfig(b); problem.Code(err) != "reply-invalid" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzDecodeDeviceConfig(f *testing.F) {
	b, err := canon.Marshal(deviceConfig())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeDeviceConfig(b)
		if err != nil {
			return
		}
		if again, err := canon.Marshal(c); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%v: %x became %x", err, b, again)
		}
	})
}
