package spec

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zero-os/zos/spec/plan"
)

// Defaults of the life cycle.
const (
	DefaultHealthInterval = 10 * time.Second
	DefaultHealthTimeout  = 2 * time.Second
	DefaultHealthRetries  = 3
	DefaultHealthStart    = 10 * time.Second

	defaultFileMode   = 0o644
	defaultSecretMode = 0o400
)

// Signals that a spec can name, by their numbers on Linux.
func signals() map[string]uint64 {
	return map[string]uint64{
		"SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGKILL": 9, "SIGUSR1": 10, "SIGUSR2": 12, "SIGTERM": 15, "SIGWINCH": 28, "SIGRTMIN+3": 37,
	}
}

// SignalName is a signal as a spec writes it, or its number.
func SignalName(number uint64) string {
	for name, n := range signals() {
		if n == number {
			return name
		}
	}
	return strconv.FormatUint(number, 10)
}

// update reads how versions follow each other.
func (s *source) update(root map[string]any) plan.Update {
	u := plan.DefaultUpdate()
	m, _ := root["update"].(map[string]any)
	if v, ok := m["strategy"]; ok {
		u.Strategy = text(v)
	}
	if v, ok := m["maxUnavailable"]; ok {
		u.MaxUnavailable = uint64(number(v))
		if u.Strategy != plan.UpdateRolling {
			s.add(s.placeOf("/update/maxUnavailable"), "maxUnavailable counts in rolling updates only, and this deployment's replace all at once", "add strategy: rolling, or remove it")
		}
	}
	if v, ok := m["deadline"]; ok {
		u.Deadline = s.seconds(text(v), "/update/deadline", 1, plan.MaxSeconds)
	}
	u.Return = m["onFailure"] == "return"
	return u
}

// life reads how a workload lives.
func (s *source) life(m map[string]any, pointer string) plan.Life {
	l := plan.DefaultLife()
	if v, ok := m["restart"]; ok {
		l.Restart = text(v)
	}
	if v, ok := m["attempts"]; ok {
		l.Attempts = uint64(number(v))
		if l.Restart == plan.RestartNever && l.Attempts > 1 {
			s.add(s.placeOf(pointer+"/attempts"), "with restart: never there is one attempt", "remove it, or write restart: on-failure")
		}
	}
	if v, ok := m["deadline"]; ok {
		l.Deadline = s.seconds(text(v), pointer+"/deadline", 1, plan.MaxSeconds)
	}
	stop, _ := m["stop"].(map[string]any)
	if v, ok := stop["signal"]; ok {
		l.Signal = signals()[text(v)]
	}
	if v, ok := stop["grace"]; ok {
		l.Grace = s.seconds(text(v), pointer+"/stop/grace", 1, plan.MaxGrace)
	}
	if h, ok := m["health"].(map[string]any); ok {
		l.Health = s.health(h, pointer+"/health")
	}
	access, _ := m["access"].(map[string]any)
	for name, to := range map[string]*string{"exec": &l.Access.Exec, "console": &l.Access.Console, "files": &l.Access.Files, "restart": &l.Access.Restart} {
		if v, ok := access[name]; ok {
			*to = text(v)
		}
	}
	return l
}

