package grid

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/gateway/certs/certstest"
	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/qemu"
)

// laboratory is an internet with three sites, a node in each: two behind NATs of
// different kinds, one with nothing in front of it. The grid's services are a
// host of that internet.
type laboratory struct {
	lab      *netlab.Lab
	internet *netlab.Segment
	services *netlab.Host
	sites    []*netlab.Site
	machines []*netlab.Machine
	acme     *certstest.Authority // that certifies for the farm's gateway; nil: none
}

func newLaboratory(t *testing.T) *laboratory {
	t.Helper()
	lab := netlab.New(t)
	internet := lab.Segment("internet", "198.51.100.0/24")
	l := &laboratory{lab: lab, internet: internet, services: lab.Host("services", internet)}
	for i, nat := range []netlab.NAT{netlab.PortRestricted, netlab.Symmetric, netlab.Open} {
		// The third site's addresses are the internet's own.
		prefix := "192.168.1.0/24"
		if nat == netlab.Open {
			prefix = "203.0.113.0/24"
		}
		site := lab.Site(fmt.Sprintf("site-%d", i+1), netlab.SiteConfig{
			WAN: internet, NAT: nat, LAN: []string{prefix}, DHCP: &netlab.DHCPConfig{},
		})
		l.sites = append(l.sites, site)
		l.machines = append(l.machines, site.Machine(nodeName(i+1)))
	}
	return l
}

// Address implements Underlay.
func (l *laboratory) Address() netip.Addr { return l.services.Addr4() }

// Within implements Underlay.
func (l *laboratory) Within(open func() error) error { return l.services.Try(open) }

// Expose implements Underlay.
func (l *laboratory) Expose(port uint16) error {
	l.services.Forward(netip.AddrPortFrom(l.Address(), port).String(), fmt.Sprintf("127.0.0.1:%d", port))
	return nil
}

// Admit implements Underlay.
func (l *laboratory) Admit(port uint16) error {
	l.services.Reach(fmt.Sprintf("127.0.0.1:%d", port), netip.AddrPortFrom(l.Address(), port).String())
	return nil
}

// Wire implements Underlay.
func (l *laboratory) Wire(i int, mac, bootFile string) []string {
	l.sites[i-1].SetBootFile(bootFile)
	return l.machines[i-1].QEMUArgs(mac)
}

// Public implements Underlay: the gateway's public card is on the internet itself.
func (l *laboratory) Public(i int) (Public, error) {
	card := l.internet.Machine(nodeName(i) + "-public")
	p := Public{
		Args: card.QEMUCard("public", publicMACOf(i)),
		Pool: contract.Pool{
			MAC: publicMACOf(i), Shared: []string{publicShared}, First: firstPublicPort, Last: lastPublicPort,
			Ranges: []contract.Range{{Prefix: "198.51.100.0/24", Router: "198.51.100.254", First: publicShared, Last: "198.51.100.207"}},
		},
	}
	if l.acme != nil {
		p.Pool.ACME, p.Pool.Roots = l.acme.Directory, [][]byte{l.acme.Root}
	}
	return p, nil
}

// publicShared is the address of the laboratory's gateway.
const publicShared = "198.51.100.200"

func (l *laboratory) segments() []*netlab.Segment {
	all := []*netlab.Segment{l.internet}
	for _, s := range l.sites {
		all = append(all, s.LAN)
	}
	return all
}

// allowed are the flows that a node has: to the grid's services, and encrypted
// datagrams between nodes as the links see them. No address of a tenant is among
// them. A datagram for a socket that was closed is answered with an error by the
// kernel, within the flow that the node itself began.
func (l *laboratory) allowed(f netlab.Flow) bool {
	services := l.Address()
	switch f.Proto {
	case "tcp":
		return f.Src.Addr() == services || f.Dst.Addr() == services
	case "udp":
		return l.underlay(f.Src.Addr()) && l.underlay(f.Dst.Addr())
	case "icmp":
		return f.Type == 3 && l.underlay(f.Src.Addr()) && l.underlay(f.Dst.Addr())
	}
	return false
}

