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
func Resolve(ctx context.Context, d *Deployment, facts Facts) (plan.Plan, error) {
	s := d.source
	p := plan.Plan{V: plan.Version, Group: facts.Group, Name: d.Name, Workloads: []plan.Workload{}}
	free := make([]contract.Capacity, len(facts.Nodes))
	for i, n := range facts.Nodes {
		free[i] = contract.Capacity{CPU: n.Free.CPU + n.Own.CPU, Memory: n.Free.Memory + n.Own.Memory, Disk: n.Free.Disk + n.Own.Disk}
	}
	for i, w := range d.Workloads {
		pointer := fmt.Sprintf("/workloads/%d", i)
		image, err := facts.Image(ctx, w.Image)
		if err != nil {
			if problem.Code(err) == "" || ctx.Err() != nil {
				return plan.Plan{}, fmt.Errorf("resolve image %s: %w", w.Image, err)
			}
			s.add(s.placeOf(pointer+"/image"), err.Error(), problem.Fix(err))
			continue
		}
		c, err := container(w, image)
		if err != nil {
			s.add(s.placeOf(pointer), err.Error(), problem.Fix(err))
			continue
		}
		config, err := canon.Marshal(c)
		if err != nil {
			return plan.Plan{}, fmt.Errorf("encode workload %s: %w", w.Name, err)
		}
		at, err := choose(w, facts.Nodes, free)
		if err != nil {
			where := pointer
			if w.Node != "" {
				where += "/node"
			}
			s.add(s.placeOf(where), err.Error(), problem.Fix(err))
			continue
		}
		free[at].CPU -= w.CPU
		free[at].Memory -= w.Memory
		free[at].Disk -= w.Disk
		p.Workloads = append(p.Workloads, plan.Workload{
			Name: w.Name, Kind: w.Kind, Slot: facts.Nodes[at].Slot, Config: config,
			Resources: plan.Resources{CPU: w.CPU, Memory: w.Memory, Disk: w.Disk, PIDs: w.PIDs},
		})
	}
	if err := s.err(); err != nil {
		s.mistakes = nil
		return plan.Plan{}, err
	}
	sort.Slice(p.Workloads, func(i, j int) bool { return p.Workloads[i].Name < p.Workloads[j].Name })
	return p, nil
}

// choose picks the node for w: the named one, or the one with most free memory
// that has room, ties broken by id.
func choose(w Workload, nodes []Node, free []contract.Capacity) (int, error) {
	if len(nodes) == 0 {
		return 0, problem.New("no-node", "no farm has admitted this group, or none of its nodes has joined").
			WithFix("ask a farm to run: zos farm admit GROUP")
	}
	best, names := -1, make([]string, 0, len(nodes))
	for i, n := range nodes {
		names = append(names, n.Name)
		named := w.Node != "" && (n.Name == w.Node || len(w.Node) >= 8 && strings.HasPrefix(n.Slot.String(), w.Node))
		if w.Node != "" && !named {
			continue
		}
		fits := free[i].CPU >= w.CPU && free[i].Memory >= w.Memory && free[i].Disk >= w.Disk
		if named && !fits {
			return 0, problem.New("capacity-exceeded", "node %s has %s free, this workload wants %s", n.Name, describe(free[i]),
				describe(contract.Capacity{CPU: w.CPU, Memory: w.Memory, Disk: w.Disk})).WithFix("lower its resources or name another node")
		}
		if !fits {
			continue
		}
		if best < 0 || free[i].Memory > free[best].Memory ||
			free[i].Memory == free[best].Memory && n.Slot.String() < nodes[best].Slot.String() {
			best = i
		}
	}
	if best >= 0 {
		return best, nil
	}
	if w.Node != "" {
		fix := "known: " + strings.Join(names, ", ")
		if near := Nearest(w.Node, names); len(near) > 0 {
			fix = fmt.Sprintf("did you mean %q?", near[0])
		}
		return 0, problem.New("node-unknown", "no node %q takes this group's workloads", w.Node).WithFix("%s", fix)
	}
	return 0, problem.New("capacity-exceeded", "no node has %s free", describe(contract.Capacity{CPU: w.CPU, Memory: w.Memory, Disk: w.Disk})).
		WithFix("lower its resources, or cancel a contract")
}

func describe(c contract.Capacity) string {
	return fmt.Sprintf("%g cores, %d MiB memory, %d MiB disk", float64(c.CPU)/1000, c.Memory>>20, c.Disk>>20)
}

// container merges what the spec says over what the image says.
func container(w Workload, image Image) (plan.Container, error) {
	c := plan.Container{V: plan.Version, Flist: image.Flist, Size: image.Size, WorkDir: "/", Restart: w.Restart, NoNewPrivs: !w.Setuid}
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
