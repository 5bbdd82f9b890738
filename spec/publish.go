package spec

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/zero-os/zos/spec/plan"
)

// gateway reads a workload of kind gateway. What it publishes is looked up by
// backends, once all workloads are read.
func (s *source) gateway(m map[string]any, pointer string) Workload {
	share := plan.GatewayResources()
	w := Workload{
		Name: text(m["name"]), Kind: plan.KindGateway, Node: text(m["node"]), Address: AddressShared,
		CPU: share.CPU, Memory: share.Memory, Disk: share.Disk, PIDs: share.PIDs,
	}
	if v, ok := m["address"]; ok {
		w.Address = s.address(text(v), pointer+"/address")
	}
	list, _ := m["publish"].([]any)
	seen := map[PublicPort]int{}
	hosts := false
	for i, item := range list {
		at := fmt.Sprintf("%s/publish/%d", pointer, i)
		p := s.publication(item.(map[string]any), at)
		w.Publish = append(w.Publish, p)
		hosts = hosts || p.Host != ""
		if p.Port == 0 {
			continue
		}
		public := PublicPort{p.Mode, p.Port}
		if j, twice := seen[public]; twice {
			s.add(s.placeOf(at+"/port"), fmt.Sprintf("%s is published twice, first in line %d", public, s.placeOf(fmt.Sprintf("%s/publish/%d/port", pointer, j)).line),
				fmt.Sprintf("choose another port, or write port: %s for one that is free", p.Mode))
			continue
		}
		seen[public] = i
	}
	for i, p := range w.Publish {
		if hosts && webPort(p.Mode, p.Port) {
			s.add(s.placeOf(fmt.Sprintf("%s/publish/%d/port", pointer, i)), fmt.Sprintf("%s serves the hosts of this gateway", PublicPort{p.Mode, p.Port}),
				"choose another port, or publish it by another gateway with an address of its own")
		}
	}
	return w
}

// String shows a port as a spec writes it.
func (p PublicPort) String() string { return fmt.Sprintf("%d/%s", p.Port, p.Mode) }

// webPort tells whether hosts are served on a port.
func webPort(mode string, port uint16) bool {
	return mode == plan.ModeTCP && (port == 80 || port == 443)
}

// address reads a gateway's address.
func (s *source) address(got, pointer string) string {
	if got == AddressShared || got == AddressOwn {
		return got
	}
	const write = "write shared, own, or one public address of the node"
	a, err := netip.ParseAddr(got)
	switch {
	case err != nil && len(Nearest(got, []string{AddressShared, AddressOwn})) > 0:
		s.add(s.placeOf(pointer), fmt.Sprintf("address %q is no address", got), fmt.Sprintf("did you mean %q?", Nearest(got, []string{AddressShared, AddressOwn})[0]))
	case err != nil:
		s.add(s.placeOf(pointer), fmt.Sprintf("address %q is no address", got), write)
	case a.Zone() != "" || a.Is4In6() || !plan.IsPublic(a):
		s.add(s.placeOf(pointer), fmt.Sprintf("%s is no public address", a), write)
	default:
		return a.String()
	}
	return AddressShared
}

// publication reads one entry of publish, and checks what it says by itself.
func (s *source) publication(m map[string]any, pointer string) Publish {
	var p Publish
	has := func(key string) bool { _, ok := m[key]; return ok }
	wrong := func(key, message, fix string) { s.add(s.placeOf(pointer+"/"+key), message, fix) }
	_, p.Join = m["join"]
	switch {
	case has("host") && has("port"):
		wrong("port", "this publishes a host and a port", "make two entries of it; a host is served on port 443")
	case has("host"):
		p.Host, p.Mode = s.host(text(m["host"]), pointer+"/host"), plan.ModePassthrough
		if has("tls") {
			p.Mode = text(m["tls"])
		}
	case has("port"):
		p.Mode, p.Port = s.port(text(m["port"]), pointer+"/port")
	case p.Join:
		s.add(s.placeOf(pointer), "this says no port for devices to enter by", "add a line port: udp")
	case text(m["tls"]) == plan.ModeTerminate:
		wrong("tls", "TLS can't end here without a host: there is no name for the certificate", "add a line host: NAME")
	default:
		s.add(s.placeOf(pointer), "this publishes neither a host nor a port", "add a line host: NAME or port: 5432/tcp")
	}
	if p.Mode == "" { // what follows would be guesses
		return p
	}
	if has("tls") && !has("host") {
		wrong("tls", "tls belongs to a host: what comes to a port is passed on as it is", "add a line host: NAME instead of the port, or remove tls")
	}
	switch {
	case has("to") && p.Join:
		wrong("join", "this goes to a workload and to people's devices", "make two entries of it")
	case p.Join:
		s.join(m, pointer, &p)
		return p
	case !has("to"):
		s.add(s.placeOf(pointer), `"to" is missing`, "add a line to: WORKLOAD:PORT")
	default:
		s.to(text(m["to"]), pointer+"/to", &p)
	}
	if has("entry") {
		wrong("entry", "an entry is for people's devices, and this goes to a workload", "remove it")
	}
	if v, ok := m["proxy"]; ok {
		p.Proxy = map[string]uint64{"v1": 1, "v2": 2}[text(v)]
		switch {
		case p.Mode == plan.ModeTerminate:
			wrong("proxy", "the PROXY protocol is not for a host whose TLS ends at the gateway", "remove it: the workload reads the client's address in X-Forwarded-For")
		case p.Mode == plan.ModeUDP && p.Proxy == 1:
			wrong("proxy", "version 1 of the PROXY protocol is not for udp", `did you mean "v2"?`)
		}
	}
	p.Check = plan.CheckTCP
	if p.Mode == plan.ModeUDP {
		p.Check = plan.CheckNone
	}
	if v, ok := m["check"]; ok {
		p.Check = text(v)
		if p.Mode == plan.ModeUDP && p.Check != plan.CheckNone {
			wrong("check", "udp has no health check", "remove it")
		}
		if strings.HasPrefix(p.Check, "/") {
			p.Check, p.Path = plan.CheckHTTP, p.Check
		}
	}
	return p
}

