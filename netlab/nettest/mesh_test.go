package nettest

import (
	"os/exec"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/netlab/netnode"
)

// meshOf is a network on some nodes, each with a bare router namespace.
type meshOf struct {
	id      canon.Hash
	nodes   []*netnode.Node
	routers []*netlab.Host
}

func mesh(t *testing.T, name string, nodes ...*netnode.Node) meshOf {
	t.Helper()
	var numbers []int
	for _, n := range nodes {
		numbers = append(numbers, n.Config.Number)
	}
	topology := netnode.Mesh(name, numbers...)
	m := meshOf{id: topology.ID, nodes: nodes}
	for _, n := range nodes {
		m.routers = append(m.routers, n.Router(topology))
		n.Ensure(topology)
	}
	return m
}

func command(name string, args ...string) *exec.Cmd { return exec.Command(name, args...) }
