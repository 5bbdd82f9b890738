package contract

import (
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

func TestDescriptionShowsEverythingThatIsSigned(t *testing.T) {
	w := newWorld(t)
	a := w.deploy("hello", w.job("web", w.slots[0]))
	s := w.approve(a)
	lines, err := Describe(s.Statement)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(lines, "\n")
	for _, want := range []string{
		s.ID().String(), KindApproval, w.grid.String(), w.group.String(), `"deploy"`, `"hello"`, "2027-01-16T08:00:00Z",
		plan.Hash(a.Plan).String(), `"web"`, w.slots[0].String(), canon.Sum([]byte("flist")).String(), `"/hello"`, `"A=1"`,
		"1.000 cores", "1024.0 MiB", `"always"`, "no_new_privs", "true",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
	again, err := Describe(s.Statement)
	if err != nil || !slices.Equal(lines, again) {
		t.Errorf("a second description differs: %v", err)
	}
}

// Every single field of every kind shows: changing it changes the description.
func TestDescriptionDependsOnEveryByte(t *testing.T) {
	w := newWorld(t)
	for name, s := range w.signed {
		first, err := Describe(s.Statement)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range s.Statement {
			b := slices.Clone(s.Statement)
			b[i] ^= 1
			if lines, err := Describe(b); err == nil && slices.Equal(lines, first) {
				t.Errorf("%s: byte %d can be altered unseen", name, i)
			}
			// The hash apart, which would differ anyway.
			if lines, err := Describe(b); err == nil && slices.Equal(lines[1:], first[1:]) {
				t.Errorf("%s: byte %d shows in the hash only", name, i)
			}
		}
	}
}

// TestDescriptionShowsWhoReachesWhom: what approvers decide about networks is
// there in words, one that is empty included.
func TestDescriptionShowsWhoReachesWhom(t *testing.T) {
	w := newWorld(t)
	s := w.approve(w.wired("hello"))
	lines, err := Describe(s.Statement)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(lines, "\n")
	for _, want := range []string{
		`    name           "back"`, `"10.20.0.0/16"`, `"fd00:20::/48"`, "      slot           " + w.slots[1].String(), `"10.20.1.0/24"`,
		"    exit           " + w.slots[0].String(), `kind           "network"`, `"10.20.1.2"`, `"fd00:20:0:1::2"`,
		`egress         "exit"`, "bandwidth      100000000 (100.000 Mbit/s each way)", "bandwidth      0 (no limit)",
		"open           true (everyone in the network reaches every port)", "open           false (others in the network reach only what allow says)",
		"aliases-1      \"postgres\"",
		"        allow-1\n          protocol       \"tcp\"\n          first          5432\n          last           5432\n          peers-1        \"web\"",
		"        allow-2\n          protocol       \"icmp\"\n          first          0\n          last           0\n          peers          everyone in the network",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
	for i := range s.Statement {
		b := slices.Clone(s.Statement)
		b[i] ^= 1
		if lines, err := Describe(b); err == nil && strings.Join(lines[1:], "\n") == strings.Join(strings.Split(text, "\n")[1:], "\n") {
			t.Errorf("byte %d can be altered unseen", i)
		}
	}
}

func TestDescribedTextCannotPretendToBeALine(t *testing.T) {
	w := newWorld(t)
	a := w.deploy("hello", w.job("web", w.slots[0]))
	a.Action = "deploy\n  action  \"cancel\"\x1b[2J\u202e"
	lines, err := Describe(w.approve(a).Statement)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		for _, c := range []byte(l) {
			if c < 0x20 || c > 0x7e {
				t.Fatalf("a line holds %#x: %q", c, l)
			}
		}
	}
	weird, err := canon.Marshal(map[string]any{"v": 1, "kind": "x", "evil\nname": []any{-1, nil, true, []byte{1}, map[string]any{"plan": []byte("?")}}})
	if err != nil {
		t.Fatal(err)
	}
	if lines, err = Describe(weird); err != nil || strings.Contains(strings.Join(lines, ""), "\n") {
		t.Errorf("%q, %v", lines, err)
	}
}

func FuzzDescribe(f *testing.F) {
	w := newWorld(f)
	for _, name := range []string{"red", "demo", "farm", "n1", "consent"} {
		f.Add(w.signed[name].Statement)
	}
	f.Add(w.approve(w.deploy("hello", w.job("web", w.slots[0]))).Statement)
	f.Add(w.approve(w.wired("wired")).Statement)
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, err := Describe(b)
		if err != nil {
			return
		}
		for _, l := range lines {
			for _, c := range []byte(l) {
				if c < 0x20 || c > 0x7e {
					t.Fatalf("a line holds %#x: %q", c, l)
				}
			}
		}
	})
}

// TestDescriptionShowsWhoElseHasAnAddress of a gateway.
func TestDescriptionShowsWhoElseHasAnAddress(t *testing.T) {
	for leased, want := range map[bool]string{
		true: "leased         true (no other contract has these addresses)", false: "leased         false (these addresses are shared with other contracts)",
	} {
		b, err := canon.Marshal(map[string]any{"v": 1, "kind": "x", "leased": leased})
		if err != nil {
			t.Fatal(err)
		}
		if lines, err := Describe(b); err != nil || !slices.Contains(lines, want) {
			t.Errorf("%q, %v, want %q", lines, err, want)
		}
	}
}
