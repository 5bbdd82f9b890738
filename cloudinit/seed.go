package cloudinit

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strings"

	"github.com/zero-os/zos/workload/control"
)

// Limits of a Seed.
const (
	maxKeys       = 64
	maxKey        = 8 << 10
	maxFiles      = 128
	maxUserData   = 64 << 10
	maxInterfaces = 32
	maxEntries    = 256 // addresses, routes, name servers
	// MaxImage bounds an image, in bytes.
	MaxImage = 16 << 20
)

// Seed is what a machine is told at its first boot as an instance.
type Seed struct {
	// Instance is what cloud-init takes the machine for: under another one it begins
	// anew, host keys included. [a-zA-Z0-9-]{1,128}
	Instance string
	Hostname string // [a-z0-9-]{1,63}
	// Keys are authorized_keys lines of the default user.
	Keys []string
	// Interfaces are configured by their MAC addresses; everything else is left down.
	Interfaces  []control.Iface
	Nameservers []netip.Addr
	Search      []string // domains
	// Files are written at every first boot; their owner is root.
	Files []control.File
	// UserData is the group's own, in any of the formats that cloud-init tells by
	// their first line; empty: none.
	UserData []byte
}

// Files of a seed.
const (
	metaData      = "meta-data"
	userData      = "user-data"
	networkConfig = "network-config"
)

// Image returns the seed as a disk. Anything that is not of its form is an error.
func (s Seed) Image() ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("make cloud-init seed: %w", err)
	}
	files := []isoFile{
		{metaData, s.metaData()},
		{networkConfig, s.networkConfig()},
		{userData, s.userData()},
	}
	img, err := isoImage("cidata", files)
	if err != nil {
		return nil, fmt.Errorf("make cloud-init seed: %w", err)
	}
	return img, nil
}

var (
	instanceRE = regexp.MustCompile(`^[a-zA-Z0-9-]{1,128}$`)
	hostRE     = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
	ifaceRE    = regexp.MustCompile(`^[a-z0-9]{1,15}$`)
	macRE      = regexp.MustCompile(`^([0-9a-f]{2}:){5}[0-9a-f]{2}$`)
	domainRE   = regexp.MustCompile(`^[a-zA-Z0-9.-]{1,253}$`)
)

func (s Seed) validate() error {
	switch {
	case !instanceRE.MatchString(s.Instance):
		return fmt.Errorf("instance %.80q: want letters, digits and '-'", s.Instance)
	case !hostRE.MatchString(s.Hostname):
		return fmt.Errorf("host name %.80q: want [a-z0-9-]{1,63}", s.Hostname)
	case len(s.Keys) > maxKeys, len(s.Files) > maxFiles, len(s.UserData) > maxUserData, len(s.Interfaces) > maxInterfaces, len(s.Nameservers) > maxEntries, len(s.Search) > maxEntries:
		return fmt.Errorf("more keys, files, user data or interfaces than a seed can hold")
	}
	for _, k := range s.Keys {
		if k == "" || len(k) > maxKey || strings.ContainsFunc(k, func(c rune) bool { return c < ' ' || c > '~' }) {
			return fmt.Errorf("SSH key %.40q is not one line of printable ASCII", k)
		}
	}
	size := 0
	for _, f := range s.Files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || strings.ContainsRune(f.Path, 0) || f.Mode&^0o7777 != 0 {
			return fmt.Errorf("file %.80q: want an absolute, plain path and permission bits", f.Path)
		}
		size += len(f.Content)
	}
	if size > MaxImage/2 {
		return fmt.Errorf("files of %d bytes, at most %d fit", size, MaxImage/2)
	}
	for _, d := range s.Search {
		if !domainRE.MatchString(d) {
			return fmt.Errorf("search domain %.80q", d)
		}
	}
	for _, a := range s.Nameservers {
		if !a.IsValid() || a.Zone() != "" {
			return fmt.Errorf("name server %v is no address", a)
		}
	}
	seen := map[string]bool{}
	for _, i := range s.Interfaces {
		if err := checkInterface(i); err != nil {
			return fmt.Errorf("interface %.40q: %w", i.Name, err)
		}
		if seen[i.Name] || seen[i.MAC] {
			return fmt.Errorf("interface %s or its MAC occurs twice", i.Name)
		}
		seen[i.Name], seen[i.MAC] = true, true
	}
	return nil
}

func checkInterface(i control.Iface) error {
	switch {
	case !ifaceRE.MatchString(i.Name):
		return fmt.Errorf("want [a-z0-9]{1,15} as its name")
	case !macRE.MatchString(i.MAC):
		return fmt.Errorf("MAC %.40q", i.MAC)
	case i.MTU < 576 || i.MTU > 65535:
		return fmt.Errorf("MTU of %d", i.MTU)
	case len(i.Addresses) > maxEntries || len(i.Routes) > maxEntries:
		return fmt.Errorf("more than %d addresses or routes", maxEntries)
	}
	for _, a := range i.Addresses {
		if p, err := netip.ParsePrefix(a); err != nil || p.String() != a {
			return fmt.Errorf("address %.60q", a)
		}
	}
	for _, r := range i.Routes {
		to, err := netip.ParsePrefix(r.To)
		if err != nil || to.String() != r.To {
			return fmt.Errorf("route to %.60q", r.To)
		}
		if r.Via == "" {
			continue
		}
		if via, err := netip.ParseAddr(r.Via); err != nil || via.String() != r.Via || via.Is4() != to.Addr().Is4() || via.Zone() != "" {
			return fmt.Errorf("route to %s via %.60q", r.To, r.Via)
		}
	}
	return nil
}

