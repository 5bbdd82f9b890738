package firststage

import (
	"cmp"
	"fmt"
	"slices"
)

// Candidate is a disk of this machine as far as the decision needs it.
type Candidate struct {
	Device   string
	Serial   string // empty: the disk has none
	Size     uint64 // bytes
	ReadOnly bool
	Content  Content
	Err      error // why Content could not be read; then Content means nothing
}

// Use is what may be done with a disk. Its order is that of preference.
type Use int

const (
	// Mount: it is ours; if it can't be mounted, nothing else may be done.
	Mount Use = iota
	// MountOrFormat: it is ours and named; if its file system is damaged, make a new one.
	MountOrFormat
	// Format: the farm named it; what is on it goes.
	Format
	// Leave: it is not touched, not even mounted for reading.
	Leave
)

func (u Use) String() string {
	return [...]string{"mount", "mount or format", "format", "leave"}[u]
}

// Choice is what may be done with one disk, and why.
type Choice struct {
	Candidate
	Use Use
	Why string
}

// MinDisk is the smallest disk worth using, in bytes.
const MinDisk = 256 << 20

// ChooseDisks decides what may be done with every disk of this machine, in the
// order in which they should be tried. named are the serials of the slot, which
// the farm signed.
//
// This is the whole rule: a disk is written to only if the farm named its serial
// or if it carries this slot's own label, and it is formatted only if named. A
// serial that two disks claim names neither, since one of them lies. Two
// labelled disks of which none is named are copies of each other, and none is
// used: the wrong one may be older.
func ChooseDisks(disks []Candidate, named []string) []Choice {
	rank := func(serial string) int {
		if serial == "" {
			return -1
		}
		return slices.Index(named, serial)
	}
	count := map[string]int{}
	for _, d := range disks {
		count[d.Serial]++
	}
	isNamed := func(d Candidate) bool { return rank(d.Serial) >= 0 && count[d.Serial] == 1 }
	labelled := 0 // disks of ours that are not named
	for _, d := range disks {
		if d.Err == nil && d.Content == Ours && !isNamed(d) {
			labelled++
		}
	}
	choices := make([]Choice, 0, len(disks))
	for _, d := range disks {
		c := Choice{Candidate: d, Use: Leave}
		switch {
		case d.Err != nil:
			c.Why = fmt.Sprintf("cannot be read: %v", d.Err)
		case d.ReadOnly:
			c.Why = "is read-only"
		case d.Size < MinDisk:
			c.Why = fmt.Sprintf("has %d MiB, at least %d are needed", d.Size>>20, MinDisk>>20)
		case isNamed(d) && d.Content == Ours:
			c.Use, c.Why = MountOrFormat, "carries this slot's label and is named by the farm"
		case isNamed(d):
			c.Use, c.Why = Format, fmt.Sprintf("is named by the farm (%s)", d.Content)
		case d.Content == Ours && labelled > 1:
			c.Why = "carries this slot's label, and so does another disk"
		case d.Content == Ours:
			c.Use, c.Why = Mount, "carries this slot's label"
		case rank(d.Serial) >= 0:
			c.Why = fmt.Sprintf("has serial %s, and so has another disk", d.Serial)
		case d.Content == Damaged:
			c.Why = "carries this slot's label but is damaged, and the farm did not name it"
		default:
			c.Why = fmt.Sprintf("is not named by the farm (%s)", d.Content)
		}
		choices = append(choices, c)
	}
	slices.SortStableFunc(choices, func(a, b Choice) int {
		// Data that is there comes before data that would have to be fetched
		// again; among equals the farm's order decides.
		ours := func(c Choice) int {
			switch c.Use {
			case Mount, MountOrFormat:
				return 0
			case Format:
				return 1
			}
			return 2
		}
		return cmp.Or(cmp.Compare(ours(a), ours(b)), cmp.Compare(order(rank(a.Serial)), order(rank(b.Serial))))
	})
	return choices
}

// order puts what is not named behind what is.
func order(rank int) int {
	if rank < 0 {
		return 1 << 30
	}
	return rank
}
