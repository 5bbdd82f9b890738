package container

import (
	"fmt"
	"path"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/shim"
)

// Limits of a plan, beyond what runc or the kernel would refuse less clearly.
const (
	minMemory  = 4 << 20 // bytes; less can't even execute a program
	maxStrings = 4096    // arguments, variables
	maxString  = 128 << 10
	idRange    = 65536
)

// Problem codes of workloads that can't be run.
const (
	CodeInvalid   = "plan-invalid"          // no node could run it
	CodeIsolation = "isolation-unavailable" // this node has no such isolation, and never gives less
	CodeSecret    = "secret-unreadable"     // this node can't open a secret of it
)

// decode reads and checks the container in a desired workload. What it returns is
// safe to use in paths and configuration.
func decode(d workload.Desired) (plan.Container, error) {
	var c plan.Container
	invalid := func(format string, args ...any) (plan.Container, error) {
		return plan.Container{}, problem.New(CodeInvalid, "workload %.63q: "+format, append([]any{d.ID.Name}, args...)...)
	}
	if !nameRE.MatchString(d.ID.Name) || d.Plan.Name != d.ID.Name {
		return invalid("its name is not [a-z0-9-]{1,63}, or not the plan's")
	}
	if d.Plan.Kind != plan.KindContainer {
		return invalid("kind %.40q: want %q", d.Plan.Kind, plan.KindContainer)
	}
	if err := canon.Unmarshal(d.Plan.Config, &c); err != nil {
		return invalid("read its configuration: %w", err)
	}
	if err := check(c, d.Plan.Resources); err != nil {
		return invalid("%w", err)
	}
	if c.Isolation != plan.IsolationNamespace && c.Isolation != plan.IsolationMicroVM {
		return invalid("isolation %.40q: want namespace or microvm", c.Isolation)
	}
	return c, nil
}

func check(c plan.Container, r plan.Resources) error {
	switch {
	case c.V != plan.Version:
		return fmt.Errorf("version %d: want %d", c.V, plan.Version)
	case c.Flist.IsZero():
		return fmt.Errorf("it names no flist")
	case len(c.Args) == 0 || c.Args[0] == "":
		return fmt.Errorf("it names no program to run")
	case len(c.Args) > maxStrings || len(c.Env) > maxStrings:
		return fmt.Errorf("more than %d arguments or variables", maxStrings)
	case !path.IsAbs(c.WorkDir):
		return fmt.Errorf("working directory %.80q: want an absolute path", c.WorkDir)
	case c.UID >= idRange || c.GID >= idRange:
		return fmt.Errorf("user %d, group %d: want less than %d", c.UID, c.GID, idRange)
	case r.CPU < 1 || r.CPU > 1e6:
		return fmt.Errorf("cpu %d: want 1 to 1000000 thousandths of a core", r.CPU)
	case r.Memory < minMemory || r.Memory > 1<<50:
		return fmt.Errorf("memory of %d bytes: want at least %d", r.Memory, minMemory)
	case r.Disk > 1<<50:
		return fmt.Errorf("disk of %d bytes: too large", r.Disk)
	case r.PIDs < 1 || r.PIDs > 1<<22:
		return fmt.Errorf("pids %d: want 1 to %d", r.PIDs, 1<<22)
	}
	if err := shim.CheckPolicy(c.Life.Restart); err != nil {
		return err
	}
	for _, f := range c.Files {
		if err := placeable(f.Path); err != nil {
			return err
		}
	}
	for _, s := range c.Secrets {
		if err := placeable(s.Path); err != nil {
			return err
		}
	}
	for _, s := range append(append([]string{c.WorkDir}, c.Args...), c.Env...) {
		if len(s) > maxString || strings.ContainsRune(s, 0) {
			return fmt.Errorf("%.40q: longer than %d bytes, or with a zero byte", s, maxString)
		}
	}
	for _, e := range c.Env {
		if i := strings.IndexByte(e, '='); i < 1 {
			return fmt.Errorf("variable %.40q: want NAME=value", e)
		}
	}
	return nil
}