func (s Seed) metaData() []byte {
	m := struct {
		Instance string   `json:"instance-id"`
		Hostname string   `json:"local-hostname"`
		Keys     []string `json:"public-keys,omitempty"`
	}{s.Instance, s.Hostname, s.Keys}
	return encode(m)
}

type ethernet struct {
	Match       match        `json:"match"`
	SetName     string       `json:"set-name"`
	MTU         int          `json:"mtu"`
	DHCP4       bool         `json:"dhcp4"`
	DHCP6       bool         `json:"dhcp6"`
	AcceptRA    bool         `json:"accept-ra"`
	Addresses   []string     `json:"addresses,omitempty"`
	Nameservers *nameservers `json:"nameservers,omitempty"`
}

type match struct {
	MAC string `json:"macaddress"`
}

type nameservers struct {
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Search    []string     `json:"search,omitempty"`
}

// networkConfig is version 2 of cloud-init's network configuration, Netplan's. It has
// no routes: see routes.
func (s Seed) networkConfig() []byte {
	n := struct {
		Version   int                 `json:"version"`
		Ethernets map[string]ethernet `json:"ethernets"`
	}{2, map[string]ethernet{}}
	for _, i := range s.Interfaces {
		e := ethernet{Match: match{i.MAC}, SetName: i.Name, MTU: i.MTU, Addresses: i.Addresses}
		if len(s.Nameservers)+len(s.Search) > 0 {
			e.Nameservers = &nameservers{s.Nameservers, s.Search}
		}
		n.Ethernets[i.Name] = e
	}
	return encode(n)
}

type writeFile struct {
	Path        string `json:"path"`
	Permissions string `json:"permissions"`
	Owner       string `json:"owner"`
	Encoding    string `json:"encoding"`
	Content     []byte `json:"content"`
}

// routes are the commands of iproute2 that make them, once a boot. An address stands
// alone here, so its router is on the link by a route only; of cloud-init's renderers
// the one for networkd knows no such route (22.4, Debian 12's, leaves on-link out), and
// networkd then holds the boot up for routes that it can't make.
func (s Seed) routes() [][]string {
	var all [][]string
	for _, i := range s.Interfaces {
		for _, r := range i.Routes {
			c := []string{"ip", "route", "replace", r.To}
			if r.Via != "" {
				c = append(c, "via", r.Via)
			}
			all = append(all, append(c, "dev", i.Name))
		}
	}
	return all
}

// cloudConfig is the node's own part.
func (s Seed) cloudConfig() []byte {
	c := struct {
		Hostname string      `json:"hostname"`
		Preserve bool        `json:"preserve_hostname"`
		Hosts    string      `json:"manage_etc_hosts"`
		Boot     [][]string  `json:"bootcmd,omitempty"`
		Files    []writeFile `json:"write_files,omitempty"`
	}{s.Hostname, false, "localhost", s.routes(), nil}
	for _, f := range s.Files {
		c.Files = append(c.Files, writeFile{f.Path, fmt.Sprintf("0%o", f.Mode), "root:root", "b64", append([]byte{}, f.Content...)})
	}
	return append([]byte("#cloud-config\n"), encode(c)...)
}

// merge has lists of both parts kept, and the first part's values.
const merge = "list(append)+dict(no_replace,recurse_list)+str()"

// userData is the node's part alone, or both as a MIME message: each whole and in
// base64, so neither can end early or begin another part.
func (s Seed) userData() []byte {
	own := s.cloudConfig()
	if len(s.UserData) == 0 {
		return own
	}
	// No line of base64 has a '='-sign in front.
	const boundary = "==zero-os=="
	var b bytes.Buffer
	fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=\"%s\"\nMIME-Version: 1.0\n\n", boundary)
	// What plain text is cloud-init tells by its first line, and what was compressed it
	// takes for plain text; of anything else it believes the header, or ignores it.
	kind := "text/plain"
	if bytes.HasPrefix(s.UserData, []byte{0x1f, 0x8b}) {
		kind = "application/gzip"
	}
	for _, part := range []struct {
		kind, name string
		content    []byte
	}{{"text/cloud-config", "zero-os.cfg", own}, {kind, "user-data", s.UserData}} {
		fmt.Fprintf(&b, "--%s\nContent-Type: %s\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\nMerge-Type: %s\nContent-Disposition: attachment; filename=\"%s\"\n\n", boundary, part.kind, merge, part.name)
		text := base64.StdEncoding.EncodeToString(part.content)
		for len(text) > 0 {
			n := min(76, len(text))
			b.WriteString(text[:n] + "\n")
			text = text[n:]
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "--%s--\n", boundary)
	return b.Bytes()
}
