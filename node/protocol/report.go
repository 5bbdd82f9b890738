package protocol

import (
	"fmt"

	"github.com/zero-os/zos/canon"
)

// Limits of what nodes report.
const (
	MaxReport    = 4 << 20 // bytes of one answer
	MaxEvents    = 64      // events of one chunk
	MaxArgv      = 16      // arguments of an event
	MaxArgText   = 128     // bytes of one of them
	MaxWorkloads = 1024    // workloads of one Top
)

// EventsParams ask what happened to a workload.
type EventsParams struct {
	Workload string `cbor:"workload"` // "": every one of the contract
	Since    int64  `cbor:"since"`    // Unix nanoseconds of the node's clock; 0: everything that is kept
	Follow   bool   `cbor:"follow"`   // go on with what comes
}

// EventChunk is one chunk of the answer to EventsParams.
type EventChunk struct {
	Events []Event `cbor:"events"` // at most MaxEvents
}

// Event is one thing that happened to a workload.
type Event struct {
	Workload string `cbor:"workload" json:"workload"`
	Sequence uint64 `cbor:"seq" json:"seq"`   // rising by one per workload; a gap says that older ones gave way
	Time     int64  `cbor:"time" json:"time"` // Unix nanoseconds of the node's clock
	Kind     string `cbor:"kind" json:"kind"` // a constant of package workload/events
	// Version of the contract that the workload ran or was to run.
	Version uint64 `cbor:"version" json:"version"`
	Reason  string `cbor:"reason" json:"reason"` // problem code, or ""
	Detail  string `cbor:"detail" json:"detail"` // one line
	Code    int64  `cbor:"code" json:"code"`     // exit code, of an end
	// Who asked for it: the fingerprint of an account's key; "" for the node itself.
	Who string `cbor:"who" json:"who"`
	// Request is the hash of the signed request by which it was asked for; zero if
	// nobody did.
	Request canon.Hash `cbor:"request" json:"request"`
	// Argv is the program that was run, shortened to MaxArgv arguments of MaxArgText
	// bytes.
	Argv []string `cbor:"argv" json:"argv"`
}

// TopParams ask how much workloads use now.
type TopParams struct {
	Workload string `cbor:"workload"` // "": every one of the contract on this node
}

// Top answers TopParams.
type Top struct {
	Workloads []Stats `cbor:"workloads" json:"workloads"` // by name
}

// Stats is what one workload uses, as its cgroup or its guest's kernel counts.
type Stats struct {
	Name           string `cbor:"name" json:"name"`
	Kind           string `cbor:"kind" json:"kind"`
	State          string `cbor:"state" json:"state"`
	Ready          bool   `cbor:"ready" json:"ready"`
	Isolation      string `cbor:"isolation" json:"isolation"`
	Time           int64  `cbor:"time" json:"time"` // Unix nanoseconds of the node's clock, when it was read
	CPUMicros      uint64 `cbor:"cpu_us" json:"cpu_us"`
	ThrottledUS    uint64 `cbor:"throttled_us" json:"throttled_us"`
	CPULimit       uint64 `cbor:"cpu_limit" json:"cpu_limit"` // thousandths of a core
	Memory         uint64 `cbor:"memory" json:"memory"`       // bytes, page cache included
	MemoryCache    uint64 `cbor:"memory_cache" json:"memory_cache"`
	MemoryLimit    uint64 `cbor:"memory_limit" json:"memory_limit"`
	PIDs           uint64 `cbor:"pids" json:"pids"`
	OOMKills       uint64 `cbor:"oom_kills" json:"oom_kills"`
	ReadBytes      uint64 `cbor:"read_bytes" json:"read_bytes"`
	WriteBytes     uint64 `cbor:"write_bytes" json:"write_bytes"`
	DiskUsed       uint64 `cbor:"disk_used" json:"disk_used"`
	DiskSize       uint64 `cbor:"disk_size" json:"disk_size"`
	NetReceived    uint64 `cbor:"net_rx" json:"net_rx"`
	NetSent        uint64 `cbor:"net_tx" json:"net_tx"`
	PressureCPU    uint64 `cbor:"psi_cpu" json:"psi_cpu"` // hundredths of a percent of the last ten seconds in which something waited
	PressureMemory uint64 `cbor:"psi_memory" json:"psi_memory"`
	PressureIO     uint64 `cbor:"psi_io" json:"psi_io"`
	Restarts       uint64 `cbor:"restarts" json:"restarts"`
	StartMillis    uint64 `cbor:"start_ms" json:"start_ms"` // of the last start, until the program ran
	Uptime         uint64 `cbor:"uptime" json:"uptime"`     // seconds of the present run
	// Problem is why there are no figures, a problem code; "" if there are.
	Problem string `cbor:"problem" json:"problem"`
}

