package client

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/zero-os/zos/node/protocol"
)

// Sample is the figures of one contract's workloads on one node.
type Sample struct {
	Contract string // group/deployment
	Node     string
	Metrics  protocol.Metrics
	// Failed is why the node gave no figures, a problem code; "" if it did.
	Failed string
}

// NodeSample is the figures of one node.
type NodeSample struct {
	Node    string
	Metrics protocol.NodeMetrics
	Failed  string
}

// figure is one metric: how it is called, and what it is of.
type figure[T any] struct {
	name, kind, help string
	value            func(T) float64
}

func sure(n uint64) float64   { return float64(n) }
func micros(n uint64) float64 { return float64(n) / 1e6 }
func share(n uint64) float64  { return float64(n) / 1e4 } // of hundredths of a percent

// workloadFigures are in base units, as Prometheus wants them.
var workloadFigures = []figure[protocol.Stats]{
	{"zos_workload_cpu_seconds_total", "counter", "Processor time used by the present run.", func(s protocol.Stats) float64 { return micros(s.CPUMicros) }},
	{"zos_workload_cpu_throttled_seconds_total", "counter", "Time in which the limit held it back.", func(s protocol.Stats) float64 { return micros(s.ThrottledUS) }},
	{"zos_workload_cpu_limit_cores", "gauge", "Processor cores that it may use.", func(s protocol.Stats) float64 { return float64(s.CPULimit) / 1000 }},
	{"zos_workload_memory_bytes", "gauge", "Memory in use, page cache included.", func(s protocol.Stats) float64 { return sure(s.Memory) }},
	{"zos_workload_memory_cache_bytes", "gauge", "The part of it that is page cache.", func(s protocol.Stats) float64 { return sure(s.MemoryCache) }},
	{"zos_workload_memory_limit_bytes", "gauge", "Memory that it may use.", func(s protocol.Stats) float64 { return sure(s.MemoryLimit) }},
	{"zos_workload_processes", "gauge", "Processes and threads.", func(s protocol.Stats) float64 { return sure(s.PIDs) }},
	{"zos_workload_oom_kills_total", "counter", "Processes that were killed for want of memory.", func(s protocol.Stats) float64 { return sure(s.OOMKills) }},
	{"zos_workload_read_bytes_total", "counter", "Bytes read from disks.", func(s protocol.Stats) float64 { return sure(s.ReadBytes) }},
	{"zos_workload_written_bytes_total", "counter", "Bytes written to disks.", func(s protocol.Stats) float64 { return sure(s.WriteBytes) }},
	{"zos_workload_disk_used_bytes", "gauge", "Bytes of its writable layer in use.", func(s protocol.Stats) float64 { return sure(s.DiskUsed) }},
	{"zos_workload_disk_size_bytes", "gauge", "Size of its writable layer.", func(s protocol.Stats) float64 { return sure(s.DiskSize) }},
	{"zos_workload_received_bytes_total", "counter", "Bytes received from networks.", func(s protocol.Stats) float64 { return sure(s.NetReceived) }},
	{"zos_workload_sent_bytes_total", "counter", "Bytes sent to networks.", func(s protocol.Stats) float64 { return sure(s.NetSent) }},
	{"zos_workload_pressure_cpu_ratio", "gauge", "Share of the last ten seconds in which something waited for a processor.", func(s protocol.Stats) float64 { return share(s.PressureCPU) }},
	{"zos_workload_pressure_memory_ratio", "gauge", "The same for memory.", func(s protocol.Stats) float64 { return share(s.PressureMemory) }},
	{"zos_workload_pressure_io_ratio", "gauge", "The same for disks.", func(s protocol.Stats) float64 { return share(s.PressureIO) }},
	{"zos_workload_restarts_total", "counter", "Starts after the first one.", func(s protocol.Stats) float64 { return sure(s.Restarts) }},
	{"zos_workload_start_seconds", "gauge", "How long the last start took, until the program ran.", func(s protocol.Stats) float64 { return float64(s.StartMillis) / 1000 }},
	{"zos_workload_uptime_seconds", "gauge", "Age of the present run.", func(s protocol.Stats) float64 { return sure(s.Uptime) }},
}