// underlay tells whether an address is one of the links'.
func (l *laboratory) underlay(a netip.Addr) bool {
	for _, p := range []string{"198.51.100.0/24", "203.0.113.0/24", "192.168.1.0/24"} {
		if netip.MustParsePrefix(p).Contains(a) {
			return true
		}
	}
	return false
}

// The marker travels in the page, in the query's answer, and in what the
// neighbour sends: it must be on no link. The image and the plans, which travel
// in the clear, have it in small letters.
const marker = "LAMPS-OF-GLASS-4711"

var small = strings.ToLower(marker)

// shop is three workloads on three nodes, of which each needs the next.
const shop = `apiVersion: zos/v1
name: shop
group: demo
networks:
  - {name: back, subnet: 10.20.0.0/16}
workloads:
  - name: db
    kind: container
    isolation: namespace
    image: red/shop:1
    node: node-1
    user: "101:104"
    command: [/usr/lib/postgresql/15/bin/postgres, -D, /var/lib/postgresql/15/main, -c, config_file=/etc/postgresql/15/main/postgresql.conf,
      -c, "listen_addresses=*", -c, ssl=off, -c, shared_buffers=16MB, -c, dynamic_shared_memory_type=mmap, -c, unix_socket_directories=]
    networks: [{name: back, allow: [{ports: 5432/tcp, from: [web, tools]}]}]
    resources: {cpu: 0.4, memory: 160MiB, disk: 128MiB}
  - name: web
    kind: container
    isolation: namespace
    image: red/shop:1
    node: node-2
    command: [python3, /srv/web.py]
    networks: [{name: back, allow: [{ports: 8080/tcp}]}]
    resources: {cpu: 0.4, memory: 96MiB}
  - name: redis
    kind: container
    isolation: namespace
    image: red/shop:1
    node: node-2
    user: "100:102"
    command: [redis-server, --bind, "*", --protected-mode, "no", --save, "", --dir, /tmp]
    networks: [{name: back, aliases: [cache]}]
    resources: {cpu: 0.1, memory: 64MiB}
  - name: shell
    kind: container
    isolation: namespace
    image: red/shop:1
    node: node-1
    user: "1000:1000"
    command: [/usr/sbin/sshd, -D, -e, -f, /srv/sshd_config]
    networks: [back]
    resources: {cpu: 0.2, memory: 64MiB}
  - name: visitor
    kind: container
    isolation: namespace
    image: red/shop:1
    node: node-3
    command: [sh, -c, "while :; do curl -sS -m 120 http://web.back.internal:8080/; sleep 1; done"]
    networks: [back]
    resources: {cpu: 0.2, memory: 64MiB}
  - name: tools
    kind: container
    isolation: namespace
    image: red/shop:1
    node: node-3
    user: "1000:1000"
    command: [sh, /srv/tools.sh]
    networks: [back]
    resources: {cpu: 0.3, memory: 96MiB}
`

// neighbour has the very addresses of the shop, on the same nodes, and a group of
// its own is not needed for that: another deployment is another network.
const neighbour = `apiVersion: zos/v1
name: neighbour
group: demo
networks:
  - {name: back, subnet: 10.20.0.0/16}
workloads:
  - {name: a, kind: container, isolation: namespace, image: red/shop:1, node: node-1, networks: [back], command: [sh, /srv/neighbour.sh], resources: {cpu: 0.1, memory: 64MiB}}
  - {name: b, kind: container, isolation: namespace, image: red/shop:1, node: node-2, networks: [back], command: [sh, /srv/neighbour.sh], resources: {cpu: 0.1, memory: 64MiB}}
  - {name: c, kind: container, isolation: namespace, image: red/shop:1, node: node-3, networks: [back], command: [sh, /srv/neighbour.sh], resources: {cpu: 0.1, memory: 64MiB}}
`

