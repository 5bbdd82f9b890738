package netlab_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// A machine behind a NAT gets an address and its boot file's URL from the
// site, fetches it over HTTP from the other side of the NAT, and does so again
// after it was moved to another site and reset.
func TestMachineBootsFromHTTPThroughANAT(t *testing.T) {
	const mac = "52:54:00:5a:00:01"
	lab := netlab.New(t)
	internet := lab.Segment("internet", "198.51.100.0/24")
	server := lab.Host("server", internet)
	dhcp := &netlab.DHCPConfig{BootFile: fmt.Sprintf("http://%s/boot.ipxe", server.AddrPort(80)), DNS: []string{"198.51.100.250"}, MTU: 1400}
	home := lab.Site("home", netlab.SiteConfig{WAN: internet, NAT: netlab.Symmetric, LAN: []string{"192.168.1.0/24"}, DHCP: dhcp})
	office := lab.Site("office", netlab.SiteConfig{WAN: internet, NAT: netlab.PortRestricted, LAN: []string{"10.9.0.0/16"}, DHCP: dhcp})

	type request struct {
		from string
		told url.Values
	}
	seen := make(chan request, 16)
	mux := http.NewServeMux()
	mux.HandleFunc("/boot.ipxe", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "#!ipxe\nimgfetch http://"+r.Host+"/told?ip=${net0/ip}&gateway=${net0/gateway}&netmask=${net0/netmask}&dns=${net0/dns}&mtu=${net0/26:uint16} || exit\n"+
			"prompt --key 0x02 --timeout 600000 waiting")
	})
	mux.HandleFunc("/told", func(w http.ResponseWriter, r *http.Request) {
		seen <- request{r.RemoteAddr, r.URL.Query()}
	})
	l := server.Listen("tcp", ":80")
	srv := &http.Server{Handler: mux}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		<-ended
	})

	place := home.Machine("node1")
	m := vmtest.NewMachine(t, qemu.Config{Name: "node1", MemoryMB: 128, Extra: place.QEMUArgs(mac)})
	for _, site := range []*netlab.Site{home, office} {
		select {
		case r := <-seen:
			want := site.Reserve(mac)
			if r.told.Get("ip") != want.String() || r.told.Get("dns") != "198.51.100.250" || r.told.Get("mtu") != "0x578" {
				t.Errorf("the machine was told %v, want address %s", r.told, want)
			}
			var from string
			if _, err := fmt.Sscanf(r.from, "%s", &from); err != nil || from[:len(site.Outer(true).String())] != site.Outer(true).String() {
				t.Errorf("request from %s, want %s", r.from, site.Outer(true))
			}
		case <-time.After(3 * time.Minute):
			t.Fatal("the machine did not ask for its boot file")
		}
		if site == home {
			place.Move(office.LAN)
			if err := m.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !place.Connected() {
		t.Error("the machine is not connected")
	}
}
