package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/spec"
	"github.com/zero-os/zos/spec/plan"
)

// describe shows a workload of a plan, a fact a line. Files and secrets are told by
// their names and digests.
func describe(w plan.Workload, names client.Names) []string {
	lines := []string{
		fmt.Sprintf("%s %s on %s", w.Kind, w.Name, names.Of(w.Slot)),
		fmt.Sprintf("    limits   %g cpu, %s memory, %s disk, %d processes", float64(w.Resources.CPU)/1000, mib(w.Resources.Memory), mib(w.Resources.Disk), w.Resources.PIDs),
	}
	if w.Set != "" {
		lines = append(lines, "    replica  of "+w.Set)
	}
	if len(w.After) > 0 {
		lines = append(lines, "    after    "+strings.Join(w.After, ", ")+" are ready")
	}
	switch w.Kind {
	case plan.KindGateway:
		if g, err := plan.DecodeGateway(w.Config); err == nil {
			return append(lines, network.DescribeGateway(g, names.Of)...)
		}
	case plan.KindDevice:
		if d, err := plan.DecodeDevice(w.Config); err == nil {
			return append([]string{"device " + w.Name, lines[1]}, network.DescribeDevice(w.Slot, d, names.Of)...)
		}
	case plan.KindVM:
		if m, err := plan.DecodeVM(w.Config); err == nil {
			return append(lines, describeVM(m)...)
		}
	}
	var c plan.Container
	if err := canon.Unmarshal(w.Config, &c); err != nil {
		return append(lines, "    config   "+canon.Sum(w.Config).String())
	}
	if extra := plan.Overhead(w.Kind, c.Isolation); extra > 0 {
		lines[1] += fmt.Sprintf(" (%s of the memory is its micro-VM's)", mib(extra))
	}
	return append(lines, describeContainer(c)...)
}

func describeContainer(c plan.Container) []string {
	lines := []string{
		"    image    " + c.Flist.String(),
		"    isolated " + isolated(c.Isolation),
		fmt.Sprintf("    command  %q", c.Args),
		fmt.Sprintf("    user     %d:%d in %s", c.UID, c.GID, c.WorkDir),
	}
	if c.Privileged {
		lines = append(lines, "    powers   all, inside its micro-VM")
	} else if !c.NoNewPrivs {
		lines = append(lines, "    setuid   programs may gain privileges inside the container")
	}
	lines = append(lines, describeLife(c.Life)...)
	for _, e := range c.Env {
		lines = append(lines, fmt.Sprintf("    env      %q", e))
	}
	for _, f := range c.Files {
		lines = append(lines, fmt.Sprintf("    file     %s mode %04o, %d bytes, %s", f.Path, f.Mode, len(f.Content), canon.Sum(f.Content).Short()))
	}
	lines = append(lines, describeSecrets(c.Secrets)...)
	for _, n := range c.Networks {
		lines = append(lines, network.DescribeAttachment(n)...)
	}
	return lines
}

func describeVM(m plan.VM) []string {
	boot := "its own disk, by UEFI"
	if m.Boot == plan.BootKernel {
		boot = "its own kernel"
		if m.Cmdline != "" {
			boot += fmt.Sprintf(" with %q", m.Cmdline)
		}
	}
	lines := []string{"    image    " + m.Flist.String(), "    boots    " + boot}
	for _, d := range m.Disks {
		lines = append(lines, fmt.Sprintf("    disk     %s, %s", d.Serial, mib(d.Size)))
	}
	lines = append(lines, describeLife(m.Life)...)
	if len(m.UserData) > 0 {
		lines = append(lines, fmt.Sprintf("    userdata %d bytes, %s", len(m.UserData), canon.Sum(m.UserData).Short()))
	}
	for _, k := range m.Keys {
		lines = append(lines, fmt.Sprintf("    login    %q", k))
	}
	lines = append(lines, describeSecrets(m.Secrets)...)
	for _, n := range m.Networks {
		lines = append(lines, network.DescribeAttachment(n)...)
	}
	return lines
}

