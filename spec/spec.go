package spec

import (
	_ "embed"
	"net/netip"

	"github.com/zero-os/zos/spec/plan"
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
	Name     string
	Group    string
	Networks []Network
	// Workloads are what runs: of a set of replicas each one.
	Workloads []Workload
	Update    plan.Update
	source    *source // positions, for errors of later steps
	// strangers are names in rules that no workload of the spec has.
	strangers []stranger
}

// stranger is a name in a rule that means a standing device, or is a mistake.
type stranger struct {
	name, network string
	where         place
	message, fix  string
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
	nobody      bool     // From is empty because nobody is meant
}

// Workload is one entry of a deployment's workloads, or one replica of it, defaults
// filled in. A gateway has Address and Publish, a machine Boot to Keys, a container
// Command to Files; the rest is of all that run programs.
type Workload struct {
	Name    string
	Kind    string // plan.KindContainer, plan.KindVM or plan.KindGateway
	entry   int    // of the spec's workloads, from 0
	Image   string
	Node    string            // empty: the planner picks
	Command []string          // nil: the image's
	Env     map[string]string // over the image's
	WorkDir string            // empty: the image's
	User    string            // empty: the image's
	Setuid  bool
	// Isolation is one of the plan's classes, or IsolationAny.
	Isolation  string
	Privileged bool
	Files      []File // sorted by path

	Boot     string
	Cmdline  string
	Disks    []plan.Disk // sorted by serial
	UserData string      // a file beside the spec, or the data itself if it has several lines
	Keys     []string

	Set      string // the entry's name if it has replicas; else empty
	Replicas uint64 // 0: none was written
	Spread   string // of replicas: SpreadNode, SpreadFarm or empty
	After    []string
	Life     plan.Life
	Secrets  []Secret // sorted by name

	CPU    uint64 // thousandths of a core
	Memory uint64 // bytes that the program, or the machine, may use
	Disk   uint64 // bytes, those of Disks included
	PIDs   uint64
	// Networks are the interfaces, in their order. Those of a gateway follow from
	// what it publishes, sorted by name.
	Networks []Attachment
	// Address is where a gateway listens: AddressShared, AddressOwn or one public
	// address in canonical text.
	Address string
	Publish []Publish
}

// What a gateway's address can be besides a public address itself.
const (
	AddressShared = "shared" // those that the node's pool shares among all
	AddressOwn    = "own"    // one that is leased to the deployment alone
)

// Publish is one entry of a gateway's publish, defaults filled in.
type Publish struct {
	Host string // a label of the grid's domain, or a full name; empty: a port
	Mode string // one of the plan's modes
	Port uint16 // of a port: the public one; 0: the planner picks
	// Network is that of the backends, or the one that devices enter if Join.
	Network  string
	Backends []string // workloads, sorted, aliases replaced by who has them
	Target   uint16   // port of the backends
	Join     bool     // people's devices enter Network here
	Entry    string   // the node by which they do; empty: the planner picks
	Proxy    uint64   // version of the PROXY protocol; 0: none
	Check    string   // one of the plan's checks
	Path     string   // of an http check
}

// IsolationAny leaves the class to the planner: plan.IsolationMicroVM wherever the
// node can.
const IsolationAny = "any"

// What replicas can be spread over.
const (
	SpreadNode = "node"
	SpreadFarm = "farm"
)

// Defaults of a container that says nothing else.
const (
	DefaultCPU    = 100
	DefaultMemory = 64 << 20
	DefaultDisk   = 64 << 20
	DefaultPIDs   = 64
)

// Defaults of a machine that says nothing else.
const (
	DefaultVMCPU    = 1000
	DefaultVMMemory = 512 << 20
	DefaultVMDisk   = 2 << 30
	// vmPIDs bounds the processes on the node that make up a machine.
	vmPIDs = 256
)
