package bus

import (
	"log/slog"
	"maps"
	"sync"
)

// refusals counts what a node refused, by problem code: what most attacks and
// wrong clocks leave behind, since they get no answer. Embed it.
type refusals struct {
	log     *slog.Logger
	mu      sync.Mutex
	refused map[string]uint64
}

func newRefusals(log *slog.Logger) refusals { return refusals{log: log, refused: map[string]uint64{}} }

// Refused counts what was refused, by problem code, since it was made.
func (r *refusals) Refused() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.refused)
}

func (r *refusals) refuse(err error) {
	r.mu.Lock()
	r.refused[code(err)]++
	r.mu.Unlock()
	r.log.Debug("bus request refused", "error", err)
}
