package container

import (
	"context"

	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// Networks attaches containers to the networks of their plan. Package
// workload/network is one.
type Networks interface {
	// Attach makes a network namespace for the workload with an interface in each
	// of the networks: eth0, eth1, … in the order of nets. It waits, about ten
	// seconds at most, for the networks to be on this node. It is idempotent:
	// called for a running container it mends what is missing, without a
	// connection being lost. d.Deployment must be there.
	Attach(ctx context.Context, d workload.Desired, nets []plan.Attachment) (Namespace, error)
	// Attached returns nil if the workload is attached as Attach left it, else
	// what is missing. It changes nothing.
	Attached(id workload.ID) error
	// Detach takes the namespace away, with all in it. Nothing there is no error.
	Detach(ctx context.Context, id workload.ID) error
	// List names the workloads of which a namespace, or a part of one, exists.
	List() ([]workload.ID, error)
}

// Namespace is what a container finds when it starts. It belongs to the node's
// user namespace, so that no capability that a process may gain within the
// container's own is one over its interfaces.
type Namespace struct {
	Path       string // of the network namespace, pinned
	Sysfs      string // of a read-only sysfs that shows its interfaces
	ResolvConf string // file for /etc/resolv.conf
	Hosts      string // file for /etc/hosts
}
