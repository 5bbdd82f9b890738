package plan

import (
	"slices"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func TestAnyKindTellsItsPlacesInNetworks(t *testing.T) {
	place := func(network string) Attachment {
		return Attachment{Network: network, IPv4: "10.1.1.2", IPv6: "fd00::2", Aliases: []string{}, Allow: []Rule{}, Egress: EgressNone}
	}
	encode := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	two := []Attachment{place("back"), place("front")}
	route := func(network string, port uint16) Route {
		return Route{Mode: ModeTCP, Port: port, Network: network, Backends: []string{"web"}, Target: 80, Check: CheckNone}
	}
	for kind, c := range map[string]struct {
		config []byte
		want   []string
	}{
		KindContainer: {encode(Container{V: Version, Flist: canon.Hash{1}, Args: []string{"x"}, Env: []string{}, WorkDir: "/", Isolation: IsolationNamespace, Life: DefaultLife(), Networks: two}.Encode()), []string{"back", "front"}},
		KindVM:        {encode(VM{V: Version, Flist: canon.Hash{1}, Boot: BootKernel, Life: DefaultLife(), Networks: two}.Encode()), []string{"back", "front"}},
		KindGateway:   {encode(Gateway{V: Version, Addresses: []string{"198.51.100.9"}, Networks: two, Routes: []Route{route("back", 1), route("front", 2)}}.Encode()), []string{"back", "front"}},
		KindDevice:    {encode(Device{V: Version, Key: slices.Repeat([]byte{1}, 32), Account: canon.Hash{1}, Network: place("front")}.Encode()), []string{"front"}},
		KindNetwork:   {encode(NetworkConfig{V: Version, Network: "front"}.Encode()), nil},
	} {
		w := Workload{Name: "w", Kind: kind, Config: c.config}
		list, err := AttachmentsOf(w)
		var got []string
		for _, a := range list {
			got = append(got, a.Network)
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v, want %v", kind, got, err, c.want)
		}
		a, there, err := AttachmentIn(w, "front")
		if err != nil || there != slices.Contains(c.want, "front") || there && a.Network != "front" {
			t.Errorf("%s in front: %v, %t, %v", kind, a, there, err)
		}
		w.Config = []byte("torn")
		if _, err := AttachmentsOf(w); kind != KindNetwork && problem.Code(err) != "plan-invalid" {
			t.Errorf("%s, torn: %v", kind, err)
		}
	}
}
