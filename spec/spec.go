package spec

import (
	_ "embed"
	"net/netip"
)

// APIVersion is the version of the format that this package reads.
const APIVersion = "zos/v1"

// MaxSize bounds a spec file, in bytes.
const MaxSize = 1 << 20

// Schema is the published JSON Schema (draft-07) of a deployment spec.
//
//go:embed schema.json
var Schema []byte

// Deployment is a parsed and valid spec file.
type Deployment struct {
	Name      string
	Group     string
	Networks  []Network
	Workloads []Workload
	source    *source // positions, for errors of later steps
}

// Network is one entry of a deployment's networks.
type Network struct {
	Name   string
	Subnet netip.Prefix // zero: the planner picks
	Exit   string       // a node; empty: none
}

// Attachment is one entry of a workload's networks, defaults filled in.
type Attachment struct {
	Network   string
	Aliases   []string
	Open      bool // no allow was written
	Allow     []Rule
	Egress    string
	Bandwidth uint64 // bit/s; 0: no limit
}

// Rule is one entry of an attachment's allow.
type Rule struct {
	Protocol    string
	First, Last uint16
	From        []string // workloads, sorted, aliases replaced by who has them; empty: everyone
}

// Workload is one entry of a deployment's workloads, defaults filled in.
type Workload struct {
	Name    string
	Kind    string
	Image   string
	Node    string            // empty: the planner picks
	Command []string          // nil: the image's
	Env     map[string]string // over the image's
	WorkDir string            // empty: the image's
	User    string            // empty: the image's
	Restart string
	Setuid  bool
	CPU     uint64 // thousandths of a core
	Memory  uint64 // bytes
	Disk    uint64 // bytes
	PIDs    uint64
	// Networks are the interfaces, in their order.
	Networks []Attachment
}

// Defaults of a workload that says nothing else.
const (
	DefaultRestart = "always"
	DefaultCPU     = 100
	DefaultMemory  = 64 << 20
	DefaultDisk    = 64 << 20
	DefaultPIDs    = 64
)
