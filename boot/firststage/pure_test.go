package firststage

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

func slots(hints ...string) []Slot {
	var all []Slot
	for i, h := range hints {
		all = append(all, Slot{Slot: contract.Slot{Name: string(rune('a' + i)), Hint: h}, ID: canon.Sum([]byte(h))})
	}
	return all
}

func TestExactlyOneSlotMustNameTheMachine(t *testing.T) {
	m := Machine{MACs: []string{"52:54:00:00:00:01", "52:54:00:00:00:02"}, UUID: "11111111-2222-3333-4444-555555555555"}
	for name, c := range map[string]struct {
		slots []Slot
		m     Machine
		want  string // slot's name or problem code
	}{
		"by the first card":       {slots("mac:52:54:00:00:00:01"), m, "a"},
		"by any card":             {slots("mac:52:54:00:00:00:09", "mac:52:54:00:00:00:02"), m, "b"},
		"by upper case":           {slots("MAC:52:54:00:00:00:01"), m, "a"},
		"by SMBIOS":               {slots("smbios:11111111-2222-3333-4444-555555555555"), m, "a"},
		"by SMBIOS in upper case": {slots("smbios:AAAAAAAA-2222-3333-4444-555555555555"), Machine{UUID: "aaaaaaaa-2222-3333-4444-555555555555"}, "a"},
		"no slots":                {nil, m, "slot-missing"},
		"another machine":         {slots("mac:52:54:00:00:00:03"), m, "slot-missing"},
		"two slots":               {slots("mac:52:54:00:00:00:01", "mac:52:54:00:00:00:02"), m, "slot-ambiguous"},
		"card and SMBIOS differ":  {slots("mac:52:54:00:00:00:01", "smbios:11111111-2222-3333-4444-555555555555"), m, "slot-ambiguous"},
		"empty hint":              {slots(""), m, "slot-missing"},
		"empty SMBIOS, none here": {slots("smbios:"), Machine{MACs: []string{"x"}}, "slot-missing"},
		"empty MAC, none here":    {slots("mac:"), Machine{MACs: []string{""}}, "slot-missing"},
		"part of a MAC":           {slots("mac:52:54:00"), m, "slot-missing"},
		"another kind of hint":    {slots("name:52:54:00:00:00:01"), m, "slot-missing"},
	} {
		got, err := MatchSlot(c.slots, c.m)
		have := got.Name
		if err != nil {
			have = problem.Code(err)
			if problem.Fix(err) == "" {
				t.Errorf("%s: the error names no fix", name)
			}
		}
		if have != c.want {
			t.Errorf("%s: %q (%v), want %q", name, have, err, c.want)
		}
	}
}

func TestMeaninglessSMBIOSIdsNameNothing(t *testing.T) {
	for _, s := range []string{"", "00000000-0000-0000-0000-000000000000\n", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "Not Settable"} {
		if got := usableUUID(s); got != "" {
			t.Errorf("%q is taken as %q", s, got)
		}
	}
	if got := usableUUID("AAAAAAAA-2222-3333-4444-555555555555\n"); got != "aaaaaaaa-2222-3333-4444-555555555555" {
		t.Errorf("got %q", got)
	}
}

