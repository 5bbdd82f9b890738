package firststage

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const big = 1 << 40

func TestOnlyNamedOrLabelledDisksAreTouched(t *testing.T) {
	named := []string{"A", "B"}
	disk := func(serial string, c Content) Candidate {
		return Candidate{Device: "/dev/" + serial, Serial: serial, Size: big, Content: c}
	}
	type row struct {
		name  string
		disks []Candidate
		want  []string // "device use", in the order of trying
	}
	for _, r := range []row{
		{"nothing", nil, nil},
		// One disk, each content, named and not.
		{"named, blank", []Candidate{disk("A", Blank)}, []string{"/dev/A format"}},
		{"named, foreign", []Candidate{disk("A", Foreign)}, []string{"/dev/A format"}},
		{"named, another slot's", []Candidate{disk("A", OtherSlot)}, []string{"/dev/A format"}},
		{"named, damaged", []Candidate{disk("A", Damaged)}, []string{"/dev/A format"}},
		{"named, ours", []Candidate{disk("A", Ours)}, []string{"/dev/A mount or format"}},
		{"not named, blank", []Candidate{disk("X", Blank)}, []string{"/dev/X leave"}},
		{"not named, foreign", []Candidate{disk("X", Foreign)}, []string{"/dev/X leave"}},
		{"not named, another slot's", []Candidate{disk("X", OtherSlot)}, []string{"/dev/X leave"}},
		{"not named, damaged", []Candidate{disk("X", Damaged)}, []string{"/dev/X leave"}},
		{"not named, ours", []Candidate{disk("X", Ours)}, []string{"/dev/X mount"}},
		// Disks that can't serve.
		{"read-only", []Candidate{{Device: "/dev/A", Serial: "A", Size: big, ReadOnly: true, Content: Ours}}, []string{"/dev/A leave"}},
		{"too small", []Candidate{{Device: "/dev/A", Serial: "A", Size: MinDisk - 1, Content: Blank}}, []string{"/dev/A leave"}},
		{"unreadable is never formatted", []Candidate{{Device: "/dev/A", Serial: "A", Size: big, Err: errors.New("input/output error")}}, []string{"/dev/A leave"}},
		// Attacks.
		{"no serial matches no name", []Candidate{{Device: "/dev/x", Size: big, Content: Foreign}}, []string{"/dev/x leave"}},
		{"a stick claims a named disk's serial", []Candidate{disk("A", Foreign), {Device: "/dev/stick", Serial: "A", Size: big, Content: Foreign}},
			[]string{"/dev/A leave", "/dev/stick leave"}},
		{"… and our disk among the two is still used, not formatted", []Candidate{{Device: "/dev/stick", Serial: "A", Size: big, Content: Foreign}, disk("A", Ours)},
			[]string{"/dev/A mount", "/dev/stick leave"}},
		{"a copy of our disk beside it, neither named", []Candidate{disk("X", Ours), disk("Y", Ours)}, []string{"/dev/X leave", "/dev/Y leave"}},
		{"a copy of our named disk", []Candidate{disk("X", Ours), disk("A", Ours)}, []string{"/dev/A mount or format", "/dev/X mount"}},
		{"a serial that a name begins with", []Candidate{disk("AB", Foreign), disk("a", Foreign)}, []string{"/dev/AB leave", "/dev/a leave"}},
		// Order.
		{"data that is there before the farm's order", []Candidate{disk("A", Foreign), disk("B", Ours)}, []string{"/dev/B mount or format", "/dev/A format"}},
		{"the farm's order", []Candidate{disk("B", Blank), disk("A", Blank)}, []string{"/dev/A format", "/dev/B format"}},
	} {
		t.Run(r.name, func(t *testing.T) {
			var got []string
			for _, c := range ChooseDisks(r.disks, named) {
				got = append(got, c.Device+" "+c.Use.String())
				if c.Why == "" {
					t.Errorf("%s: no reason", c.Device)
				}
			}
			if !slices.Equal(got, r.want) {
				t.Errorf("got %q, want %q", got, r.want)
			}
		})
	}
}

func TestEmptyNameInASlotNamesNoDisk(t *testing.T) {
	for _, c := range ChooseDisks([]Candidate{{Device: "/dev/x", Size: big, Content: Foreign}}, []string{""}) {
		if c.Use != Leave {
			t.Errorf("a disk without serial would be used: %s", c.Use)
		}
	}
}

// The rule in other words, over any set of disks: what may be formatted is named
// and readable, and its serial is its own.
func TestWhatMayBeFormattedIsAlwaysNamed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		serials := rapid.SampledFrom([]string{"", "A", "B", "X"})
		contents := rapid.SampledFrom([]Content{Blank, Foreign, OtherSlot, Damaged, Ours})
		disks := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Candidate {
			c := Candidate{
				Serial: serials.Draw(t, "serial"), Content: contents.Draw(t, "content"),
				Size: rapid.SampledFrom([]uint64{0, MinDisk, big}).Draw(t, "size"), ReadOnly: rapid.Bool().Draw(t, "ro"),
			}
			if rapid.IntRange(0, 5).Draw(t, "broken") == 0 {
				c.Err = errors.New("broken")
			}
			return c
		}), 0, 6).Draw(t, "disks")
		named := rapid.SliceOfN(serials, 0, 3).Draw(t, "named")
		choices := ChooseDisks(disks, named)
		if len(choices) != len(disks) {
			t.Fatalf("%d choices for %d disks", len(choices), len(disks))
		}
		for _, c := range choices {
			same := 0
			for _, d := range disks {
				if d.Serial == c.Serial {
					same++
				}
			}
			usable := c.Err == nil && !c.ReadOnly && c.Size >= MinDisk
			isNamed := c.Serial != "" && slices.Contains(named, c.Serial) && same == 1
			switch c.Use {
			case Format, MountOrFormat:
				if !usable || !isNamed {
					t.Errorf("%s would be formatted: %+v", c.Use, c)
				}
			case Mount:
				if !usable || c.Content != Ours {
					t.Errorf("would be mounted: %+v", c)
				}
			case Leave:
				if usable && isNamed {
					t.Errorf("a named disk is left: %s", c.Why)
				}
			}
		}
	})
}

func TestReasonsSpeakOfTheDisk(t *testing.T) {
	c := ChooseDisks([]Candidate{{Device: "/dev/vdb", Serial: "X", Size: big, Content: Foreign}}, []string{"A"})[0]
	if !strings.Contains(c.Why, "not named by the farm") || !strings.Contains(c.Why, "foreign data") {
		t.Errorf("reason is %q", c.Why)
	}
}
