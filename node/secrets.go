package node

import (
	"context"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/secret"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// nodeSecrets opens what plans have sealed to this node. What it returns is only ever
// to be in memory.
type nodeSecrets struct {
	grid canon.Hash
	key  secret.Opener
}

// Open opens one secret of a workload. It opens as this secret of this workload in a
// deployment of this name and group, or not at all: "secret-unreadable".
func (n nodeSecrets) Open(d workload.Desired, s plan.Secret) ([]byte, error) {
	if d.Deployment == nil {
		return nil, problem.New("secret-unreadable", "secret %s: it is not known what it was sealed for", s.Name)
	}
	return secret.Open(n.key, secret.Info{
		Grid: n.grid, Group: d.Deployment.Group, Deployment: d.Deployment.Name, Workload: d.Plan.Name, Name: s.Name, Epoch: s.Epoch,
	}, s.Sealed)
}

// open is Open for who has a context.
func (n nodeSecrets) open(_ context.Context, d workload.Desired, s plan.Secret) ([]byte, error) {
	return n.Open(d, s)
}
