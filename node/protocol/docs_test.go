package protocol

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSchemaNamesTheFieldsOfEveryBody keeps bus.cddl and the structs the same: exactly
// their fields, in their order.
func TestSchemaNamesTheFieldsOfEveryBody(t *testing.T) {
	text, err := os.ReadFile("../../docs/reference/bus.cddl")
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string][]string{}
	rule := regexp.MustCompile(`(?m)^([a-z-]+) = \{\n((?:  .*\n)*)\}$`)
	for _, m := range rule.FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(m[2]) {
			field, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			rules[m[1]] = append(rules[m[1]], field)
		}
	}
	for name, v := range map[string]any{
		"logs-params": LogsParams{}, "log-chunk": LogChunk{}, "log-record": LogRecord{}, "exec-params": ExecParams{}, "exec-user": User{},
		"console-params": ConsoleParams{}, "files-params": FilesParams{}, "up-frame": UpFrame{}, "down-frame": DownFrame{},
		"restart-params": RestartParams{}, "signal-params": SignalParams{}, "events-params": EventsParams{}, "event-chunk": EventChunk{},
		"event": Event{}, "stats": Stats{}, "metrics-params": MetricsParams{}, "metrics": Metrics{}, "node-metrics": NodeMetrics{}, "states": States{},
	} {
		var want []string
		for f := range reflect.TypeOf(v).Fields() {
			want = append(want, f.Tag.Get("cbor"))
		}
		if !slices.Equal(rules[name], want) {
			t.Errorf("rule %s has %v, the struct %v", name, rules[name], want)
		}
	}
}