func isolated(class string) string {
	switch class {
	case plan.IsolationMicroVM:
		return "in a micro-VM with a kernel of its own"
	case plan.IsolationNamespace:
		return "in namespaces of the node's kernel"
	}
	return fmt.Sprintf("as %q", class)
}

func describeLife(l plan.Life) []string {
	life := fmt.Sprintf("    life     restart %s, stopped by %s and %s", l.Restart, spec.SignalName(l.Signal), seconds(l.Grace))
	if l.Attempts > 0 {
		life += fmt.Sprintf(", at most %d attempts", l.Attempts)
	}
	if l.Deadline > 0 {
		life += ", at most " + seconds(l.Deadline) + " a run"
	}
	lines := []string{life}
	if h := l.Health; h != nil {
		what := fmt.Sprintf("%q", h.Args)
		switch h.Kind {
		case plan.CheckTCP:
			what = fmt.Sprint(h.Port)
		case plan.CheckHTTP:
			what = fmt.Sprintf("%d%s", h.Port, h.Path)
		}
		lines = append(lines, fmt.Sprintf("    health   %s %s every %s, %s each, unhealthy after %d failures, not before %s", h.Kind, what, millis(h.Interval), millis(h.Timeout), h.Retries, millis(h.Start)))
	}
	var may []string
	for _, g := range grantsOf(l.Access) {
		may = append(may, g.word)
	}
	if len(may) == 0 {
		may = []string{"nothing but read"}
	}
	return append(lines, "    access   members may "+strings.Join(may, ", "))
}

func describeSecrets(secrets []plan.Secret) []string {
	var lines []string
	for _, s := range secrets {
		where := "as variable " + s.Env
		if s.Path != "" {
			where = fmt.Sprintf("in %s mode %04o", s.Path, s.Mode)
		}
		lines = append(lines, fmt.Sprintf("    secret   %s %s, sealed to the node's keys %d (%s)", s.Name, where, s.Epoch, canon.Sum(s.Sealed).Short()))
	}
	return lines
}

// describeUpdate shows how versions follow each other.
func describeUpdate(u plan.Update) string {
	text := "update replaces all workloads at once"
	if u.Strategy == plan.UpdateRolling {
		text = fmt.Sprintf("update is rolling, %d of each set away at a time", u.MaxUnavailable)
	}
	text += fmt.Sprintf(", each ready within %s", seconds(u.Deadline))
	if u.Return {
		return text + ", else back to the version before"
	}
	return text
}

// permission is something that members may do.
type permission struct{ class, word string }

func grantsOf(a plan.Access) []permission {
	var out []permission
	for _, g := range []struct{ to, class, word string }{
		{a.Exec, "exec", "run programs in it (exec)"}, {a.Console, "console", "use its console (console)"},
		{a.Files, "files", "copy files (cp)"}, {a.Restart, "restart", "restart it"},
	} {
		if g.to == plan.AccessMembers {
			out = append(out, permission{g.class, g.word})
		}
	}
	return out
}

func seconds(n uint64) string { return spec.ShowDuration(time.Duration(n) * time.Second) }
func millis(n uint64) string  { return spec.ShowDuration(time.Duration(n) * time.Millisecond) }

