// Package plan is the resolved deployment: the exact bytes that people approve
// and that nodes execute. Everything is decided in it: nodes, digests, limits,
// networks and addresses.
//
// It lies below package contract, whose rules read a plan's slots and
// resources, and below package spec, which makes plans from what people write.
package plan

import (
	"github.com/zero-os/zos/canon"
)

// Version is the format version of a Plan.
const Version = 1

// Plan is what a group approves for one deployment. A plan without workloads
// is what the approval of a cancellation carries.
type Plan struct {
	V         uint64     `cbor:"v"`
	Group     canon.Hash `cbor:"group"`     // id of the group
	Name      string     `cbor:"name"`      // deployment, [a-z0-9-]{1,63}
	Update    Update     `cbor:"update"`    // how nodes go from the version before to this one
	Networks  []Network  `cbor:"networks"`  // sorted by name, unique names
	Workloads []Workload `cbor:"workloads"` // sorted by name, unique names
}

// Workload is one thing that one node runs.
type Workload struct {
	Name      string     `cbor:"name"` // [a-z0-9-]{1,63}, unique within the plan
	Kind      string     `cbor:"kind"` // the workload kind, e.g. "container"
	Slot      canon.Hash `cbor:"slot"` // id of the node slot that runs it
	Resources Resources  `cbor:"resources"`
	// Set names the replica set that it is one of, "" if none. Replicas share an
	// alias of that name, and are updated one after another.
	Set string `cbor:"set"`
	// After names workloads of the plan that must be healthy, or have exited with 0,
	// before this one starts; sorted, each once.
	After []string `cbor:"after"`
	// Config is the kind's own canonical CBOR, e.g. an encoded Container.
	Config []byte `cbor:"config"`
}

// Resources are hard limits, and what counts against the slot's capacity.
type Resources struct {
	CPU    uint64 `cbor:"cpu"`    // thousandths of a core
	Memory uint64 `cbor:"memory"` // bytes
	Disk   uint64 `cbor:"disk"`   // bytes that the workload may write
	PIDs   uint64 `cbor:"pids"`   // processes and threads
}

// KindContainer is the kind of a Container workload.
const KindContainer = "container"

// Container is the configuration of a workload of kind "container". What the
// spec left out has been filled in from the image's own configuration by the
// planner, so the approved bytes say everything that runs.
type Container struct {
	V       uint64     `cbor:"v"`
	Flist   canon.Hash `cbor:"flist"`   // digest of the flist manifest
	Size    uint64     `cbor:"size"`    // bytes of the whole flist, for progress
	Args    []string   `cbor:"args"`    // argv, at least one
	Env     []string   `cbor:"env"`     // NAME=value, sorted
	WorkDir string     `cbor:"workdir"` // absolute
	UID     uint32     `cbor:"uid"`     // inside the user namespace, < 65536
	GID     uint32     `cbor:"gid"`
	// NoNewPrivs is on unless the spec asks for setuid programs.
	NoNewPrivs bool `cbor:"no_new_privs"`
	// Isolation is IsolationMicroVM or IsolationNamespace.
	Isolation string `cbor:"isolation"`
	// Privileged gives the program every capability inside its micro-VM, for
	// containers in it; of IsolationMicroVM alone.
	Privileged bool `cbor:"privileged"`
	Life       Life `cbor:"life"`
	// Files and Secrets are put into it, in memory only.
	Files   []File   `cbor:"files"`
	Secrets []Secret `cbor:"secrets"`
	// Networks are the container's interfaces: the first is eth0, the second
	// eth1. Without any it has a loopback interface only.
	Networks []Attachment `cbor:"networks"`
}
