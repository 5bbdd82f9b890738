package firststage

import (
	"fmt"
	"slices"
	"strings"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Grid is a verified archive.
type Grid struct {
	boot.Archive
	ID     canon.Hash
	Farm   contract.Farm
	FarmID canon.Hash
	Slots  []Slot
}

// Slot is a slot with its id.
type Slot struct {
	contract.Slot
	ID canon.Hash
}

// OpenArchive reads and verifies the grid's archive: the farm signed itself, and
// every slot is the farm's own. Who trusts the boot source trusts the genesis in
// it; everything else follows from there.
func OpenArchive(b []byte) (Grid, error) {
	fail := func(what string, err error) (Grid, error) {
		return Grid{}, problem.New("archive-damaged", "%s in the grid's archive: %w", what, err).
			WithFix("let the boot source serve the archive that zos boot image made")
	}
	var g Grid
	var err error
	if g.Archive, err = boot.DecodeArchive(b); err != nil {
		return Grid{}, err
	}
	g.ID = canon.Sum(g.Genesis)
	farm, id, keys, err := contract.Open[contract.Farm](g.Archive.Farm, contract.KindFarm, g.ID)
	if err == nil {
		err = signedOnlyBy(keys, farm.Key)
	}
	if err != nil {
		return fail("verify the farm", err)
	}
	g.Farm, g.FarmID = farm, id
	for i, s := range g.Archive.Slots {
		slot, id, keys, err := contract.Open[contract.Slot](s, contract.KindSlot, g.ID)
		if err == nil {
			err = signedOnlyBy(keys, farm.Key)
		}
		if err == nil && slot.Farm != g.FarmID {
			err = fmt.Errorf("it is of farm %s, not %s", slot.Farm.Short(), g.FarmID.Short())
		}
		if err != nil {
			return fail(fmt.Sprintf("verify slot %d", i+1), err)
		}
		g.Slots = append(g.Slots, Slot{Slot: slot, ID: id})
	}
	return g, nil
}

func signedOnlyBy(keys []sign.PublicKey, key []byte) error {
	if len(keys) != 1 || !keys[0].Equal(sign.PublicKey(key)) {
		return fmt.Errorf("it is not signed by the farm's key, and by that alone")
	}
	return nil
}

// Machine is what a slot's hint can name a machine by.
type Machine struct {
	MACs []string // lower case, colons
	UUID string   // SMBIOS product UUID, lower case; empty if the firmware has none
}

// MatchSlot finds the slot of this machine. Exactly one must name it.
func MatchSlot(slots []Slot, m Machine) (Slot, error) {
	var found []Slot
	for _, s := range slots {
		kind, value, _ := strings.Cut(strings.ToLower(s.Hint), ":")
		switch kind {
		case "mac":
			if value != "" && slices.Contains(m.MACs, value) {
				found = append(found, s)
			}
		case "smbios":
			if value != "" && value == strings.ToLower(m.UUID) {
				found = append(found, s)
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Slot{}, problem.New("slot-missing", "none of the farm's %d slots names this machine: %s", len(slots), m).
			WithFix("let the farm sign a slot with one of these hints and make a new archive")
	}
	names := make([]string, len(found))
	for i, s := range found {
		names[i] = s.Name
	}
	return Slot{}, problem.New("slot-ambiguous", "slots %s all name this machine: %s", strings.Join(names, ", "), m).
		WithFix("let the farm give each machine one slot")
}

// String lists the hints under which the machine could be named.
func (m Machine) String() string {
	var hints []string
	for _, mac := range m.MACs {
		hints = append(hints, "mac:"+mac)
	}
	if m.UUID != "" {
		hints = append(hints, "smbios:"+m.UUID)
	}
	if len(hints) == 0 {
		return "it has no network card and no SMBIOS id"
	}
	return strings.Join(hints, " ")
}
