package process

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Exit is how a process ended.
type Exit struct {
	Code   int `json:"code"`   // exit code; 128+Signal if it was killed, as shells count
	Signal int `json:"signal"` // the signal that ended it, or 0
}

// ExitOf converts what wait(2) reported.
func ExitOf(ws unix.WaitStatus) Exit {
	if ws.Signaled() {
		return Exit{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
	}
	return Exit{Code: ws.ExitStatus()}
}

// String says it in a few words.
func (e Exit) String() string {
	if e.Signal != 0 {
		return fmt.Sprintf("killed by signal %d (%s)", e.Signal, unix.SignalName(unix.Signal(e.Signal)))
	}
	return fmt.Sprintf("exit code %d", e.Code)
}
