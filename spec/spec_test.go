package spec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/spec/plan"
)

const good = `apiVersion: zos/v1
name: shop
group: demo
workloads:
  - name: web
    kind: container
    image: red/web:1
    resources: {cpu: 0.5, memory: 128MiB}
`

// TestMistakesAreShownWhereTheyAre plays what people get wrong, each with its
// place, its message and the way to mend it.
func TestMistakesAreShownWhereTheyAre(t *testing.T) {
	replace := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for name, c := range map[string]struct{ in, line, message, fix string }{
		"unknown key":       {replace("image:", "imgae:"), "7:5", `unknown key "imgae"`, `did you mean "image"?`},
		"unknown key deep":  {replace("memory:", "memroy:"), "8:27", `unknown key "memroy"`, `did you mean "memory"?`},
		"tab":               {replace("    kind", "\tkind"), "6:1", "a tab indents this line", "replace the tab"},
		"duplicate key":     {replace("group: demo", "group: demo\ngroup: demo"), "4:1", `"group" stands twice, first in line 3`, "remove one"},
		"duplicate name":    {good + "  - {name: web, kind: container, image: red/web:1}\n", "9:12", `the name "web" is taken by the workload in line 5`, "a name of its own"},
		"wrong unit":        {replace("128MiB", "128MB"), "8:35", `memory "128MB" is no size`, `did you mean "128MiB"?`},
		"no unit":           {replace("128MiB", "128"), "8:35", "memory is a number, not a string", "KiB, MiB, GiB or TiB"},
		"wrong kind":        {replace("kind: container", "kind: contianer"), "6:11", `kind can't be "contianer"`, `did you mean "container"?`},
		"wrong version":     {replace("zos/v1", "zos/v9"), "1:13", `apiVersion is "zos/v9"`, "write apiVersion: zos/v1"},
		"missing":           {replace("group: demo\n", ""), "1:1", `"group" is missing`, "add a line group: …"},
		"bad name":          {replace("name: shop", "name: Shop_1"), "2:7", `"Shop_1" can't be a name`, "a-z, 0-9 and -"},
		"alias":             {replace("name: shop", "name: &a shop"), "2:7", "anchors, aliases", "write the value out"},
		"second document":   {good + "---\na: b\n", "10:1", "a second document", "file of its own"},
		"empty":             {"", "1:1", "the file is empty", "start with apiVersion"},
		"too many decimals": {replace("0.5", "0.50055"), "8:22", "more than three decimals", "thousandths"},
		"bad image":         {replace("red/web:1", "web"), "7:12", `"web" names no image`, "publisher/name:tag"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("shop.yaml", []byte(c.in))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want an *Error", err)
			}
			shown := e.Error()
			for _, want := range []string{"shop.yaml:" + c.line + ": ", c.message, c.fix, "^"} {
				if want == "^" && c.in == "" {
					continue
				}
				if !strings.Contains(shown, want) {
					t.Errorf("%q is missing in:\n%s", want, shown)
				}
			}
		})
	}
}

func TestCaretPointsAtTheValue(t *testing.T) {
	_, err := Parse("f", []byte(strings.Replace(good, "128MiB", "128MB", 1)))
	lines := strings.Split(err.Error(), "\n")
	if got := lines[1][strings.IndexByte(lines[2], '^'):]; !strings.HasPrefix(got, "128MB") {
		t.Errorf("the caret points at %q in\n%s", got, err)
	}
}

func facts() Facts {
	return Facts{
		Group: canon.Sum([]byte("group")),
		Nodes: []Node{
			{Slot: canon.Hash{1}, Name: "node-1", Free: contract.Capacity{CPU: 1000, Memory: 256 << 20, Disk: 1 << 30}},
			{Slot: canon.Hash{2}, Name: "node-2", Free: contract.Capacity{CPU: 1000, Memory: 512 << 20, Disk: 1 << 30}},
		},
		Image: func(_ context.Context, ref string) (Image, error) {
			if ref != "red/web:1" {
				return Image{}, problem.New("image-unknown", "no image %s", ref).WithFix("did you mean %q?", "red/web:1")
			}
			return Image{Flist: canon.Sum([]byte("image")), Size: 5, Config: flist.Config{
				Entrypoint: []string{"/web"}, Cmd: []string{"-v"}, Env: []string{"A=image", "B=image"}, WorkDir: "srv", User: "33:34"}}, nil
		},
	}
}

