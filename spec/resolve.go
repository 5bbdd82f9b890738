package spec

import (
	"context"
	"fmt"
	"path"
	"sort"
	"strconv"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// Facts is everything that planning depends on besides the spec.
type Facts struct {
	Group canon.Hash // id of the deployment's group
	Nodes []Node     // nodes whose farm admitted the group
	// Standing is the plan of this deployment that runs now, or nil. What stays
	// in the deployment keeps its node, ranges and addresses.
	Standing *plan.Plan
	// Zone is the grid's domain, under which groups reserve names; empty: the grid
	// has none.
	Zone string
	// Name looks up who has reserved a label directly under Zone: a group's name
	// for people, and whether that is this group; mine without reserved says that
	// this group's reservation has ended. Nil: nothing is reserved.
	Name func(label string) (holder string, mine, reserved bool)
	// Hosts are the full names that other contracts of the group publish, with the
	// contract.
	Hosts map[string]canon.Hash
	// Holder names a contract for people; nil: by its id.
	Holder func(contract canon.Hash) string
	// Image resolves publisher/name:tag or a digest. Its error should be a
	// problem.Error; its advice is shown under the image's line.
	Image func(ctx context.Context, ref string) (Image, error)
}

// Node is a slot that a workload can be placed on.
type Node struct {
	Slot canon.Hash
	Name string
	Free contract.Capacity // capacity less what approved contracts use
	// Own is what this deployment's standing version uses there: an update
	// gives it back.
	Own contract.Capacity
	// Pool is the public addresses at the node; nil: none, so it can't run a
	// gateway.
	Pool *contract.Pool
	// Ports are those at the pool's shared addresses that other contracts lease,
	// and Leased the pool's addresses that others lease whole, in canonical text;
	// each with the contract that holds it, or zero if those are several.
	Ports  map[PublicPort]canon.Hash
	Leased map[string]canon.Hash
}

// PublicPort is a port of a public address.
type PublicPort struct {
	Mode string // plan.ModeTCP or plan.ModeUDP
	Port uint16
}

// holder names who holds something.
func (f Facts) holder(contract canon.Hash) string {
	switch {
	case contract.IsZero():
		return "contracts that share it"
	case f.Holder == nil:
		return "contract " + contract.Short()
	}
	return f.Holder(contract)
}

// Image is a resolved image.
type Image struct {
	Flist  canon.Hash
	Size   uint64 // bytes of all files
	Config flist.Config
}

// defaultPath is what a program finds when image and spec set no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Resolve makes the plan that people approve. The same deployment and facts
// give the same bytes. Its error is an *Error with the mistakes' places.
//
// Standing devices stay, although no spec lists them: they join and are revoked
// by decisions of their own. Only those of a network that is gone leave with it.
func Resolve(ctx context.Context, d *Deployment, facts Facts) (plan.Plan, error) {
	s := d.source
	containers, err := images(ctx, d, facts)
	if err != nil {
		return plan.Plan{}, err
	}
	old := readStanding(facts.Standing)
	devices := old.remaining(d)
	meet(d, devices)
	hosts := fullNames(d, facts)
	placed := settle(d, facts, old, devices, hosts)
	if err := s.drain(); err != nil { // of images, names and places
		return plan.Plan{}, err
	}
	nets := allocate(d, facts, placed, old, devices)
	if err := s.drain(); err != nil {
		return plan.Plan{}, err
	}
	p := plan.Plan{V: plan.Version, Group: facts.Group, Name: d.Name, Update: plan.DefaultUpdate(), Networks: nets.networks, Workloads: nets.routers}
	for i, w := range d.Workloads {
		var config any
		if containers[i].Networks = nets.attachments[i]; w.Kind == plan.KindGateway {
			config = placed.config(d, i, nets.attachments[i])
		} else {
			config = containers[i]
		}
		encoded, err := canon.Marshal(config)
		if err != nil {
			return plan.Plan{}, fmt.Errorf("encode workload %s: %w", w.Name, err)
		}
		p.Workloads = append(p.Workloads, plan.Workload{
			Name: w.Name, Kind: w.Kind, Slot: facts.Nodes[placed.at[i]].Slot, Config: encoded,
			Resources: plan.Resources{CPU: w.CPU, Memory: w.Memory, Disk: w.Disk, PIDs: w.PIDs},
		})
	}
	for i, dev := range devices {
		dev.Device.Network = nets.devices[i]
		if dev.Workload.Config, err = canon.Marshal(dev.Device); err != nil {
			return plan.Plan{}, fmt.Errorf("encode device %s: %w", dev.Name, err)
		}
		p.Workloads = append(p.Workloads, dev.Workload)
	}
	sort.Slice(p.Workloads, func(i, j int) bool { return p.Workloads[i].Name < p.Workloads[j].Name })
	if _, err := plan.Encode(p); err != nil { // what only the whole shows, like its size
		s.add(s.placeOf("/workloads"), err.Error(), "split the deployment")
		return plan.Plan{}, s.drain()
	}
	return p, nil
}

// images resolves the images and makes the containers, in the order of the
// workloads. What can't be had is a mistake.
func images(ctx context.Context, d *Deployment, facts Facts) ([]plan.Container, error) {
	s := d.source
	out := make([]plan.Container, len(d.Workloads))
	for i, w := range d.Workloads {
		if w.Kind != plan.KindContainer {
			continue
		}
		pointer := fmt.Sprintf("/workloads/%d", i)
		image, err := facts.Image(ctx, w.Image)
		if err != nil {
			if problem.Code(err) == "" || ctx.Err() != nil {
				s.mistakes = nil
				return nil, fmt.Errorf("resolve image %s: %w", w.Image, err)
			}
			s.add(s.placeOf(pointer+"/image"), err.Error(), problem.Fix(err))
			continue
		}
		if out[i], err = container(w, image); err != nil {
			s.add(s.placeOf(pointer), err.Error(), problem.Fix(err))
		}
	}
	return out, nil
}

// container merges what the spec says over what the image says.
func container(w Workload, image Image) (plan.Container, error) {
	c := plan.Container{V: plan.Version, Flist: image.Flist, Size: image.Size, WorkDir: "/", NoNewPrivs: !w.Setuid, Isolation: plan.IsolationNamespace, Life: plan.DefaultLife()}
	c.Life.Restart = w.Restart
	c.Args = w.Command
	if len(c.Args) == 0 {
		c.Args = append(append([]string{}, image.Config.Entrypoint...), image.Config.Cmd...)
	}
	if len(c.Args) == 0 {
		return c, problem.New("no-command", "the image names no program to run").WithFix("add a line command: [\"/path/to/program\"]")
	}
	env := map[string]string{"PATH": defaultPath}
	for _, kv := range image.Config.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			env[k] = v
		}
	}
	for k, v := range w.Env {
		env[k] = v
	}
	c.Env = make([]string, 0, len(env))
	for k, v := range env {
		c.Env = append(c.Env, k+"="+v)
	}
	sort.Strings(c.Env)
	for _, dir := range []string{image.Config.WorkDir, w.WorkDir} {
		if dir != "" {
			c.WorkDir = path.Clean("/" + dir)
		}
	}
	user := image.Config.User
	if w.User != "" {
		user = w.User
	}
	var err error
	c.UID, c.GID, err = parseUser(user)
	return c, err
}

// parseUser reads "uid" or "uid:gid"; a name can't be resolved without reading
// the image's files, which the planner doesn't do.
func parseUser(user string) (uid, gid uint32, err error) {
	if user == "" || user == "root" || user == "root:root" {
		return 0, 0, nil
	}
	u, g, both := strings.Cut(user, ":")
	if !both {
		g = u
	}
	un, err1 := strconv.ParseUint(u, 10, 16)
	gn, err2 := strconv.ParseUint(g, 10, 16)
	if err1 != nil || err2 != nil || un > 65534 || gn > 65534 {
		return 0, 0, problem.New("user-unknown", "the image runs as %q, which is no number below 65535", user).
			WithFix(`add a line user: "1000:1000" with the image's numbers`)
	}
	return uint32(un), uint32(gn), nil
}
