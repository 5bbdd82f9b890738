package events

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/zero-os/zos/canon"
)

// Kinds of events.
const (
	Started   = "started"   // it runs, in Version
	Ready     = "ready"     // it is healthy, or a job that has exited with 0
	Unhealthy = "unhealthy" // it runs and is not ready any more
	Exited    = "exited"    // it ended by its policy; Code
	Failed    = "failed"    // it could not start, or ended and is tried again; Reason
	OOM       = "oom"       // it needed more memory than its limit
	Restarted = "restarted" // it was started again by its policy
	Waiting   = "waiting"   // it is not its turn; Detail names what it waits for
	Updated   = "updated"   // another version of its contract runs
	Returned  = "returned"  // the update failed and the version before runs again
	Gone      = "gone"      // it was removed

	// What somebody asked for: Who, by Request.
	Exec    = "exec"     // a program was run inside; Argv
	ExecEnd = "exec-end" // it ended; Code
	Console = "console"  // somebody was at its serial console
	Get     = "get"      // files were copied out; Argv is the path
	Put     = "put"      // files were copied in; Argv is the path
	Restart = "restart"  // a restart was asked for
	Signal  = "signal"   // a signal was asked for; Argv is its number
	Refused = "refused"  // something of these was asked for and failed; Argv begins with what, Reason says why
)

// Bounds of an event.
const (
	MaxDetail = 512 // bytes
	MaxArgs   = 16
	MaxArg    = 128 // bytes
)

// Event is one thing that happened.
type Event struct {
	Sequence uint64    `json:"-"` // of the ring's record, rising by one
	Time     time.Time `json:"-"` // of the node's clock
	Kind     string    `json:"kind"`
	Version  uint64    `json:"version,omitempty"`
	Reason   string    `json:"reason,omitempty"` // problem code
	Detail   string    `json:"detail,omitempty"`
	Code     int64     `json:"code,omitempty"`
	Who      string    `json:"who,omitempty"`     // fingerprint of an account's key
	Request  string    `json:"request,omitempty"` // hash of the signed request, in hex
	Argv     []string  `json:"argv,omitempty"`
}

// encode is the event as one line, within its bounds.
func (e Event) encode() ([]byte, error) {
	e.Kind, e.Reason = text(e.Kind, 64), text(e.Reason, 64)
	e.Detail, e.Who = text(e.Detail, MaxDetail), text(e.Who, 128)
	e.Argv = Shorten(e.Argv)
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return append(b, '\n'), nil
}

// decode reads what encode wrote; whatever the ring holds comes out within bounds.
func decode(b []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(b, &e); err != nil {
		return Event{}, fmt.Errorf("decode event: %w", err)
	}
	if e.Request != "" {
		if _, err := canon.ParseHash(e.Request); err != nil {
			return Event{}, fmt.Errorf("decode event: %w", err)
		}
	}
	e.Kind, e.Reason = text(e.Kind, 64), text(e.Reason, 64)
	e.Detail, e.Who = text(e.Detail, MaxDetail), text(e.Who, 128)
	e.Argv = Shorten(e.Argv)
	return e, nil
}

// Shorten makes arguments fit an event: at most MaxArgs of MaxArg bytes, on one line
// each; what is left out shows as an ellipsis.
func Shorten(args []string) []string {
	if args == nil {
		return nil
	}
	out := make([]string, 0, min(len(args), MaxArgs))
	for i, a := range args {
		if i == MaxArgs-1 && len(args) > MaxArgs {
			return append(out, "…")
		}
		out = append(out, text(a, MaxArg))
	}
	return out
}

// text makes s printable, on one line and at most n bytes.
func text(s string, n int) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 || c == utf8.RuneError || c == '\u2028' || c == '\u2029' {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, " "))
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-len("…")], "") + "…"
}