// health reads a check.
func (s *source) health(m map[string]any, pointer string) *plan.Health {
	var kinds []string
	for _, k := range []string{plan.CheckHTTP, plan.CheckTCP, plan.CheckExec} {
		if _, ok := m[k]; ok {
			kinds = append(kinds, k)
		}
	}
	const write = `write one of: http: "8080/healthz", tcp: 5432, exec: ["/bin/check"]`
	if len(kinds) != 1 {
		message := "this health check checks nothing"
		if len(kinds) > 1 {
			message = fmt.Sprintf("this health check is several: %s", strings.Join(kinds, ", "))
		}
		s.add(s.placeOf(pointer), message, write)
		return nil
	}
	h := &plan.Health{Kind: kinds[0], Args: []string{}}
	switch h.Kind {
	case plan.CheckHTTP:
		port, rest, _ := strings.Cut(text(m["http"]), "/")
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			s.add(s.placeOf(pointer+"/http"), fmt.Sprintf("%s is no port", port), "ports are 1 to 65535")
		}
		h.Port, h.Path = uint16(n), "/"+rest
	case plan.CheckTCP:
		h.Port = uint16(number(m["tcp"])) // in range by the schema
	case plan.CheckExec:
		for _, a := range m["exec"].([]any) {
			h.Args = append(h.Args, text(a))
		}
		switch h.Args[0] {
		case "CMD":
			s.add(s.placeOf(pointer+"/exec/0"), "CMD is no program", "remove it: exec is the program and its arguments")
		case "CMD-SHELL":
			s.add(s.placeOf(pointer+"/exec/0"), "CMD-SHELL is no program", `write the shell, if the image has one: exec: ["/bin/sh", "-c", …]`)
		}
	}
	millis := func(name string, otherwise, least, most time.Duration) uint64 {
		d := otherwise
		if v, ok := m[name]; ok {
			d = s.duration(text(v), pointer+"/"+name, least, most)
		}
		return uint64(d.Milliseconds())
	}
	const week = plan.MaxSeconds * time.Second
	least := plan.MinInterval * time.Millisecond
	if h.Kind == plan.CheckExec {
		least = plan.MinExecInterval * time.Millisecond
	}
	h.Interval = millis("interval", DefaultHealthInterval, least, week)
	h.Timeout = millis("timeout", DefaultHealthTimeout, 10*time.Millisecond, 10*time.Minute)
	h.Start = millis("start", DefaultHealthStart, 0, week)
	h.Retries = DefaultHealthRetries
	if v, ok := m["retries"]; ok {
		h.Retries = uint64(number(v))
	}
	return h
}

// duration reads a time that the schema accepted.
func (s *source) duration(got, pointer string, least, most time.Duration) time.Duration {
	d, err := time.ParseDuration(got)
	if err != nil || d < least || d > most {
		s.add(s.placeOf(pointer), fmt.Sprintf("%s is out of range", got), fmt.Sprintf("write %s to %s", ShowDuration(least), ShowDuration(most)))
		return least
	}
	return d
}

// seconds is duration in whole seconds.
func (s *source) seconds(got, pointer string, least, most uint64) uint64 {
	d := s.duration(got, pointer, time.Duration(least)*time.Second, time.Duration(most)*time.Second)
	if d%time.Second != 0 {
		s.add(s.placeOf(pointer), fmt.Sprintf("%s is no whole number of seconds", got), fmt.Sprintf("did you mean %q?", ShowDuration(d.Round(time.Second))))
	}
	return uint64(d / time.Second)
}

