package shim

import (
	"fmt"
	"time"

	"github.com/zero-os/zos/workload/control"
)

// Life is how a workload lives, as plan.Life says it; package life translates.
type Life struct {
	Restart  string        `json:"restart"`            // "always", "on-failure" or "never"
	Attempts int           `json:"attempts,omitempty"` // starts in a row that may fail; 0: any number
	Deadline time.Duration `json:"deadline,omitempty"` // of one run; 0: none
	Signal   int           `json:"signal,omitempty"`   // the first of a graceful stop; 0: SIGTERM
	Grace    time.Duration `json:"grace,omitempty"`    // from it to SIGKILL
	Health   *Health       `json:"health,omitempty"`
}

// Health is a check that is made again and again.
type Health struct {
	Probe    control.Probe `json:"probe"`
	Interval time.Duration `json:"interval"`
	Retries  int           `json:"retries"` // failures in a row that make it unhealthy
	Start    time.Duration `json:"start"`   // after a start, in which failures don't count
}

// SteadyAfter is how long a workload without a health check must run before it
// counts as ready.
const SteadyAfter = 5 * time.Second

// outcome is how a run ended, as far as policies care.
type outcome int

const (
	notStarted outcome = iota // no instance came to be
	succeeded                 // it exited with 0
	failed                    // it ended otherwise, or had to be ended
	asked                     // it was ended because somebody wants it started again
)

// outcomeOf sorts the way in which a run ended.
func outcomeOf(reason string, code int) outcome {
	switch {
	case reason == ReasonStart:
		return notStarted
	case reason == ReasonRestart:
		return asked
	case reason == ReasonExited && code == 0:
		return succeeded
	}
	return failed
}

// decision is what comes after a run.
type decision int

const (
	again     decision = iota // start it, after a pause
	atOnce                    // start it without one
	over                      // its policy is satisfied
	exhausted                 // it is left failed
)

// decide tells what comes after a run: a pure function of the workload's life, how
// the run ended, and how many starts in a row have failed, this one included.
// The table is docs/reference/lifecycle.md.
func decide(l Life, o outcome, failures int) decision {
	spent := l.Attempts > 0 && failures >= l.Attempts
	switch {
	case o == asked:
		return atOnce
	case o == notStarted && spent:
		return exhausted
	case o == notStarted: // whatever the policy says: it has never run
		return again
	case l.Restart != "always" && (l.Restart != "on-failure" || o == succeeded):
		return over
	case o == failed && spent:
		return exhausted
	}
	return again
}

// Done tells whether a workload that is over stays so by the life l too: one that was
// given another life meanwhile runs again only if that life asks for it.
func (s Status) Done(l Life) bool {
	return s.State == Over && decide(l, outcomeOf(s.Reason, s.Exit.Code), s.Failures) == over
}

// countFailures is how many starts in a row have failed after a run that ended with o
// and lasted for lasted, when there were n before it. One that ran for reset
// has not failed to start, whatever ended it.
func countFailures(n int, o outcome, lasted, reset time.Duration) int {
	switch {
	case o == asked, o == succeeded:
		return 0
	case o == failed && reset > 0 && lasted >= reset:
		return 1
	}
	return n + 1
}

// judgement is what a health check says of a workload.
type judgement struct {
	failures int  // in a row, of those that count
	healthy  bool // it has passed since it was last found unhealthy, or started
	sick     bool // it is unhealthy now: to be restarted by its policy
}

// judge is a judgement after one more check, which passed or not, since after the
// start. Retries failures in a row make a workload unhealthy; in the time that it
// has for its start they don't, unless it had been healthy already.
func (h Health) judge(j judgement, passed bool, since time.Duration) judgement {
	switch {
	case passed:
		return judgement{healthy: true}
	case !j.healthy && since < h.Start:
		return judgement{}
	}
	j.failures++
	if j.failures >= max(1, h.Retries) {
		j.healthy, j.sick = false, true
	}
	return j
}

// Ready tells whether a workload in this state is ready at time now: it runs and is
// healthy, or has run for a while where no check says more; or it was a job and has
// exited with 0.
func (s Status) Ready(now time.Time) bool {
	switch s.State {
	case Running:
		if s.Checked {
			return s.Healthy
		}
		return !s.Ran.IsZero() && now.Sub(s.Ran) >= SteadyAfter
	case Over:
		return s.Reason == ReasonExited && s.Exit.Code == 0
	}
	return false
}

// CheckPolicy tells whether policy is a restart policy.
func CheckPolicy(policy string) error {
	switch policy {
	case "always", "on-failure", "never":
		return nil
	}
	return fmt.Errorf("restart %q: want \"always\", \"on-failure\" or \"never\"", policy)
}