// join reads an entry by which people's devices enter a network.
func (s *source) join(m map[string]any, pointer string, p *Publish) {
	p.Network, p.Entry, p.Target, p.Check = text(m["join"]), text(m["entry"]), plan.EntryPort, plan.CheckNone
	if p.Mode != plan.ModeUDP {
		s.add(s.placeOf(pointer+"/join"), "people's devices enter by udp", "add a line port: udp instead")
	}
	for _, key := range []string{"proxy", "check"} {
		if _, ok := m[key]; ok {
			s.add(s.placeOf(pointer+"/"+key), fmt.Sprintf("%s is for workloads, and here people's devices enter", key), "remove it")
		}
	}
}

// host reads a host name: a label, or a full name.
func (s *source) host(got, pointer string) string {
	where := s.placeOf(pointer)
	bare := strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(got), "https://"), "http://")
	bare, _, _ = strings.Cut(bare, "/")
	bare, _, _ = strings.Cut(bare, ":")
	bare = strings.TrimSuffix(bare, ".")
	_, err := netip.ParseAddr(got)
	switch {
	case validHost(got):
		return got
	case err == nil:
		s.add(where, fmt.Sprintf("%s is an address, not a host name", got), "write a name; what is published without one has a port")
	case strings.Contains(got, "*"):
		s.add(where, fmt.Sprintf("%q stands for many names, of which nobody can tell whose they are", got), "publish each name by an entry of its own")
	case validHost(bare):
		s.add(where, fmt.Sprintf("%q is no host name", got), fmt.Sprintf("did you mean %q?", bare))
	default:
		s.add(where, fmt.Sprintf("%q is no host name", got), "use labels of a-z, 0-9 and - between dots, an internationalised name in its ASCII form")
	}
	return got
}

// validHost tells whether a spec's host is a label or a full name.
func validHost(s string) bool {
	return plan.ValidHost(s) || !strings.Contains(s, ".") && plan.ValidHost(s+".zone")
}

// port reads what the schema accepted; 0 is for the planner to pick.
func (s *source) port(got, pointer string) (mode string, port uint16) {
	digits, mode, written := strings.Cut(got, "/")
	if !written {
		return got, 0
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 {
		s.add(s.placeOf(pointer), fmt.Sprintf("%s is no port", digits), fmt.Sprintf("ports are 1 to 65535; write %s alone for one that is free", mode))
		return mode, 0
	}
	return mode, uint16(n)
}

// suggestPort guesses what a public port written as elsewhere was meant to be.
func suggestPort(got string) string {
	ports, protocol, _ := strings.Cut(got, "/")
	switch guess := suggestPorts(got); {
	case strings.Contains(got, ":"):
		return "write the public port alone, like 5432/tcp; the workload's own is in to"
	case strings.Contains(ports, "-") && (protocol == plan.ModeTCP || protocol == plan.ModeUDP):
		return "publish each port by an entry of its own"
	case strings.HasPrefix(guess, "did you mean") && !strings.Contains(guess, "icmp"):
		return guess
	}
	return "write a port with its protocol, like 5432/tcp; or tcp or udp for one that is free"
}

// to reads WORKLOAD[.NETWORK]:PORT. Backends holds what was written; backends
// replaces it.
func (s *source) to(got, pointer string, p *Publish) {
	where := s.placeOf(pointer)
	colon := strings.LastIndexByte(got, ':')
	if colon < 0 {
		s.add(where, fmt.Sprintf("%q names no port", got), fmt.Sprintf("write the one at which it answers, like %s:8080", got))
		return
	}
	name, digits := got[:colon], got[colon+1:]
	n, err := strconv.ParseUint(digits, 10, 16)
	if bare, _, ok := strings.Cut(digits, "/"); ok && err != nil {
		s.add(where, fmt.Sprintf("%q is no port", digits), fmt.Sprintf("did you mean \"%s:%s\"?", name, bare))
		return
	}
	if err != nil || n == 0 {
		s.add(where, fmt.Sprintf("%q is no port", digits), "ports are 1 to 65535")
		return
	}
	workload, network, both := strings.Cut(name, ".")
	if short, ok := strings.CutSuffix(network, ".internal"); ok && plan.ValidNetworkName(short) {
		s.add(where, fmt.Sprintf("%q is no network", network), fmt.Sprintf("did you mean \"%s.%s:%s\"?", workload, short, digits))
		return
	}
	if !plan.ValidName(workload) || both && !plan.ValidNetworkName(network) {
		s.add(where, fmt.Sprintf("%q is no workload or alias", name), "write WORKLOAD:PORT, or WORKLOAD.NETWORK:PORT")
		return
	}
	p.Backends, p.Network, p.Target = []string{workload}, network, uint16(n)
}