// attention lists what of a change nobody should sign without having seen it: what
// lets people in, what stands between a program and its node, and what is lost.
func attention(from, to *plan.Plan) []string {
	old := map[string]plan.Workload{}
	if from != nil {
		for _, w := range from.Workloads {
			old[w.Name] = w
		}
	}
	out := []string{}
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	var ephemeral []string
	for _, w := range to.Workloads {
		before, stood := old[w.Name]
		delete(old, w.Name)
		life, ok := plan.LifeOf(w)
		if !ok {
			continue
		}
		had, _ := plan.LifeOf(before)
		stands := grantsOf(had.Access)
		for _, g := range grantsOf(life.Access) {
			if g.class != "restart" && !slices.Contains(stands, g) { // that is everybody's unless the plan takes it
				say("%s: each member of the group may now %s", w.Name, g.word)
			}
		}
		class, powers, setuid := guardsOf(w)
		wasClass, hadPowers, hadSetuid := guardsOf(before)
		if wasClass == plan.IsolationMicroVM && class == plan.IsolationNamespace {
			say("%s: leaves its micro-VM, and shares the node's kernel from now on", w.Name)
		}
		if powers && !hadPowers {
			say("%s: is privileged: it may do everything inside its micro-VM", w.Name)
		}
		if setuid && !hadSetuid {
			say("%s: its programs may gain privileges inside the container", w.Name)
		}
		if names, what := carried(before, w); stood && len(names) > 0 {
			say("%s: what was sealed for it before is handed to another %s: %s", w.Name, what, strings.Join(names, ", "))
		}
		if why := loses(before, w); stood && why != "" && before.Resources.Disk > 0 {
			say("%s: what it has written is lost: %s", w.Name, why)
		}
		if w.Resources.Disk > 0 && (!stood || loses(before, w) != "") {
			ephemeral = append(ephemeral, w.Name)
		}
	}
	for _, name := range sortedKeys(old) {
		if w := old[name]; plan.Runs(w.Kind) && w.Resources.Disk > 0 {
			say("%s: what it has written is lost: it is removed", name)
		}
	}
	if len(ephemeral) > 0 {
		say("ephemeral: what %s write is lost when their image, isolation or node changes; no database should keep the only copy of its data here until there is storage that outlives a workload", strings.Join(ephemeral, ", "))
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// guardsOf is what stands between a container's program and others.
func guardsOf(w plan.Workload) (class string, privileged, setuid bool) {
	if w.Kind != plan.KindContainer {
		return "", false, false
	}
	c, err := plan.DecodeContainer(w.Config)
	if err != nil {
		return "", false, false
	}
	return c.Isolation, c.Privileged, !c.NoNewPrivs && !c.Privileged
}

// carried lists the secrets of a workload that stay sealed as they were while the
// program that reads them becomes another one, and what of it does: nodes open them
// for whatever the group signs, so this is where a value can be taken out.
func carried(before, after plan.Workload) (names []string, what string) {
	program := func(w plan.Workload) (flist canon.Hash, run string) {
		switch w.Kind {
		case plan.KindContainer:
			c, _ := plan.DecodeContainer(w.Config)
			run := fmt.Sprintf("%q %q %v", c.Args, c.Env, c.Files)
			if c.Life.Health != nil {
				run += fmt.Sprintf("%q", c.Life.Health.Args)
			}
			return c.Flist, run
		case plan.KindVM:
			m, _ := plan.DecodeVM(w.Config)
			return m.Flist, fmt.Sprintf("%q %q %q %q", m.Boot, m.Cmdline, m.UserData, m.Keys)
		}
		return canon.Hash{}, ""
	}
	was, ran := program(before)
	is, runs := program(after)
	switch {
	case was != is:
		what = "image"
	case ran != runs:
		what = "command, environment or files"
	default:
		return nil, ""
	}
	old := plan.SecretsOf(before)
	for _, s := range plan.SecretsOf(after) {
		if slices.ContainsFunc(old, func(o plan.Secret) bool { return o.Name == s.Name && bytes.Equal(o.Sealed, s.Sealed) }) {
			names = append(names, s.Name)
		}
	}
	return names, what
}

// loses says why an update takes what a workload has written; "" if it stays.
func loses(before, after plan.Workload) string {
	root := func(w plan.Workload) (flist canon.Hash, class string) {
		if w.Kind == plan.KindVM {
			m, _ := plan.DecodeVM(w.Config)
			return m.Flist, plan.KindVM
		}
		c, _ := plan.DecodeContainer(w.Config)
		return c.Flist, c.Isolation
	}
	was, wasClass := root(before)
	is, class := root(after)
	switch {
	case before.Slot != after.Slot:
		return "it moves to another node"
	case was != is:
		return "its image changes"
	case wasClass != class:
		return "its isolation changes"
	}
	return ""
}
