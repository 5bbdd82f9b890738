package spec

import (
	_ "embed"
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
	Workloads []Workload
	source    *source // positions, for errors of later steps
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
}

// Defaults of a workload that says nothing else.
const (
	DefaultRestart = "always"
	DefaultCPU     = 100
	DefaultMemory  = 64 << 20
	DefaultDisk    = 64 << 20
	DefaultPIDs    = 64
)
