package spec

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/secret"
	"github.com/zero-os/zos/spec/plan"
)

// inputs are what a spec names besides images: files, and the values of secrets. They
// are read once for all replicas.
type inputs struct {
	content map[string][]byte // by the place of a file, and of user data, in the spec
	values  map[string]value  // by the place of a secret in the spec
}

// value is that of a secret.
type value struct {
	bytes []byte
	there bool
	bad   bool // it is a mistake already
}

// readInputs reads what all entries name. What can't be had is a mistake.
func readInputs(d *Deployment, facts Facts) inputs {
	in := inputs{content: map[string][]byte{}, values: map[string]value{}}
	for _, w := range d.Workloads {
		for _, f := range w.Files {
			if _, done := in.content[f.pointer]; !done {
				in.content[f.pointer] = f.Content
				if f.From != "" {
					in.content[f.pointer] = readFile(d, facts, f.From, f.pointer+"/from", plan.MaxFile)
				}
			}
		}
		if at := userDataAt(w); w.UserData != "" && in.content[at] == nil {
			if in.content[at] = []byte(w.UserData); !strings.Contains(w.UserData, "\n") {
				in.content[at] = readFile(d, facts, w.UserData, at, plan.MaxCloudInit)
			}
		}
		for _, x := range w.Secrets {
			if _, done := in.values[x.pointer]; !done {
				in.values[x.pointer] = readValue(d, facts, x)
			}
		}
	}
	return in
}

func userDataAt(w Workload) string { return fmt.Sprintf("/workloads/%d/cloudInit/userData", w.entry) }

func readFile(d *Deployment, facts Facts, name, pointer string, limit int) []byte {
	wrong := func(message, fix string) []byte {
		d.source.add(d.source.placeOf(pointer), message, fix)
		return []byte{}
	}
	if facts.File == nil {
		return wrong(fmt.Sprintf("the file %s can't be read here", name), "write its content instead")
	}
	b, err := facts.File(name, limit)
	switch {
	case err != nil:
		fix := problem.Fix(err)
		if fix == "" {
			fix = "name a file beside the spec file, or in a folder below it"
		}
		return wrong(err.Error(), fix)
	case len(b) > limit:
		return wrong(fmt.Sprintf("the file %s has more than %d bytes", name, limit), "put it into the image")
	}
	return b
}

// readValue reads the value of a secret. One for a variable loses the line end that
// editors and echo put behind it.
func readValue(d *Deployment, facts Facts, x Secret) value {
	wrong := func(message, fix string) value {
		d.source.add(d.source.placeOf(x.pointer+"/from"), message, fix)
		return value{bad: true}
	}
	if x.From == "" || facts.Value == nil {
		return value{}
	}
	b, there, err := facts.Value(x.From)
	if err != nil {
		return wrong(fmt.Sprintf("the secret %q: %v", x.Name, err), problem.Fix(err))
	}
	if x.Env != "" {
		b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	}
	switch {
	case !there:
		return value{}
	case len(b) == 0:
		return wrong(fmt.Sprintf("%s is empty", x.From), "set it to the value of the secret")
	case len(b) > secret.MaxValue:
		return wrong(fmt.Sprintf("the value of the secret %q has more than %d bytes", x.Name, secret.MaxValue), "put what is that large into the image, encrypted with a key that is the secret")
	case x.Env != "" && bytes.IndexByte(b, 0) >= 0:
		return wrong(fmt.Sprintf("the value of the secret %q has a zero byte, which no variable can hold", x.Name), "write path instead of env")
	}
	return value{bytes: b, there: true}
}

// files are those of a container, as the plan has them.
func (in inputs) files(w Workload) []plan.File {
	var out []plan.File
	for _, f := range w.Files {
		out = append(out, plan.File{Path: f.Path, Mode: f.Mode, Content: in.content[f.pointer]})
	}
	return out
}

// userData is that of a machine.
func (in inputs) userData(w Workload) []byte { return in.content[userDataAt(w)] }

// seal makes the secrets of workload wi for its node. A value that was read is sealed
// anew: that it is the same as before nobody can tell, and a sealing differs each
// time. Without one the standing bytes are kept, if the node still has the keys that
// they are sealed to; else it is a mistake.
func (in inputs) seal(d *Deployment, wi int, facts Facts, n Node, old standing) []plan.Secret {
	w := d.Workloads[wi]
	var out []plan.Secret
	for _, x := range w.Secrets {
		v := in.values[x.pointer]
		p := plan.Secret{Name: x.Name, Env: x.Env, Path: x.Path, Mode: x.Mode, Epoch: n.Epoch}
		switch {
		case v.bad:
			continue
		case v.there:
			sealed, err := secret.Seal(n.SealingKey, secret.Info{
				Grid: facts.Grid, Group: facts.Group, Deployment: d.Name, Workload: w.Name, Name: x.Name, Epoch: n.Epoch,
			}, v.bytes)
			if err != nil {
				d.source.add(d.source.placeOf(x.pointer), err.Error(), problem.Fix(err))
				continue
			}
			p.Sealed = sealed
		default:
			kept, why := old.secret(w.Name, x.Name, n)
			if why != "" {
				d.source.add(d.source.placeOf(x.pointer), fmt.Sprintf("the secret %q of %s has no value: %s", x.Name, w.Name, why), howToSet(x))
				continue
			}
			p.Sealed = kept
		}
		out = append(out, p)
	}
	return out
}

// secret is a standing secret that still opens on a node, or why there is none.
func (old standing) secret(workload, name string, n Node) (sealed []byte, why string) {
	for _, s := range old.secrets[workload] {
		switch {
		case s.Name != name:
		case old.slots[workload] != n.Slot:
			return nil, fmt.Sprintf("the one that stands is sealed to another node, not to %s", n.Name)
		case s.Epoch != n.Epoch:
			return nil, fmt.Sprintf("node %s has new keys, and the one that stands is sealed to its former ones", n.Name)
		default:
			return s.Sealed, ""
		}
	}
	return nil, "it is new"
}

func howToSet(x Secret) string {
	kind, where, _ := strings.Cut(x.From, ":")
	switch kind {
	case "env":
		return fmt.Sprintf("set the variable %s before planning", where)
	case "file":
		return fmt.Sprintf("put it into the file %s before planning", where)
	}
	return "add from: env:NAME, a variable of yours that holds it; or from: file:PATH"
}
