package netnode

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// TenantNetwork is the name of every tenant's network.
const TenantNetwork = "net"

// Tenant is a deployment with one network over some nodes and a container on
// each: w0 on the first node, w1 on the second, … All tenants have the same
// addresses, IPv6 too, which only happens if their planner means harm.
type Tenant struct {
	Contract canon.Hash
	plan     *plan.Plan
	nodes    []*Node
	nets     [][]plan.Attachment
}

// Workload is an attached container, as its processes see the network.
type Workload struct {
	*netlab.Host
	Tenant *Tenant
	Node   int // index in the tenant's nodes
	IPv4   netip.Addr
	IPv6   netip.Addr
}

// NewTenant plans a deployment of this name.
func NewTenant(tb netlab.TB, name string, nodes ...*Node) *Tenant {
	tb.Helper()
	t := &Tenant{Contract: canon.Sum([]byte("tenant " + name)), nodes: nodes}
	group := canon.Sum([]byte("group"))
	ula := plan.ULA(group, "d", TenantNetwork)
	n := plan.Network{Name: TenantNetwork, IPv4: "10.20.0.0/16", IPv6: ula.String()}
	p := &plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: group, Name: "d"}
	add := func(w plan.Workload) { p.Workloads = append(p.Workloads, w) }
	config, err := plan.NetworkConfig{V: plan.Version, Network: TenantNetwork}.Encode()
	if err != nil {
		tb.Fatalf("netnode: %v", err)
	}
	for i, node := range nodes {
		a6 := ula.Addr().As16()
		a6[7] = byte(i + 1)
		slot := Slot(node.Config.Number)
		n.Nodes = append(n.Nodes, plan.NetworkNode{
			Slot: slot,
			IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, byte(i + 1), 0}), 24).String(),
			IPv6: netip.PrefixFrom(netip.AddrFrom16(a6), 64).String(),
		})
		add(plan.Workload{Name: plan.RouterName(TenantNetwork, slot), Kind: plan.KindNetwork, Slot: slot, Resources: plan.RouterResources(), Config: config})
		a6[15] = 10
		at := []plan.Attachment{{
			Network: TenantNetwork, IPv4: fmt.Sprintf("10.20.%d.10", i+1), IPv6: netip.AddrFrom16(a6).String(),
			Aliases: []string{}, Open: true, Allow: []plan.Rule{}, Egress: plan.EgressNone,
		}}
		t.nets = append(t.nets, at)
		c, err := plan.Container{
			V: plan.Version, Flist: canon.Sum([]byte("flist")), Size: 1, Args: []string{"/bin/x"}, Env: []string{}, WorkDir: "/",
			Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), NoNewPrivs: true, Networks: at,
		}.Encode()
		if err != nil {
			tb.Fatalf("netnode: %v", err)
		}
		add(plan.Workload{
			Name: fmt.Sprintf("w%d", i), Kind: plan.KindContainer, Slot: slot, Config: c,
			Resources: plan.Resources{CPU: 100, Memory: 64 << 20, Disk: 64 << 20, PIDs: 16},
		})
	}
	slices.SortFunc(n.Nodes, func(a, b plan.NetworkNode) int { return strings.Compare(a.Slot.String(), b.Slot.String()) })
	p.Networks = []plan.Network{n}
	slices.SortFunc(p.Workloads, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
	t.plan = p
	return t
}

// ID is the id of the tenant's network.
func (t *Tenant) ID() canon.Hash { return network.ID(t.Contract, TenantNetwork) }

func (t *Tenant) desired(tb netlab.TB, name string) workload.Desired {
	tb.Helper()
	for _, w := range t.plan.Workloads {
		if w.Name == name {
			return workload.Desired{ID: workload.ID{Contract: t.Contract, Name: name}, Version: 1, Plan: w, Deployment: t.plan}
		}
	}
	tb.Fatalf("netnode: no workload %s", name)
	return workload.Desired{}
}

// Ensure makes the network on node i, and returns its router's namespace.
func (t *Tenant) Ensure(tb netlab.TB, i int) *netlab.Host {
	tb.Helper()
	n := t.nodes[i]
	d := t.desired(tb, plan.RouterName(TenantNetwork, Slot(n.Config.Number)))
	if err := n.EnsureNetwork(d); err != nil {
		tb.Fatalf("netnode: %s: %v", n.name, err)
	}
	paths, err := filepath.Glob(filepath.Join(n.Config.Run, "r-"+t.Contract.String()+"-*"))
	if err != nil {
		tb.Fatalf("netnode: %v", err)
	}
	for _, p := range paths {
		// Beside the pinned namespace there are files about it.
		if filepath.Ext(p) == "" {
			if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
				return n.Host.Lab().Enter(fmt.Sprintf("router on %s", n.Host.Name()), p)
			}
		}
	}
	tb.Fatalf("netnode: %s: no router namespace in %s: %v", n.name, n.Config.Run, paths)
	return nil
}

// Attach attaches the container of node i.
func (t *Tenant) Attach(tb netlab.TB, i int) *Workload {
	tb.Helper()
	n, name := t.nodes[i], fmt.Sprintf("w%d", i)
	ns, err := n.Attach(t.desired(tb, name), t.nets[i])
	if err != nil {
		tb.Fatalf("netnode: %s: %v", n.name, err)
	}
	return &Workload{
		Host: n.Host.Lab().Enter(name+" on "+n.Host.Name(), ns.Path), Tenant: t, Node: i,
		IPv4: netip.MustParseAddr(t.nets[i][0].IPv4), IPv6: netip.MustParseAddr(t.nets[i][0].IPv6),
	}
}
