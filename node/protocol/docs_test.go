package protocol

import (
	"testing"

	"github.com/zero-os/zos/canon/schematest"
)

// TestSchemaNamesTheFieldsOfEveryBody keeps bus.cddl and the structs the same: exactly
// their fields, in their order.
func TestSchemaNamesTheFieldsOfEveryBody(t *testing.T) {
	schematest.Compare(t, "../..", "bus.cddl", map[string]any{
		"logs-params": LogsParams{}, "log-chunk": LogChunk{}, "log-record": LogRecord{}, "exec-params": ExecParams{}, "exec-user": User{},
		"console-params": ConsoleParams{}, "files-params": FilesParams{}, "up-frame": UpFrame{}, "down-frame": DownFrame{},
		"restart-params": RestartParams{}, "signal-params": SignalParams{}, "events-params": EventsParams{}, "event-chunk": EventChunk{},
		"event": Event{}, "stats": Stats{}, "metrics-params": MetricsParams{}, "metrics": Metrics{}, "node-metrics": NodeMetrics{}, "states": States{},
	})
}
