package plan

import (
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Limits of a Plan. Together with MaxSize they bound what a node or the ledger
// must hold in memory to read one.
const (
	MaxSize      = 240 << 10 // bytes of an encoded Plan
	MaxWorkloads = 512       // of all kinds
	MaxArgs      = 256       // entries of Args, and of Env
	MaxString    = 32 << 10  // bytes of one argument or variable
	MaxID        = 65535     // highest UID and GID: one user namespace
	// MaxAmount bounds every number of Resources, so that sums can't overflow.
	MaxAmount = 1 << 50
	// MinMemory is the least a container can be limited to and still start.
	MinMemory = 1 << 20

	MaxNetworks    = 8   // of a plan
	MaxNetworkName = 40  // characters
	MaxNodes       = 256 // of a network
	MaxAttachments = 4   // of a container
	MaxAliases     = 16  // of an attachment
	MaxRules       = 32  // of an attachment
	MaxPeers       = 128 // of a rule

	// MinBandwidth is the least that passes a full packet several times a second.
	MinBandwidth = 64_000
	MaxBandwidth = 1_000_000_000_000 // bit/s

	maxNetworkConfig = 128 // bytes
)

// Restart policies of a Container.
const (
	RestartAlways    = "always"
	RestartOnFailure = "on-failure"
	RestartNever     = "never"
)

// ValidName tells whether s is a name: [a-z0-9-]{1,63}.
func ValidName(s string) bool {
	if len(s) < 1 || len(s) > 63 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// Hash returns the plan hash of encoded plan bytes.
func Hash(encoded []byte) canon.Hash { return canon.Sum(encoded) }

// Encode validates p and returns its canonical bytes.
func Encode(p Plan) ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	b, err := canon.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode plan %s: %w", p.Name, err)
	}
	if len(b) > MaxSize {
		return nil, invalid("plan %s has %d bytes, at most %d are allowed", p.Name, len(b), MaxSize)
	}
	return b, nil
}

// Decode reads canonical plan bytes and validates them. Its errors have the
// code "plan-invalid".
func Decode(encoded []byte) (Plan, error) {
	var p Plan
	if err := canon.UnmarshalLimit(encoded, MaxSize, &p); err != nil {
		return Plan{}, invalid("read plan: %w", err)
	}
	if err := p.Validate(); err != nil {
		return Plan{}, err
	}
	return p, nil
}

// Validate checks everything about p that can be known without the ledger. A
// plan without workloads is valid here; only a cancellation may carry it.
func (p Plan) Validate() error {
	if p.V != Version {
		return invalid("plan of version %d, this software knows %d", p.V, Version)
	}
	if !ValidName(p.Name) {
		return invalid("deployment name %.80q: want [a-z0-9-], 1 to 63 characters", p.Name)
	}
	if p.Group.IsZero() {
		return invalid("plan %s names no group", p.Name)
	}
	if len(p.Workloads) > MaxWorkloads {
		return invalid("plan %s has %d workloads, at most %d are allowed", p.Name, len(p.Workloads), MaxWorkloads)
	}
	if err := p.Update.validate(); err != nil {
		return fmt.Errorf("plan %s: %w", p.Name, err)
	}
	if err := p.checkOrder(); err != nil {
		return fmt.Errorf("plan %s: %w", p.Name, err)
	}
	nets, err := p.newNetCheck()
	if err != nil {
		return fmt.Errorf("plan %s: %w", p.Name, err)
	}
	for i, w := range p.Workloads {
		if i > 0 && p.Workloads[i-1].Name >= w.Name {
			return invalid("plan %s: workloads are not sorted by name, or %.80q occurs twice", p.Name, w.Name)
		}
		if err := w.check(nets); err != nil {
			return fmt.Errorf("plan %s: %w", p.Name, err)
		}
	}
	if err := nets.finish(p); err != nil {
		return fmt.Errorf("plan %s: %w", p.Name, err)
	}
	return nil
}

// Validate checks one workload and its configuration by itself.
func (w Workload) Validate() error { return w.check(nil) }