func resolve(t *testing.T, text string, f Facts) (plan.Plan, error) {
	t.Helper()
	d, err := Parse("shop.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return Resolve(context.Background(), d, f)
}

func TestThePlanSaysEverythingThatRuns(t *testing.T) {
	text := good + "    env: {B: spec, C: spec}\n    restart: never\n"
	p, err := resolve(t, text, facts())
	if err != nil {
		t.Fatal(err)
	}
	var c plan.Container
	if err := canon.Unmarshal(p.Workloads[0].Config, &c); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.Args, " "); got != "/web -v" {
		t.Errorf("args %q", got)
	}
	if got := strings.Join(c.Env, " "); got != "A=image B=spec C=spec PATH="+defaultPath {
		t.Errorf("env %q", got)
	}
	if c.WorkDir != "/srv" || c.UID != 33 || c.GID != 34 || c.Life.Restart != "never" || !c.NoNewPrivs {
		t.Errorf("container %+v", c)
	}
	if p.Workloads[0].Slot != (canon.Hash{2}) {
		t.Errorf("placed on %s, want the node with most free memory", p.Workloads[0].Slot.Short())
	}
	again, err := resolve(t, text, facts())
	if err != nil {
		t.Fatal(err)
	}
	a, _ := canon.Marshal(p)
	b, _ := canon.Marshal(again)
	if !bytes.Equal(a, b) {
		t.Error("planning twice gave different bytes")
	}
}

func TestWhatCannotBePlannedIsNamed(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"unknown image": {strings.Replace(good, "red/web:1", "red/wbe:1", 1), `did you mean "red/web:1"?`},
		"unknown node":  {strings.Replace(good, "    kind", "    node: nod-1\n    kind", 1), `did you mean "node-1"?`},
		"named too small": {strings.Replace(strings.Replace(good, "128MiB", "300MiB", 1), "    kind", "    node: node-1\n    kind", 1),
			"node node-1 has 1 cores, 256 MiB memory"},
		"too big": {strings.Replace(good, "128MiB", "1GiB", 1), "no node has"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := resolve(t, c.in, facts())
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(e.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestTwoWorkloadsDoNotShareTheSameRoom(t *testing.T) {
	two := good + "  - {name: web2, kind: container, image: red/web:1, resources: {memory: 450MiB}}\n"
	p, err := resolve(t, two, facts())
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "no node has") {
		t.Errorf("got %v %v: 128 and 450 MiB do not fit beside each other", p, err)
	}
}

// TestExamplesCanBePlanned on the nodes of these tests, whatever their images.
func TestExamplesCanBePlanned(t *testing.T) {
	var files []string
	for _, pattern := range []string{"../examples/*.yaml", "../examples/*/*.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("found %v, %v", found, err)
		}
		files = append(files, found...)
	}
	f := publicFacts()
	f.Name = func(string) (string, bool, bool) { return "demo", true, true }
	image := f.Image
	f.Image = func(ctx context.Context, _ string) (Image, error) { return image(ctx, "red/web:1") }
	for i := range f.Nodes {
		f.Nodes[i].Free = contract.Capacity{CPU: 4000, Memory: 4 << 30, Disk: 16 << 30}
	}
	f = lively(t, f)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f.File = func(name string, _ int) ([]byte, error) { return os.ReadFile(filepath.Join(filepath.Dir(file), name)) }
		if _, err := resolve(t, string(data), f); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// lively is facts of nodes that can do everything, have keys, and where every secret
// has a value. There are three of them at least.
func lively(t testing.TB, f Facts) Facts {
	f.Nodes = slices.Clone(f.Nodes)
	for len(f.Nodes) < 3 {
		f.Nodes = append(f.Nodes, Node{Slot: canon.Hash{byte(100 + len(f.Nodes))}, Name: fmt.Sprintf("more-%d", len(f.Nodes)), Free: f.Nodes[0].Free})
	}
	for i := range f.Nodes {
		k, err := seal.KeyFromSeed([32]byte{byte(i)})
		if err != nil {
			t.Fatal(err)
		}
		f.Nodes[i].Isolation, f.Nodes[i].Epoch, f.Nodes[i].SealingKey = []string{"microvm", "namespace"}, 1, k.Public()
	}
	f.File = func(string, int) ([]byte, error) { return []byte("content"), nil }
	f.Value = func(string) ([]byte, bool, error) { return []byte("value"), true, nil }
	return f
}

func FuzzParse(f *testing.F) {
	life, err := os.ReadFile("../examples/life/life.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(life)
	f.Add([]byte(good))
	f.Add([]byte(shop))
	f.Add([]byte(public))
	f.Add([]byte("a: &x [*x, *x]"))
	f.Add([]byte("\t"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse("f", data)
		if err == nil && (d.Name == "" || len(d.Workloads) == 0) {
			t.Fatalf("accepted %q without a name or a workload", data)
		}
		if err == nil {
			f := lively(t, publicFacts())
			f.Image = func(context.Context, string) (Image, error) {
				return Image{Flist: canon.Sum([]byte("image")), Config: flist.Config{Entrypoint: []string{"/web"}}}, nil
			}
			var mistakes *Error
			if p, err := Resolve(t.Context(), d, f); err == nil {
				if _, err := plan.Encode(p); err != nil {
					t.Fatalf("the ledger would refuse the plan of %q: %v", data, err)
				}
			} else if !errors.As(err, &mistakes) {
				t.Fatalf("%q: %v has no place", data, err)
			}
		}
		if err != nil && err.Error() == "" {
			t.Fatal("an error without words")
		}
	})
}
