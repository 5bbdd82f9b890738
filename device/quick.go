package device

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// QuickOptions vary a wg-quick file.
type QuickOptions struct {
	// DNS makes the network's resolver that of the whole machine while the tunnel
	// is up, which is all that such a file can say. It answers the network's names
	// only. Without it the line stands there as a comment.
	DNS bool
	// KeyFile leaves the private key out: the file reads it from this path when
	// the tunnel comes up. wg-quick does that, other programs don't.
	KeyFile string
}

// Quick writes the configuration as wg-quick and the WireGuard programs of all
// systems read it. Such a file has one endpoint: the first. Unless KeyFile is
// set it holds the private key: keep it to its owner.
func (c Config) Quick(o QuickOptions) ([]byte, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if o.KeyFile != "" && (!plainLine(o.KeyFile) || strings.ContainsAny(o.KeyFile, `'"\$;&|<> `+"`")) {
		return nil, fmt.Errorf("key file %q: its path can't stand in a wg-quick file", o.KeyFile)
	}
	var b strings.Builder
	line := func(name string, value any) { fmt.Fprintf(&b, "%s = %v\n", name, value) }
	if c.Title != "" {
		fmt.Fprintf(&b, "# %s\n", c.Title)
	}
	b.WriteString("[Interface]\n")
	if o.KeyFile == "" {
		line("PrivateKey", c.PrivateKey)
	} else {
		line("PostUp", "wg set %i private-key "+o.KeyFile)
	}
	addresses := make([]string, 0, 2)
	for _, a := range c.Addresses {
		addresses = append(addresses, netip.PrefixFrom(a, a.BitLen()).String())
	}
	line("Address", strings.Join(addresses, ", "))
	if len(c.DNS) > 0 {
		dns := texts(c.DNS)
		if c.Domain != "" {
			dns = append(dns, c.Domain)
		}
		if !o.DNS {
			b.WriteString("# It answers this network's names only, and would be asked for all others too:\n# ")
		}
		line("DNS", strings.Join(dns, ", "))
	}
	line("MTU", MTU)
	b.WriteString("\n[Peer]\n")
	line("PublicKey", c.Entry)
	line("PresharedKey", c.Preshared)
	line("AllowedIPs", strings.Join(texts(c.Ranges), ", "))
	line("Endpoint", c.Endpoints[0])
	for _, e := range c.Endpoints[1:] {
		line("# or: Endpoint", e)
	}
	line("PersistentKeepalive", int(Keepalive/time.Second))
	return []byte(b.String()), nil
}

func texts[T fmt.Stringer](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = v.String()
	}
	return out
}
