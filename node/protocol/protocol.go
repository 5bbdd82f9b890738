// Package protocol is what people ask nodes over the bus, and what nodes
// answer: the bodies of package bus's methods, as canonical CBOR.
package protocol

import "github.com/zero-os/zos/canon"

// LogsParams are the parameters of bus.MethodLogs.
type LogsParams struct {
	Workload string `cbor:"workload"`
	After    uint64 `cbor:"after"`  // only records with a higher sequence
	Tail     uint64 `cbor:"tail"`   // at most this many of what is there; 0: all
	Follow   bool   `cbor:"follow"` // go on with what comes
	Since    int64  `cbor:"since"`  // only records of this time or later, Unix nanoseconds of the node's clock; 0: all
}

// LogRecord is one line, or a part of a long one, that a workload wrote.
type LogRecord struct {
	Sequence uint64 `cbor:"seq"`
	Time     int64  `cbor:"time"`   // Unix nanoseconds of the node's clock
	Stream   string `cbor:"stream"` // "stdout", "stderr" or "shim"
	Data     []byte `cbor:"data"`
	Partial  bool   `cbor:"partial"` // the line goes on in the next record of the stream
}

// LogChunk is one chunk of the answer to bus.MethodLogs.
type LogChunk struct {
	Records []LogRecord `cbor:"records"`
}

// ContractStatus answers bus.MethodStatus.
type ContractStatus struct {
	Workloads []WorkloadStatus `cbor:"workloads"`
}

// WorkloadStatus is one workload as the node sees it now.
type WorkloadStatus struct {
	Name     string `cbor:"name" json:"name"`
	Version  uint64 `cbor:"version" json:"version"`
	State    string `cbor:"state" json:"state"`
	Reason   string `cbor:"reason" json:"reason"`
	Detail   string `cbor:"detail" json:"detail"`
	ExitCode int64  `cbor:"exit_code" json:"exit_code"`
	Verity   bool   `cbor:"verity" json:"verity"`
	// Ready: it runs and is healthy. Of a job: it has exited with 0.
	Ready bool `cbor:"ready" json:"ready"`
	// Isolation is the class that it runs in: "microvm" or "namespace"; "" for kinds
	// that have none.
	Isolation string `cbor:"isolation" json:"isolation"`
	Restarts  uint64 `cbor:"restarts" json:"restarts"` // since it was made from its version
	// Fetched of Total bytes of its flist are on the node.
	Fetched uint64 `cbor:"fetched" json:"fetched"`
	Total   uint64 `cbor:"total" json:"total"`
}

// NodeStatus answers bus.MethodNode.
type NodeStatus struct {
	Slot      canon.Hash   `cbor:"slot" json:"slot"`
	Epoch     uint64       `cbor:"epoch" json:"epoch"`
	Release   uint64       `cbor:"release" json:"release"` // sequence
	OS        canon.Hash   `cbor:"os" json:"os"`           // flist
	Head      uint64       `cbor:"head" json:"head"`       // height of the last proven header
	HeadTime  uint64       `cbor:"head_time" json:"head_time"`
	Boot      []byte       `cbor:"boot" json:"boot"`     // nonce of this boot
	Uptime    uint64       `cbor:"uptime" json:"uptime"` // seconds
	Store     string       `cbor:"store" json:"store"`   // "disk" or "zram"
	Verity    bool         `cbor:"verity" json:"verity"`
	Problems  []string     `cbor:"problems" json:"problems"` // what is missing, one line each
	Steps     []Step       `cbor:"steps" json:"steps"`
	Memory    []Consumer   `cbor:"memory" json:"memory"`
	Refused   []Refusal    `cbor:"refused" json:"refused"`
	Contracts []canon.Hash `cbor:"contracts" json:"contracts"`
	// Features is what a guest showed that this node can do, at boot.
	Features Features `cbor:"features" json:"features"`
}

// Features is what a node found that it can do by running a guest.
type Features struct {
	Probed bool `cbor:"probed" json:"probed"` // false: not yet
	// Isolation lists the classes that it can do, sorted.
	Isolation []string `cbor:"isolation" json:"isolation"`
	Machines  bool     `cbor:"machines" json:"machines"` // workloads of kind vm
	Detail    string   `cbor:"detail" json:"detail"`     // why something is missing, one line
}

// Step is one step of the boot and how long it took.
type Step struct {
	Name         string `cbor:"name" json:"name"`
	Milliseconds uint64 `cbor:"ms" json:"ms"`
}

// Consumer is a process of the OS and its resident memory.
type Consumer struct {
	Name     string `cbor:"name" json:"name"`
	PID      uint64 `cbor:"pid" json:"pid"`
	Resident uint64 `cbor:"resident" json:"resident"` // bytes
	Private  uint64 `cbor:"private" json:"private"`   // bytes, not shared with others or the page cache
}

// Refusal is a contract on the ledger that the node does not believe.
type Refusal struct {
	Contract canon.Hash `cbor:"contract" json:"contract"`
	Code     string     `cbor:"code" json:"code"`
	Message  string     `cbor:"message" json:"message"`
}

// Resources answers bus.MethodResources: everything that workloads could leave
// behind. Equal values before and after mean that nothing was.
type Resources struct {
	Mounts     []string `cbor:"mounts" json:"mounts"`
	Cgroups    []string `cbor:"cgroups" json:"cgroups"`
	Namespaces []string `cbor:"namespaces" json:"namespaces"` // of all processes, kind and inode
	Interfaces []string `cbor:"interfaces" json:"interfaces"`
	Processes  []string `cbor:"processes" json:"processes"`
	Bytes      uint64   `cbor:"bytes" json:"bytes"`   // below workloads/ of the data directory
	Files      uint64   `cbor:"files" json:"files"`   // likewise
	Cached     uint64   `cbor:"cached" json:"cached"` // bytes of objects kept for the next start
}
