package rendezvous

import (
	"strings"
	"testing"

	"github.com/zero-os/zos/problem"
)

func TestAddresses(t *testing.T) {
	pin := strings.Repeat("0123456789abcdef", 4)
	for raw, want := range map[string]string{
		"tls://relay.example:443":                         "relay.example:443",
		"tls://relay.example:443#" + pin:                  "relay.example:443",
		"tls://192.0.2.1:65535#" + pin:                    "192.0.2.1:65535",
		"tls://[2001:db8::1]:443#" + pin:                  "[2001:db8::1]:443",
		"tls://relay.example:443#" + strings.ToUpper(pin): "relay.example:443",
	} {
		a, err := ParseURL(raw)
		if err != nil || a.Host != want || (len(a.Pin) == 32) != strings.Contains(raw, "#") {
			t.Errorf("%s: %+v, %v", raw, a, err)
			continue
		}
		if again, err := ParseURL(a.String()); err != nil || again.String() != a.String() {
			t.Errorf("%s: %s does not read back", raw, a)
		}
	}
	for _, raw := range []string{
		"", "x", "tls://", "tls://host", "tls://host:", "tls://:443", "tls://host:0", "tls://host:65536", "tls://host:http",
		"nats://host:1", "https://host:1", "tls://user@host:1", "tls://host:1/path", "tls://host:1?q", "tls://host:1#ab",
		"tls://host:1#" + pin + "00", "tls://host:1#" + strings.Repeat("x", 64), "tls:host:1", "tls://host:1/" + strings.Repeat("x", 600),
	} {
		if a, err := ParseURL(raw); problem.Code(err) != "url-invalid" {
			t.Errorf("%q: %+v, %v", raw, a, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("tls://[::1]:443#" + strings.Repeat("ab", 32))
	f.Fuzz(func(t *testing.T, raw string) {
		a, err := ParseURL(raw)
		if err != nil {
			return
		}
		if b, err := ParseURL(a.String()); err != nil || b.String() != a.String() {
			t.Fatalf("%q gives %q, which gives %v", raw, a, err)
		}
	})
}

func TestWaysAreChosen(t *testing.T) {
	ms := func(n int64) int64 { return n * 1e6 }
	up := func(udp, bad bool, rtt int64) candidate {
		return candidate{up: true, present: true, udp: udp, bad: bad, rtt: rtt}
	}
	for _, tc := range []struct {
		name string
		now  int
		ways []candidate
		want int
	}{
		{"nothing", -1, nil, -1},
		{"no link", 0, []candidate{{}}, -1},
		{"nowhere", 0, []candidate{{up: true}, {up: true}}, -1},
		{"present but down", 0, []candidate{{present: true, rtt: 1}}, -1},
		{"the only one", -1, []candidate{{up: true}, up(false, false, 0)}, 1},
		{"the only one, though bad", -1, []candidate{{up: true}, up(false, true, 0)}, 1},
		{"shorter", -1, []candidate{up(false, false, ms(50)), up(false, false, ms(10))}, 1},
		{"measured", -1, []candidate{up(false, false, 0), up(false, false, ms(10))}, 1},
		{"UDP before a shorter TLS", -1, []candidate{up(false, false, ms(10)), up(true, false, ms(50))}, 1},
		{"whole TLS before lossy UDP", 1, []candidate{up(false, false, ms(50)), up(true, true, ms(10))}, 0},
		{"hardly shorter", 0, []candidate{up(false, false, ms(50)), up(false, false, ms(45))}, 0},
		{"shorter by far", 0, []candidate{up(false, false, ms(50)), up(false, false, ms(30))}, 1},
		{"shorter by little on a short one", 0, []candidate{up(false, false, ms(2)), up(false, false, ms(1))}, 0},
		{"the present one fell", 0, []candidate{{}, up(false, false, ms(50))}, 1},
		{"the present one lost packets", 0, []candidate{up(false, true, ms(1)), up(false, false, ms(50))}, 1},
		{"the present one got UDP", 0, []candidate{up(true, false, ms(50)), up(false, false, ms(1))}, 0},
		{"a link that is not", 7, []candidate{up(false, false, ms(50))}, 0},
	} {
		if got := best(tc.now, tc.ways); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}
