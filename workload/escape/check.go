package escape

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Class is how a workload that runs the program is isolated.
type Class string

// The classes.
const (
	Namespace  Class = "namespace"  // runc, in the node's kernel
	MicroVM    Class = "microvm"    // a guest, below its agent
	Privileged Class = "privileged" // a guest, with every capability of it
)

// UpdateEnv is the environment variable that makes Golden write instead of compare.
const UpdateEnv = "ZOS_ESCAPE_UPDATE"

// Attempt is one thing that the program tried, and what came of it.
type Attempt struct {
	Name   string `json:"name"`
	Got    string `json:"got"` // "ok", an errno's name, "masked", "none", "timeout", "hang" or "killed"
	Detail string `json:"detail"`
}

// Parse reads what `program attempts` has printed. It is an error unless the output
// is whole: attempts that were not made are not denied.
func Parse(output string) ([]Attempt, error) {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if lines[len(lines)-1] != "end" {
		return nil, fmt.Errorf("the program did not come to its end: …%.300q", output[max(0, len(output)-300):])
	}
	var all []Attempt
	for _, line := range lines[:len(lines)-1] {
		var a Attempt
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			return nil, fmt.Errorf("line %.200q: %w", line, err)
		}
		all = append(all, a)
	}
	return all, nil
}

// Judge compares attempts with what is expected of the class, and returns what
// differs, one line each: an outcome that is not expected, an attempt that nobody
// expects, and one that was not made.
func Judge(class Class, attempts []Attempt) []string {
	want := Expected(class)
	var wrong []string
	seen := map[string]bool{}
	for _, a := range attempts {
		seen[a.Name] = true
		allowed, ok := want[a.Name]
		switch {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%s: %s, and nothing is expected of it", a.Name, a.Got))
		case !allowed.has(a.Got):
			wrong = append(wrong, strings.TrimSpace(fmt.Sprintf("%s: %s, want %s  %s", a.Name, a.Got, allowed, a.Detail)))
		}
	}
	for name := range want {
		if !seen[name] {
			wrong = append(wrong, name+": not tried")
		}
	}
	sort.Strings(wrong)
	return wrong
}

// Outcomes are those that are expected of an attempt, separated by "|"; "*" is any.
type Outcomes string

func (o Outcomes) has(got string) bool {
	for _, one := range strings.Split(string(o), "|") {
		if one == got || one == "*" && got != "hang" && got != "killed" {
			return true
		}
	}
	return false
}

// Check runs the program and fails t for each difference. run starts it in a workload
// of the class with one argument and returns all that it printed.
func Check(t testing.TB, class Class, run func(t testing.TB, arg string) string) {
	t.Helper()
	out := run(t, "all")
	probe, rest, ok := strings.Cut(out, "\nprobed\n")
	if !ok {
		t.Fatalf("the probe did not come to its end: %s", out)
	}
	Golden(t, class, probe+"\nend\n")
	attempts, err := Parse(rest)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range Judge(class, attempts) {
		t.Errorf("class %s: %s", class, line)
	}
	var worked []string
	for _, a := range attempts {
		if a.Got == "ok" {
			worked = append(worked, a.Name)
		}
	}
	t.Logf("measured: class %s: of %d attempts these worked: %s", class, len(attempts), strings.Join(worked, " "))
}

// Golden compares what `program probe` has printed with testdata/CLASS.golden.
func Golden(t testing.TB, class Class, probe string) {
	t.Helper()
	want, err := goldens.ReadFile("testdata/" + string(class) + ".golden")
	if dir := os.Getenv(UpdateEnv); dir != "" {
		path := filepath.Join(dir, string(class)+".golden")
		if err := os.WriteFile(path, []byte(probe), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err != nil {
		t.Fatalf("%v (run it once with %s=DIRECTORY)", err, UpdateEnv)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(probe, "\n")); diff != "" {
		t.Errorf("class %s is not what testdata/%s.golden says (-want +got):\n%s", class, class, diff)
	}
}