// ShowDuration is a time as a spec writes it: 1m30s, and no 1h0m0s.
func ShowDuration(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// File is one entry of a workload's files.
type File struct {
	Path    string
	Mode    uint32
	From    string // beside the spec file; empty: Content
	Content []byte
	pointer string
}

// files reads a container's files, sorted by path.
func (s *source) files(m map[string]any, pointer string) []File {
	list, _ := m["files"].([]any)
	first := map[string]int{}
	var out []File
	for i, item := range list {
		f, at := item.(map[string]any), fmt.Sprintf("%s/files/%d", pointer, i)
		_, inline := f["content"]
		file := File{Path: text(f["path"]), From: text(f["from"]), Content: []byte(text(f["content"])), Mode: mode(f["mode"], defaultFileMode), pointer: at}
		switch {
		case inline == (file.From != ""):
			s.add(s.placeOf(at), fmt.Sprintf("the file %s wants from or content, and one of them", file.Path), "add from: FILE, a file beside this one; or content: …")
		case len(file.Content) > plan.MaxFile:
			s.add(s.placeOf(at+"/content"), fmt.Sprintf("the content has %d bytes, at most %d are allowed", len(file.Content), plan.MaxFile), "put it into the image")
		}
		s.plainPath(file.Path, at+"/path", first, i, pointer+"/files/%d/path")
		out = append(out, file)
	}
	slices.SortStableFunc(out, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// plainPath checks a path inside of a workload, and that it stands once.
func (s *source) plainPath(p, pointer string, first map[string]int, i int, other string) {
	if path.Clean(p) != p || p == "/" || strings.Contains(p, "\x00") {
		s.add(s.placeOf(pointer), fmt.Sprintf("%q is not a plain path of a file", p), fmt.Sprintf("did you mean %q?", path.Clean(p)))
		return
	}
	if j, twice := first[p]; twice {
		s.add(s.placeOf(pointer), fmt.Sprintf("%s stands twice, first in line %d", p, s.placeOf(fmt.Sprintf(other, j)).line), "remove one of the two")
	}
	first[p] = i
}

// mode reads permission bits that the schema accepted.
func mode(v any, otherwise uint32) uint32 {
	n, err := strconv.ParseUint(text(v), 8, 32)
	if err != nil {
		return otherwise
	}
	return uint32(n)
}

// Secret is one entry of a workload's secrets.
type Secret struct {
	Name string
	Env  string // empty: Path
	Path string
	Mode uint32
	From string // "env:NAME" or "file:PATH"; empty: what stands is kept

	pointer string
}

// secrets reads a workload's secrets, sorted by name.
func (s *source) secrets(m map[string]any, pointer string) []Secret {
	list, _ := m["secrets"].([]any)
	names, paths, envs := map[string]int{}, map[string]int{}, map[string]int{}
	var out []Secret
	for i, item := range list {
		e, at := item.(map[string]any), fmt.Sprintf("%s/secrets/%d", pointer, i)
		x := Secret{Name: text(e["name"]), Env: text(e["env"]), Path: text(e["path"]), From: text(e["from"]), pointer: at}
		if j, twice := names[x.Name]; twice {
			s.add(s.placeOf(at+"/name"), fmt.Sprintf("the secret %q stands twice, first in line %d", x.Name, s.placeOf(fmt.Sprintf("%s/secrets/%d", pointer, j)).line), "give each secret a name of its own")
		}
		names[x.Name] = i
		switch {
		case m["kind"] == plan.KindVM && x.Env != "":
			s.add(s.placeOf(at+"/env"), "a machine has no variables that could hold a secret", fmt.Sprintf("write path: /run/secrets/%s", x.Name))
		case (x.Env == "") == (x.Path == ""):
			s.add(s.placeOf(at), fmt.Sprintf("the secret %q wants env or path, and one of them", x.Name), fmt.Sprintf("add env: NAME, or path: /run/secrets/%s", x.Name))
		case x.Path != "":
			x.Mode = mode(e["mode"], defaultSecretMode)
			s.plainPath(x.Path, at+"/path", paths, i, pointer+"/secrets/%d/path")
		default:
			if _, ok := e["mode"]; ok {
				s.add(s.placeOf(at+"/mode"), "a variable has no mode", "remove it, or write path instead of env")
			}
			if env, ok := m["env"].(map[string]any); ok && env[x.Env] != nil {
				s.add(s.placeOf(at+"/env"), fmt.Sprintf("the variable %s stands in env already, in line %d", x.Env, s.placeOf(pointer+"/env/"+escapePointer(x.Env)).line), "remove it there")
			}
			if j, twice := envs[x.Env]; twice {
				s.add(s.placeOf(at+"/env"), fmt.Sprintf("the variable %s stands twice, first in line %d", x.Env, s.placeOf(fmt.Sprintf("%s/secrets/%d/env", pointer, j)).line), "choose another variable")
			}
			envs[x.Env] = i
		}
		out = append(out, x)
	}
	for i, item := range listOf(m["files"]) {
		if p := text(item.(map[string]any)["path"]); slices.Contains(slices.Collect(maps.Keys(paths)), p) {
			s.add(s.placeOf(fmt.Sprintf("%s/files/%d/path", pointer, i)), fmt.Sprintf("%s is a secret as well, in line %d", p, s.placeOf(fmt.Sprintf("%s/secrets/%d/path", pointer, paths[p])).line), "remove one of the two")
		}
	}
	slices.SortStableFunc(out, func(a, b Secret) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func listOf(v any) []any { list, _ := v.([]any); return list }