// check is Validate, and with nets also what the plan's networks ask of w.
func (w Workload) check(nets *netCheck) error {
	if !ValidName(w.Name) {
		return invalid("workload name %.80q: want [a-z0-9-], 1 to 63 characters", w.Name)
	}
	if w.Slot.IsZero() {
		return invalid("workload %s names no slot", w.Name)
	}
	if w.Set != "" && !ValidName(w.Set) {
		return invalid("workload %s: replica set %.80q: want [a-z0-9-], 1 to 63 characters", w.Name, w.Set)
	}
	if len(w.After) > MaxWorkloads {
		return invalid("workload %s comes after %d others, at most %d are allowed", w.Name, len(w.After), MaxWorkloads)
	}
	r := w.Resources
	for _, n := range []struct {
		what     string
		have, lo uint64
	}{{"cpu", r.CPU, 1}, {"memory", r.Memory, MinMemory}, {"disk", r.Disk, 0}, {"pids", r.PIDs, 1}} {
		if n.have < n.lo || n.have > MaxAmount {
			return invalid("workload %s: %s is %d, want %d to %d", w.Name, n.what, n.have, n.lo, uint64(MaxAmount))
		}
	}
	var err error
	switch w.Kind {
	case KindContainer:
		var c Container
		if c, err = DecodeContainer(w.Config); err == nil && nets != nil {
			return nets.attach(w, c.Networks)
		}
	case KindVM:
		var m VM
		if m, err = DecodeVM(w.Config); err == nil && nets != nil {
			return nets.attach(w, m.Networks)
		}
	case KindNetwork:
		var c NetworkConfig
		if c, err = DecodeNetworkConfig(w.Config); err == nil && nets != nil {
			return nets.router(w, c)
		}
	case KindGateway:
		var g Gateway
		if g, err = DecodeGateway(w.Config); err == nil && nets != nil {
			return nets.publish(w, g)
		}
	case KindDevice:
		var d Device
		if d, err = DecodeDevice(w.Config); err == nil && nets != nil {
			return nets.join(w, d)
		}
	default:
		return invalid("workload %s: kind %.80q is not known", w.Name, w.Kind)
	}
	if err != nil {
		return fmt.Errorf("workload %s: %w", w.Name, err)
	}
	return nil
}

// DecodeContainer reads and validates the Config of a container.
func DecodeContainer(config []byte) (Container, error) {
	var c Container
	if err := canon.UnmarshalLimit(config, MaxSize, &c); err != nil {
		return Container{}, invalid("read container configuration: %w", err)
	}
	if err := c.Validate(); err != nil {
		return Container{}, err
	}
	return c, nil
}

// Encode validates c and returns its canonical bytes, for Workload.Config.
func (c Container) Encode() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	b, err := canon.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode container configuration: %w", err)
	}
	return b, nil
}

// Validate checks a container's configuration.
func (c Container) Validate() error {
	switch {
	case c.V != Version:
		return invalid("container configuration of version %d, this software knows %d", c.V, Version)
	case c.Flist.IsZero():
		return invalid("container names no flist")
	case c.Size > MaxAmount:
		return invalid("container's flist size is %d, at most %d is allowed", c.Size, uint64(MaxAmount))
	case len(c.Args) == 0 || c.Args[0] == "":
		return invalid("container has nothing to execute")
	case len(c.Args) > MaxArgs || len(c.Env) > MaxArgs:
		return invalid("container has %d arguments and %d variables, at most %d of each are allowed", len(c.Args), len(c.Env), MaxArgs)
	case !path.IsAbs(c.WorkDir) || path.Clean(c.WorkDir) != c.WorkDir || !clean(c.WorkDir):
		return invalid("container's working directory %.80q is not an absolute, plain path", c.WorkDir)
	case c.UID > MaxID || c.GID > MaxID:
		return invalid("container runs as %d:%d, at most %d is allowed", c.UID, c.GID, MaxID)
	case c.Isolation != IsolationMicroVM && c.Isolation != IsolationNamespace:
		return invalid("container's isolation is %.80q, want microvm or namespace", c.Isolation)
	case c.Privileged && (c.Isolation != IsolationMicroVM || c.NoNewPrivs):
		return invalid("container is privileged outside a micro-VM, or without new privileges")
	}
	for _, a := range c.Args {
		if !clean(a) {
			return invalid("container has an argument that is too long or holds a zero byte")
		}
	}
	last := ""
	for i, e := range c.Env {
		name, _, ok := strings.Cut(e, "=")
		if !ok || name == "" || !clean(e) {
			return invalid("container's variable %.80q is not NAME=value", e)
		}
		if i > 0 && name <= last {
			return invalid("container's variables are not sorted by name, or %.80q occurs twice", name)
		}
		last = name
	}
	for _, err := range []error{validateAttachments(c.Networks), validateFiles(c.Files), validateSecrets(c.Secrets), validatePlaces(c.Env, c.Files, c.Secrets), c.Life.validate()} {
		if err != nil {
			return fmt.Errorf("container: %w", err)
		}
	}
	return nil
}

// SortEnv sorts NAME=value entries as a Container needs them: by name, the last
// value of a name wins. It returns a new slice.
func SortEnv(env []string) []string {
	values := map[string]string{}
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		values[name] = e
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	sort.Strings(names)
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = values[name]
	}
	return out
}

// clean tells whether the kernel can take s as an argument.
func clean(s string) bool { return len(s) <= MaxString && !strings.Contains(s, "\x00") }

func invalid(format string, args ...any) error { return problem.New("plan-invalid", format, args...) }
