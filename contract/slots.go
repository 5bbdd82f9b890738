package contract

import (
	"net"
	"sort"
	"strings"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// Identities of a slot: where its node's keys live.
const (
	IdentityDisk = "disk"
	IdentityTPM  = "tpm"
	IdentityNone = "none" // fresh at each boot
)

// slot founds a slot: signed by its farm alone, under a name that is free
// within the farm.
func (l *ledger) slot(s Signed) (Result, error) {
	sl, id, keys, err := Open[Slot](s, KindSlot, l.grid)
	if err != nil {
		return Result{}, err
	}
	if err := l.byFarm(sl.Farm, keys); err != nil {
		return Result{}, err
	}
	if err := sl.Validate(); err != nil {
		return Result{}, err
	}
	if err := l.absent(KeySlot(id)); err != nil {
		return Result{}, err
	}
	if err := claimName(l.st, KeySlotName(sl.Farm, sl.Name), sl.Name, id); err != nil {
		return Result{}, err
	}
	return Result{}, store(l.st, KeySlot(id), SlotRecord{Signed: s, Time: l.now})
}

// Validate checks what can be known of s without the ledger; code
// "slot-invalid".
func (s Slot) Validate() error {
	bad := func(format string, args ...any) error {
		return problem.New("slot-invalid", "slot %.63q: "+format, append([]any{s.Name}, args...)...)
	}
	if !ValidName(s.Name) {
		return problem.New("name-invalid", "slot name %.80q: want [a-z0-9-], 1 to 63 characters", s.Name)
	}
	if !validHint(s.Hint) {
		return bad("hint %.80q is neither mac:aa:bb:cc:dd:ee:ff nor smbios:<uuid>, in lower case", s.Hint)
	}
	if len(s.Disks) > MaxDisks {
		return bad("%d disks, at most %d are allowed", len(s.Disks), MaxDisks)
	}
	if !sort.StringsAreSorted(s.Disks) {
		return bad("disk serials are not sorted")
	}
	for i, d := range s.Disks {
		if !printable(d, 1, MaxText) || i > 0 && s.Disks[i-1] == d {
			return bad("disk serial %.80q is empty, too long, not printable or stands twice", d)
		}
	}
	if s.Identity != IdentityDisk && s.Identity != IdentityTPM && s.Identity != IdentityNone {
		return bad("identity %.20q: want disk, tpm or none", s.Identity)
	}
	if c := s.Capacity; c.CPU < 1 || c.Memory < 1 || !c.Within(maxCapacity) {
		return bad("capacity %s is out of range", c)
	}
	return nil
}

var maxCapacity = Capacity{CPU: plan.MaxAmount, Memory: plan.MaxAmount, Disk: plan.MaxAmount}

func validHint(hint string) bool {
	if mac, ok := strings.CutPrefix(hint, "mac:"); ok {
		hw, err := net.ParseMAC(mac)
		return err == nil && len(hw) == 6 && hw.String() == mac
	}
	uuid, ok := strings.CutPrefix(hint, "smbios:")
	if !ok || len(uuid) != 36 {
		return false
	}
	for i, c := range []byte(uuid) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := c >= '0' && c <= '9' || c >= 'a' && c <= 'f'
		if dash && c != '-' || !dash && !hex {
			return false
		}
	}
	return true
}

// printable tells whether s has between lo and hi bytes, all of them ASCII
// that prints: text that is shown can't hide or move anything on a terminal.
func printable(s string, lo, hi int) bool {
	if len(s) < lo || len(s) > hi {
		return false
	}
	for _, c := range []byte(s) {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}