// The image's own files.
var shopFiles = map[string]string{
	"srv/web.py": `import http.server, subprocess
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        r = subprocess.run(["psql", "-h", "db.back.internal", "-U", "postgres", "-Atc", "select upper(item) from stock"], capture_output=True, text=True, timeout=100)
        self.send_response(200 if r.returncode == 0 else 503)
        self.end_headers()
        self.wfile.write(("page: " + r.stdout + r.stderr).encode())
http.server.ThreadingHTTPServer(("", 8080), Page).serve_forever()
`,
	// Each tool from Debian once, against another node; then it says so again.
	"srv/tools.sh": `ok() { echo "$1 works"; }
try() { until "$@"; do sleep 1; done; }
try sh -c 'psql -h db -U postgres -Atc "select 6*7" | grep -q 42' && ok psql
try sh -c 'redis-cli -h cache set k v | grep -q OK && redis-cli -h cache get k | grep -q v' && ok redis-cli
try sh -c 'curl -sS -m 120 http://web:8080/ | grep -q page' && ok curl
try sh -c 'ssh -p 2222 -i /srv/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IPQoS=none user@shell echo over | grep -q over' && ok ssh
while :; do sleep 5; done
`,
	"srv/neighbour.sh": `m=$(echo ` + small + ` | tr a-z A-Z)
while :; do
  for a in 10.20.0 10.20.1 10.20.2; do for n in 1 2 3 4 5; do for p in 5432 8080 6379 2222; do
    timeout 0.3 bash -c "echo $m > /dev/tcp/$a.$n/$p" 2>/dev/null && echo "reached $a.$n:$p"
  done; done; done
  echo round
  sleep 5
done
`,
	"srv/sshd_config": "Port 2222\nHostKey /srv/hostkey\nAuthorizedKeysFile /srv/authorized\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n",
}