// MetricsParams ask for metrics: of a contract's workloads on this node, or, when the
// request names no contract, of the node.
type MetricsParams struct {
	Workload string `cbor:"workload"` // "": every one of the contract; of the node it is ""
}

// Metrics answers MetricsParams.
type Metrics struct {
	Text []byte `cbor:"text"` // Prometheus' text format 0.0.4, at most MaxReport bytes
}

// DecodeEventsParams reads and checks the parameters of events; "request-invalid",
// likewise below.
func DecodeEventsParams(b []byte) (EventsParams, error) {
	return params(b, func(p EventsParams) error {
		if p.Since < 0 {
			return fmt.Errorf("since is before 1970")
		}
		return anyName(p.Workload)
	})
}

// DecodeTopParams reads and checks the parameters of Top.
func DecodeTopParams(b []byte) (TopParams, error) {
	return params(b, func(p TopParams) error { return anyName(p.Workload) })
}

// DecodeMetricsParams reads and checks the parameters of Metrics.
func DecodeMetricsParams(b []byte) (MetricsParams, error) {
	return params(b, func(p MetricsParams) error { return anyName(p.Workload) })
}

// DecodeEventChunk reads and checks a chunk of events of a node, which may lie;
// "reply-invalid", likewise below.
func DecodeEventChunk(b []byte) (EventChunk, error) {
	return reply(b, func(c EventChunk) error {
		if len(c.Events) > MaxEvents {
			return fmt.Errorf("%d events, at most %d are allowed", len(c.Events), MaxEvents)
		}
		for _, e := range c.Events {
			if err := e.check(); err != nil {
				return err
			}
		}
		return nil
	})
}

// DecodeTop reads and checks a Top.
func DecodeTop(b []byte) (Top, error) {
	return reply(b, func(t Top) error {
		if len(t.Workloads) > MaxWorkloads {
			return fmt.Errorf("%d workloads, at most %d are allowed", len(t.Workloads), MaxWorkloads)
		}
		for _, s := range t.Workloads {
			if err := firstError(name(s.Name), word(s.Kind), word(s.State), word(s.Isolation), word(s.Problem)); err != nil {
				return err
			}
		}
		return nil
	})
}

// DecodeMetrics reads and checks metrics.
func DecodeMetrics(b []byte) (Metrics, error) {
	return reply(b, func(Metrics) error { return nil })
}

func (e Event) check() error {
	switch {
	case len(e.Detail) > MaxText || len(e.Who) > MaxText:
		return fmt.Errorf("an event with texts of %d and %d bytes", len(e.Detail), len(e.Who))
	case len(e.Argv) > MaxArgv:
		return fmt.Errorf("an event with %d arguments", len(e.Argv))
	}
	for _, a := range e.Argv {
		if len(a) > MaxArgText {
			return fmt.Errorf("an event with an argument of %d bytes", len(a))
		}
	}
	return firstError(name(e.Workload), word(e.Kind), word(e.Reason))
}

func anyName(s string) error {
	if s == "" {
		return nil
	}
	return name(s)
}

func word(s string) error {
	if len(s) > MaxName+1 {
		return fmt.Errorf("a word of %d bytes", len(s))
	}
	return nil
}