func TestClockNeverStandsBelowItsFloorNorFollowsAnyServer(t *testing.T) {
	floor := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	for name, c := range map[string]struct {
		now, network, want time.Time
		source             string
		refused            bool
	}{
		"right clock":                  {floor.Add(day), time.Time{}, floor.Add(day), FromRTC, false},
		"dead clock":                   {time.Unix(0, 0), time.Time{}, floor, FromFloor, false},
		"dead clock, network":          {time.Unix(0, 0), floor.Add(day), floor.Add(day), FromNTP, false},
		"network a bit ahead":          {floor.Add(day), floor.Add(day + time.Second), floor.Add(day + time.Second), FromNTP, false},
		"network behind":               {floor.Add(2 * day), floor.Add(day), floor.Add(2 * day), FromRTC, false},
		"network below the floor":      {floor.Add(-day), floor.Add(-2 * day), floor, FromFloor, false},
		"network rolls back to revive": {floor.Add(10 * day), time.Unix(1, 0), floor.Add(10 * day), FromRTC, false},
		"network far ahead":            {floor.Add(day), floor.Add(maxForward + day), floor.Add(day), FromRTC, true},
		"network at the bound":         {floor.Add(day), floor.Add(maxForward), floor.Add(maxForward), FromNTP, false},
	} {
		got, source, err := DecideClock(c.now, floor, c.network)
		if !got.Equal(c.want) || source != c.source || (err != nil) != c.refused {
			t.Errorf("%s: %s by %s, %v; want %s by %s", name, got, source, err, c.want, c.source)
		}
		if got.Before(floor) {
			t.Errorf("%s: below the floor", name)
		}
	}
}

func TestUnexpectedKernelParametersAreShown(t *testing.T) {
	for cmdline, want := range map[string][]string{
		"": nil,
		"console=ttyS0 lockdown=integrity module.sig_enforce=1 quiet initrd=initrd.img initrd=grid.img": nil,
		"console=ttyS0 init=/bin/sh":                          {"init=/bin/sh"},
		"rdinit=/x\tsingle 3 console=tty0\n":                  {"rdinit=/x", "single", "3"},
		`console=ttyS0 x="a b" y`:                             {"x=a b", "y"},
		"consolex=1 xconsole=1 Console=1":                     {"consolex=1", "xconsole=1", "Console=1"},
		"evil=\x1b[2J\x00next":                                {"evil=?[2J", "next"},
		strings.Repeat("a ", 40):                              slices.Repeat([]string{"a"}, 16),
		"k=" + strings.Repeat("v", 100):                       {"k=" + strings.Repeat("v", 75) + "…"},
		"module_blacklist=tpm " + strings.Repeat("x", 100000): {"module_blacklist=tpm", strings.Repeat("x", 77) + "…"},
	} {
		if got := IgnoredParameters(cmdline); !slices.Equal(got, want) {
			t.Errorf("%.60q: %q, want %q", cmdline, got, want)
		}
	}
}

func FuzzIgnoredParameters(f *testing.F) {
	f.Add("console=ttyS0 init=/bin/sh")
	f.Add(`a="b c" "" " `)
	f.Add("\xff\xfe\x1b]0;x\x07")
	f.Fuzz(func(t *testing.T, s string) {
		got := IgnoredParameters(s)
		if len(got) > 16 {
			t.Errorf("%d parameters", len(got))
		}
		for _, g := range got {
			if len(g) > 84 || !utf8.ValidString(g) || strings.ContainsAny(g, "\x1b\r\n\x00") {
				t.Errorf("not fit for a console: %q", g)
			}
		}
	})
}

func TestLockdownIsReadFromItsBrackets(t *testing.T) {
	for s, want := range map[string]string{"none [integrity] confidentiality": "integrity", "[none] integrity": "none", "": "none", "[": ""} {
		if got := selected(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestLeaseIsRenewedAtHalfItsTimeWhateverTheClockDid(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	n := boot.Network{Lease: 3600, Since: uint64(start.Unix())}
	for name, c := range map[string]struct {
		now  time.Time
		want time.Duration
	}{
		"at once":              {start, 30 * time.Minute},
		"later":                {start.Add(10 * time.Minute), 20 * time.Minute},
		"too late":             {start.Add(2 * time.Hour), 0},
		"clock stepped back":   {start.Add(-24 * time.Hour), 30 * time.Minute},
		"clock stepped far on": {start.Add(1000 * time.Hour), 0},
	} {
		if got := renewIn(n, c.now); got != c.want {
			t.Errorf("%s: in %s, want %s", name, got, c.want)
		}
	}
	if got := renewIn(boot.Network{Lease: 1<<64 - 1, Since: 1<<64 - 1}, start); got < 0 {
		t.Errorf("nonsense: in %s", got)
	}
}
