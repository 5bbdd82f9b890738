package firststage

import (
	"fmt"
	"time"
)

// maxForward is how far ahead of its floor network time may put a clock. Time
// servers are not trusted: without a bound one of them could make every release
// look expired.
const maxForward = 3 * 365 * 24 * time.Hour

// Sources of the clock.
const (
	FromRTC     = "rtc"
	FromFloor   = "floor"
	FromNTP     = "ntp"
	FromRelease = "release"
)

// DecideClock returns the time at which the clock should stand and where that
// comes from. now is what the machine's own clock says, floor a time that has
// certainly passed, network what a time server says (zero: none answered).
//
// The clock never stands below floor, and network time moves it only forward.
func DecideClock(now, floor, network time.Time) (time.Time, string, error) {
	t, source := now, FromRTC
	if now.Before(floor) {
		t, source = floor, FromFloor
	}
	if network.IsZero() || !network.After(t) {
		return t, source, nil
	}
	if network.After(floor.Add(maxForward)) {
		return t, source, fmt.Errorf("the time server says %s, more than %d days after these boot files were made: not believed",
			network.UTC().Format(time.DateOnly), maxForward/(24*time.Hour))
	}
	return network, FromNTP, nil
}
