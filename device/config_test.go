package device

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
)

func example() Config {
	return Config{
		Title: "red-laptop in network front of demo/shop", Domain: "front.internal", PrivateKey: wireguard.Key{0: 8, 31: 64},
		Addresses: []netip.Addr{netip.MustParseAddr("10.20.2.5"), netip.MustParseAddr("fd3a:91c7:5e02:1402::5")},
		DNS:       []netip.Addr{netip.MustParseAddr("10.20.2.1")},
		Ranges:    []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("fd3a:91c7:5e02::/48")},
		Entry:     wireguard.Key{0: 1, 31: 1}, Preshared: wireguard.Key{0: 2},
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.10:7000"), netip.MustParseAddrPort("[2001:db8::1]:7000")},
	}
}

func TestTheFileIsWhatWgQuickReads(t *testing.T) {
	for name, o := range map[string]QuickOptions{"plain.conf": {}, "dns.conf": {DNS: true}, "keyfile.conf": {KeyFile: "/home/red/.config/zos/devices/a/b/front/red-laptop.key"}} {
		got, err := example().Quick(o)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name)
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s (UPDATE=1 go test ./device writes it anew):\n%s\nwant\n%s", name, got, want)
		}
	}
	with, err := example().Quick(QuickOptions{KeyFile: "/key"})
	if err != nil || strings.Contains(string(with), example().PrivateKey.String()) {
		t.Errorf("the private key is in a file that has it elsewhere: %v\n%s", err, with)
	}
	for _, bad := range []string{"/a key", "/a;reboot", "/$(x)", "/a\nPostUp = x", "/`x`"} {
		if got, err := example().Quick(QuickOptions{KeyFile: bad}); err == nil {
			t.Errorf("key file %q stands in a file that root runs:\n%s", bad, got)
		}
	}
}

// A node that is taken over hands out what it likes.
func TestANodeCanNotTakeMoreThanTheNetwork(t *testing.T) {
	prefixes := func(texts ...string) (out []netip.Prefix) {
		for _, s := range texts {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for name, change := range map[string]func(*Config){
		"all of IPv4":            func(c *Config) { c.Ranges = prefixes("0.0.0.0/0") },
		"a public range":         func(c *Config) { c.Ranges = append(c.Ranges, prefixes("8.8.8.0/24")...) },
		"all of IPv6":            func(c *Config) { c.Ranges = prefixes("10.20.0.0/16", "::/0") },
		"all unique local ones":  func(c *Config) { c.Ranges = prefixes("10.20.0.0/16", "fd00::/8") },
		"half of the private":    func(c *Config) { c.Ranges = append(c.Ranges, prefixes("10.0.0.0/7")...) },
		"an unmasked range":      func(c *Config) { c.Ranges = prefixes("10.20.0.1/16") },
		"no range":               func(c *Config) { c.Ranges = nil },
		"an address outside":     func(c *Config) { c.Addresses = []netip.Addr{netip.MustParseAddr("10.21.0.1")} },
		"two of a family":        func(c *Config) { c.Addresses[1] = netip.MustParseAddr("10.20.2.6") },
		"no address":             func(c *Config) { c.Addresses = nil },
		"a resolver outside":     func(c *Config) { c.DNS = []netip.Addr{netip.MustParseAddr("8.8.8.8")} },
		"no endpoint":            func(c *Config) { c.Endpoints = nil },
		"an endpoint inside":     func(c *Config) { c.Endpoints[0] = netip.MustParseAddrPort("10.20.2.1:51820") },
		"a multicast endpoint":   func(c *Config) { c.Endpoints[0] = netip.MustParseAddrPort("224.0.0.1:51820") },
		"an endpoint of port 0":  func(c *Config) { c.Endpoints[0] = netip.MustParseAddrPort("198.51.100.1:0") },
		"too many endpoints":     func(c *Config) { c.Endpoints = make([]netip.AddrPort, 17) },
		"no entry":               func(c *Config) { c.Entry = wireguard.Key{} },
		"no preshared key":       func(c *Config) { c.Preshared = wireguard.Key{} },
		"this machine's own key": func(c *Config) { c.Entry = c.PrivateKey.Public() },
		"no private key":         func(c *Config) { c.PrivateKey = wireguard.Key{} },
		"lines in the title":     func(c *Config) { c.Title = "x\nPostUp = reboot" },
		"lines in the domain":    func(c *Config) { c.Domain = "x\nPostUp = reboot" },
		"words in the domain":    func(c *Config) { c.Domain = "a b" },
	} {
		c := example()
		change(&c)
		err := c.Check()
		if problem.Code(err) != "reply-invalid" {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), example().PrivateKey.String()) {
			t.Errorf("%s: the error shows the private key", name)
		}
		if b, err := c.Quick(QuickOptions{}); err == nil {
			t.Errorf("%s: a file all the same:\n%s", name, b)
		}
	}
	if err := example().Check(); err != nil {
		t.Errorf("a good one: %v", err)
	}
}
