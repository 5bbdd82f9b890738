// Package clock reads and steps the machine's clock.
package clock

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Step sets the wall clock to t. The monotonic clock, and with it every timer,
// goes on undisturbed.
func Step(t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return fmt.Errorf("step the clock to %s: %w", t.UTC().Format(time.RFC3339), err)
	}
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("step the clock to %s: %w", t.UTC().Format(time.RFC3339), err)
	}
	return nil
}

// Boottime returns how long the machine has been up, suspended time included.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // every kernel since 2.6.39 has this clock
	}
	return time.Duration(ts.Nano())
}
