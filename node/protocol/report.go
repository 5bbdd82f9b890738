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
	MaxWorkloads = 1024    // workloads of one Metrics
)

// EventsParams ask what happened to a workload.
type EventsParams struct {
	Workload string `cbor:"workload"` // "": every one of the contract on this node
	After    uint64 `cbor:"after"`    // of one workload: only events with a higher sequence
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

// MetricsParams ask how much workloads use now.
type MetricsParams struct {
	Workload string `cbor:"workload"` // "": every one of the contract on this node
}

// Metrics answers MetricsParams.
type Metrics struct {
	Time      int64   `cbor:"time" json:"time"`           // Unix nanoseconds of the node's clock
	Workloads []Stats `cbor:"workloads" json:"workloads"` // sorted by name, at most MaxWorkloads
}

// Stats is what one workload uses, as its cgroup or its guest's kernel counts.
type Stats struct {
	Name           string `cbor:"name" json:"name"`
	Version        uint64 `cbor:"version" json:"version"` // of the contract that it runs
	Kind           string `cbor:"kind" json:"kind"`
	State          string `cbor:"state" json:"state"`
	Ready          bool   `cbor:"ready" json:"ready"`
	Isolation      string `cbor:"isolation" json:"isolation"`
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

// NodeMetrics is how a node is, for the farm: nothing of it names a tenant.
type NodeMetrics struct {
	Time           int64    `cbor:"time" json:"time"`     // Unix nanoseconds of the node's clock
	Uptime         uint64   `cbor:"uptime" json:"uptime"` // seconds
	Release        uint64   `cbor:"release" json:"release"`
	Head           uint64   `cbor:"head" json:"head"`           // height of the last proven header
	HeadTime       uint64   `cbor:"head_time" json:"head_time"` // Unix seconds
	CPUs           uint64   `cbor:"cpus" json:"cpus"`
	CPUBusyMicros  uint64   `cbor:"cpu_busy_us" json:"cpu_busy_us"` // of all cores
	CPUIdleMicros  uint64   `cbor:"cpu_idle_us" json:"cpu_idle_us"`
	MemoryTotal    uint64   `cbor:"memory_total" json:"memory_total"` // bytes, likewise below
	MemoryFree     uint64   `cbor:"memory_available" json:"memory_available"`
	DiskTotal      uint64   `cbor:"disk_total" json:"disk_total"` // of the data directory's file system
	DiskFree       uint64   `cbor:"disk_available" json:"disk_available"`
	StoreBytes     uint64   `cbor:"store" json:"store"`   // objects that are kept
	NetReceived    uint64   `cbor:"net_rx" json:"net_rx"` // of its own interfaces, without the loopback
	NetSent        uint64   `cbor:"net_tx" json:"net_tx"`
	PressureCPU    uint64   `cbor:"psi_cpu" json:"psi_cpu"` // hundredths of a percent of the last ten seconds
	PressureMemory uint64   `cbor:"psi_memory" json:"psi_memory"`
	PressureIO     uint64   `cbor:"psi_io" json:"psi_io"`
	Contracts      uint64   `cbor:"contracts" json:"contracts"`
	States         []States `cbor:"states" json:"states"` // sorted by state
}

// States is how many workloads are in one state.
type States struct {
	State string `cbor:"state" json:"state"`
	Count uint64 `cbor:"count" json:"count"`
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

// DecodeMetricsParams reads and checks the parameters of metrics.
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

// DecodeMetrics reads and checks the figures of workloads.
func DecodeMetrics(b []byte) (Metrics, error) {
	return reply(b, func(m Metrics) error {
		if len(m.Workloads) > MaxWorkloads {
			return fmt.Errorf("%d workloads, at most %d are allowed", len(m.Workloads), MaxWorkloads)
		}
		for i, s := range m.Workloads {
			if err := firstError(name(s.Name), word(s.Kind), word(s.State), word(s.Isolation), word(s.Problem)); err != nil {
				return err
			}
			if i > 0 && m.Workloads[i-1].Name >= s.Name {
				return fmt.Errorf("workloads are not sorted by name, or %s stands twice", s.Name)
			}
		}
		return nil
	})
}

// DecodeNodeMetrics reads and checks the figures of a node.
func DecodeNodeMetrics(b []byte) (NodeMetrics, error) {
	return reply(b, func(m NodeMetrics) error {
		if len(m.States) > 16 {
			return fmt.Errorf("%d states", len(m.States))
		}
		for i, s := range m.States {
			if err := name(s.State); err != nil {
				return err
			}
			if i > 0 && m.States[i-1].State >= s.State {
				return fmt.Errorf("states are not sorted, or %s stands twice", s.State)
			}
		}
		return nil
	})
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
