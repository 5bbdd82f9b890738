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
	Grid  canon.Hash // id of the grid
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
	// File reads a file that a spec names, beside the spec file or below its folder;
	// one byte more than limit says that it is larger. Nil: files can't be read.
	File func(name string, limit int) ([]byte, error)
	// Value reads a secret from where a spec says, "env:NAME" or "file:PATH"; false
	// says that nothing is there. Nil: nothing is.
	Value func(from string) ([]byte, bool, error)
}

// Node is a slot that a workload can be placed on.
type Node struct {
	Slot canon.Hash
	Name string
	Farm canon.Hash
	// Epoch and SealingKey are of the keys that are bound to the slot now: secrets
	// are sealed to them.
	Epoch      uint64
	SealingKey []byte
	// Isolation is the classes that the node says it runs; nil: it has not said. Lacks
	// is its word on why one is missing.
	Isolation []string
	Lacks     string
	Free      contract.Capacity // capacity less what approved contracts use
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
	made, err := images(ctx, d, facts)
	if err != nil {
		return plan.Plan{}, err
	}
	in := readInputs(d, facts)
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
	p := plan.Plan{V: plan.Version, Group: facts.Group, Name: d.Name, Update: d.Update, Networks: nets.networks, Workloads: nets.routers}
	for i, w := range d.Workloads {
		at := placed.at[i]
		class := placed.class(w, at)
		secrets := in.seal(d, i, facts, facts.Nodes[at], old)
		var config any
		switch w.Kind {
		case plan.KindGateway:
			config = placed.config(d, i, nets.attachments[i])
		case plan.KindVM:
			m := made[i].vm
			m.Networks, m.Secrets, m.UserData = nets.attachments[i], secrets, in.userData(w)
			config = m
		default:
			c := made[i].container
			c.Networks, c.Secrets, c.Files, c.Isolation = nets.attachments[i], secrets, in.files(w), class
			config = c
		}
		encoded, err := canon.Marshal(config)
		if err != nil {
			return plan.Plan{}, fmt.Errorf("encode workload %s: %w", w.Name, err)
		}
		p.Workloads = append(p.Workloads, plan.Workload{
			Name: w.Name, Kind: w.Kind, Slot: facts.Nodes[at].Slot, Set: w.Set, After: w.After, Config: encoded,
			Resources: plan.Resources{CPU: w.CPU, Memory: w.Memory + plan.Overhead(w.Kind, class), Disk: w.Disk, PIDs: w.PIDs},
		})
	}
	if err := s.drain(); err != nil { // of secrets
		return plan.Plan{}, err
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

// program is what a workload runs, as far as spec and image say.
type program struct {
	container plan.Container
	vm        plan.VM
}

// images resolves the images and makes the containers and machines, in the order of
// the workloads. What can't be had is a mistake.
func images(ctx context.Context, d *Deployment, facts Facts) ([]program, error) {
	s := d.source
	out := make([]program, len(d.Workloads))
	for i, w := range d.Workloads {
		if !plan.Runs(w.Kind) {
			continue
		}
		if i > 0 && w.Set != "" && w.Set == d.Workloads[i-1].Set { // replicas stand together
			out[i] = out[i-1]
			continue
		}
		pointer := fmt.Sprintf("/workloads/%d", w.entry)
		image, err := facts.Image(ctx, w.Image)
		if err != nil {
			if problem.Code(err) == "" || ctx.Err() != nil {
				s.mistakes = nil
				return nil, fmt.Errorf("resolve image %s: %w", w.Image, err)
			}
			s.add(s.placeOf(pointer+"/image"), err.Error(), problem.Fix(err))
			continue
		}
		if w.Kind == plan.KindVM {
			out[i].vm = plan.VM{V: plan.Version, Flist: image.Flist, Size: image.Size, Boot: w.Boot, Cmdline: w.Cmdline, Disks: w.Disks, Keys: w.Keys, Life: w.Life}
		} else if out[i].container, err = container(w, image); err != nil {
			s.add(s.placeOf(pointer), err.Error(), problem.Fix(err))
		}
	}
	return out, nil
}

// container merges what the spec says over what the image says.
func container(w Workload, image Image) (plan.Container, error) {
	c := plan.Container{V: plan.Version, Flist: image.Flist, Size: image.Size, WorkDir: "/", NoNewPrivs: !w.Setuid && !w.Privileged, Privileged: w.Privileged, Life: w.Life}
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