var nodeFigures = []figure[protocol.NodeMetrics]{
	{"zos_node_uptime_seconds", "gauge", "Time since the boot.", func(m protocol.NodeMetrics) float64 { return sure(m.Uptime) }},
	{"zos_node_release", "gauge", "Sequence of the release that runs.", func(m protocol.NodeMetrics) float64 { return sure(m.Release) }},
	{"zos_node_head_height", "gauge", "Height of the newest block that it has proven.", func(m protocol.NodeMetrics) float64 { return sure(m.Head) }},
	{"zos_node_head_time_seconds", "gauge", "Time of that block.", func(m protocol.NodeMetrics) float64 { return sure(m.HeadTime) }},
	{"zos_node_cpus", "gauge", "Processors.", func(m protocol.NodeMetrics) float64 { return sure(m.CPUs) }},
	{"zos_node_cpu_busy_seconds_total", "counter", "Time in which processors worked.", func(m protocol.NodeMetrics) float64 { return micros(m.CPUBusyMicros) }},
	{"zos_node_cpu_idle_seconds_total", "counter", "Time in which they did not.", func(m protocol.NodeMetrics) float64 { return micros(m.CPUIdleMicros) }},
	{"zos_node_memory_bytes", "gauge", "Memory that it has.", func(m protocol.NodeMetrics) float64 { return sure(m.MemoryTotal) }},
	{"zos_node_memory_available_bytes", "gauge", "Memory that is free or can be freed.", func(m protocol.NodeMetrics) float64 { return sure(m.MemoryFree) }},
	{"zos_node_disk_bytes", "gauge", "Size of the data directory's file system.", func(m protocol.NodeMetrics) float64 { return sure(m.DiskTotal) }},
	{"zos_node_disk_available_bytes", "gauge", "Free bytes of it.", func(m protocol.NodeMetrics) float64 { return sure(m.DiskFree) }},
	{"zos_node_store_bytes", "gauge", "Objects of flists that are kept.", func(m protocol.NodeMetrics) float64 { return sure(m.StoreBytes) }},
	{"zos_node_received_bytes_total", "counter", "Bytes received from networks.", func(m protocol.NodeMetrics) float64 { return sure(m.NetReceived) }},
	{"zos_node_sent_bytes_total", "counter", "Bytes sent to networks.", func(m protocol.NodeMetrics) float64 { return sure(m.NetSent) }},
	{"zos_node_pressure_cpu_ratio", "gauge", "Share of the last ten seconds in which something waited for a processor.", func(m protocol.NodeMetrics) float64 { return share(m.PressureCPU) }},
	{"zos_node_pressure_memory_ratio", "gauge", "The same for memory.", func(m protocol.NodeMetrics) float64 { return share(m.PressureMemory) }},
	{"zos_node_pressure_io_ratio", "gauge", "The same for disks.", func(m protocol.NodeMetrics) float64 { return share(m.PressureIO) }},
	{"zos_node_contracts", "gauge", "Contracts with a workload on it.", func(m protocol.NodeMetrics) float64 { return sure(m.Contracts) }},
}

// Prometheus writes samples in Prometheus' text format 0.0.4. The text is made
// here, of numbers: a node can't write lines of its own into it.
func Prometheus(samples []Sample, nodes []NodeSample) []byte {
	var b bytes.Buffer
	if len(samples) > 0 {
		head(&b, "zos_up", "gauge", "1 if the node gave figures of the contract's workloads.")
		for _, s := range samples {
			line(&b, "zos_up", flag(s.Failed == ""), "contract", s.Contract, "node", s.Node, "problem", s.Failed)
		}
		head(&b, "zos_workload_state", "gauge", "1 for the state in which a workload is.")
		each(samples, func(s Sample, w protocol.Stats) {
			line(&b, "zos_workload_state", 1, append(labels(s, w), "state", w.State, "isolation", w.Isolation)...)
		})
		head(&b, "zos_workload_ready", "gauge", "1 if it runs and is healthy.")
		each(samples, func(s Sample, w protocol.Stats) { line(&b, "zos_workload_ready", flag(w.Ready), labels(s, w)...) })
	}
	for _, f := range workloadFigures {
		if len(samples) == 0 {
			break
		}
		head(&b, f.name, f.kind, f.help)
		each(samples, func(s Sample, w protocol.Stats) {
			if w.Problem == "" {
				line(&b, f.name, f.value(w), labels(s, w)...)
			}
		})
	}
	if len(nodes) > 0 {
		head(&b, "zos_node_up", "gauge", "1 if the node gave figures of itself.")
		for _, n := range nodes {
			line(&b, "zos_node_up", flag(n.Failed == ""), "node", n.Node, "problem", n.Failed)
		}
		head(&b, "zos_node_workloads", "gauge", "Workloads by state.")
		for _, n := range nodes {
			for _, s := range n.Metrics.States {
				line(&b, "zos_node_workloads", float64(s.Count), "node", n.Node, "state", s.State)
			}
		}
		for _, f := range nodeFigures {
			head(&b, f.name, f.kind, f.help)
			for _, n := range nodes {
				if n.Failed == "" {
					line(&b, f.name, f.value(n.Metrics), "node", n.Node)
				}
			}
		}
	}
	return b.Bytes()
}

func labels(s Sample, w protocol.Stats) []string {
	return []string{"contract", s.Contract, "workload", w.Name, "node", s.Node}
}

func each(samples []Sample, fn func(Sample, protocol.Stats)) {
	for _, s := range samples {
		if s.Failed == "" {
			for _, w := range s.Metrics.Workloads {
				fn(s, w)
			}
		}
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func head(b *bytes.Buffer, name, kind, help string) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// escape is the format's own for the values of labels; what is no text becomes "?".
var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// line writes one sample; pairs are names and values of labels, empty ones are
// left out.
func line(b *bytes.Buffer, name string, value float64, pairs ...string) {
	var parts []string
	for p := range slices.Chunk(pairs, 2) {
		if p[1] != "" {
			parts = append(parts, p[0]+`="`+escape.Replace(strings.ToValidUTF8(p[1], "?"))+`"`)
		}
	}
	fmt.Fprintf(b, "%s{%s} %s\n", name, strings.Join(parts, ","), strconv.FormatFloat(value, 'g', -1, 64))
}