// shopImage is a Debian with the programs people would use.
func shopImage(ctx context.Context, root string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	run := func(stdin string, name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", name, err, out[max(0, len(out)-2000):])
		}
		return nil
	}
	if err := run("", "debootstrap", "--variant=minbase", "--include=postgresql,redis-server,openssh-server,curl,python3", "bookworm", root); err != nil {
		return err
	}
	for name, text := range shopFiles {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	hba, err := os.OpenFile(filepath.Join(root, "etc/postgresql/15/main/pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = hba.WriteString("host all all 10.20.0.0/16 trust\nhost all all fc00::/7 trust\n")
	if err := errors.Join(err, hba.Close()); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(root, "var/cache/apt/archives/*.deb"))
	if err != nil {
		return err
	}
	for _, f := range archives {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return errors.Join(
		run("create table stock(item text);\ninsert into stock values ('"+small+"');\n",
			"chroot", "--userspec=101:104", root, "/usr/lib/postgresql/15/bin/postgres", "--single", "-D", "/var/lib/postgresql/15/main",
			"-c", "config_file=/etc/postgresql/15/main/postgresql.conf", "postgres"),
		run("", "chroot", root, "useradd", "--uid", "1000", "--home", "/srv", "user"),
		run("", "chroot", root, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/srv/hostkey"),
		run("", "chroot", root, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/srv/key"),
		run("", "chroot", root, "sh", "-c", "cp /srv/key.pub /srv/authorized && chown -R 1000:1000 /srv && mkdir -p /run/sshd"),
	)
}

// TestNetworks is three nodes, two of them behind different NATs: a page that
// needs a database on another node, a neighbour who has the same addresses, and
// all that passed on any link.
func TestNetworks(t *testing.T) {
	debian := make(chan error, 1)
	root := t.TempDir()
	go func() { debian <- shopImage(t.Context(), root) }()
	l := newLaboratory(t)
	capture := netlab.NewCapture(l.segments(), marker)
	w := startWorld(t, Options{Nodes: 3, Identity: "disk", Firmware: qemu.BIOS, Memory: 1024, Underlay: l})
	if err := <-debian; err != nil {
		t.Fatal(err)
	}
	h := w.hub()
	digest, m, _, err := flist.BuildDir(w.Context(), root, h, flist.Options{Config: &flist.Config{Cmd: []string{"/bin/bash"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.PutFlist(w.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	w.publish("shop", digest)

	shopID := w.deploy(shop)
	otherID := w.deploy(neighbour)
	visitor := w.running(shopID, "visitor", actTime)
	w.logWithin(bootTime, visitor.Slot, shopID, "visitor", "page: "+marker)
	tools := w.running(shopID, "tools", actTime)
	for _, tool := range []string{"psql", "redis-cli", "curl", "ssh"} {
		w.logWithin(bootTime, tools.Slot, shopID, "tools", tool+" works")
	}
	t.Run("TheNeighbourReachesNothing", func(t *testing.T) {
		w := w.with(t)
		for _, name := range []string{"a", "b", "c"} {
			r := w.running(otherID, name, actTime)
			w.log(r.Slot, otherID, name, "round")
			if seen := w.wholeLog(r.Slot, otherID, name); strings.Contains(seen, "reached") {
				t.Errorf("%s: %s", name, seen)
			}
		}
	})
	// Through one cone a direct path is found; between a symmetric router and one
	// that lets in only answers there is none, and the relay goes on.
	t.Run("ADirectPathIsFound", func(t *testing.T) {
		w := w.with(t)
		slots := w.g.founding.slotIDs
		w.eventually(actTime, "node-1 and node-3 talk directly", func(ctx context.Context) (bool, string, error) {
			seen := ""
			for _, pair := range [][2]canon.Hash{{slots[0], slots[2]}, {slots[2], slots[0]}} {
				s, err := w.c.NetworkStatus(ctx, pair[0], shopID, w.keys["red"])
				if err != nil {
					return false, err.Error(), transient(err)
				}
				for _, n := range s.Networks {
					for _, p := range n.Peers {
						if p.Slot == pair[1] {
							seen += p.Path + "; "
						}
					}
				}
			}
			return strings.Count(seen, "direct ") == 2, seen, nil
		})
	})
	t.Run("ANodeResetReturnsByItself", func(t *testing.T) {
		w := w.with(t)
		before := w.heartbeat(2)
		if err := w.g.machines[1].powerOff(); err != nil {
			t.Fatal(err)
		}
		w.g.machines[1].powerOn()
		w.rebooted(2, before)
		pages := strings.Count(w.wholeLog(visitor.Slot, shopID, "visitor"), "page: "+marker)
		w.eventually(actTime, "the page is back", func(context.Context) (bool, string, error) {
			now := strings.Count(w.wholeLog(visitor.Slot, shopID, "visitor"), "page: "+marker)
			return now > pages, fmt.Sprintf("%d pages, %d before", now, pages), nil
		})
	})
	t.Run("TheLinksCarryCiphertextAlone", func(t *testing.T) {
		if capture.Frames() == 0 {
			t.Fatal("the capture saw nothing")
		}
		for _, hit := range capture.Hits() {
			t.Errorf("plaintext: %s", hit)
		}
		for _, f := range capture.Unexpected(netlab.Neighbours, netlab.DHCP, l.allowed) {
			t.Errorf("a flow that nothing explains: %s on %s (%d frames)", f.Flow, f.Segment, f.Frames)
		}
	})
}

// wholeLog is what a workload has written so far.
func (w *world) wholeLog(slot, id canon.Hash, name string) string {
	w.Helper()
	var seen strings.Builder
	if err := w.c.Logs(w.Context(), slot, id, protocol.LogsParams{Workload: name}, w.keys["red"], func(r protocol.LogRecord) error {
		seen.Write(r.Data)
		seen.WriteByte('\n')
		return nil
	}); err != nil {
		w.Fatal(err)
	}
	return seen.String()
}
