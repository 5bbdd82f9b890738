package spec

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/secret"
	"github.com/zero-os/zos/spec/plan"
)

// mistaken wants one mistake at a line, with words of its message and of its fix.
func mistaken(t *testing.T, err error, line, message, fix string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error", err)
	}
	shown := e.Error()
	for _, want := range []string{"shop.yaml:" + line, message, fix} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is missing in:\n%s", want, shown)
		}
	}
	if len(e.Mistakes) != 1 {
		t.Errorf("%d mistakes, want one:\n%s", len(e.Mistakes), shown)
	}
}

// TestMistakesOfTheLifeCycleAreMended plays what people get wrong, many of them from
// the habits of Compose.
func TestMistakesOfTheLifeCycleAreMended(t *testing.T) {
	const vm = "  - name: box\n    kind: vm\n    image: red/web:1\n"
	add := func(line string) string { return good + "    " + line + "\n" }
	machine := func(line string) string { return good + vm + "    " + line + "\n" }
	top := func(line string) string { return strings.Replace(good, "group: demo\n", "group: demo\n"+line+"\n", 1) }
	for name, c := range map[string]struct{ in, line, message, fix string }{
		"healthcheck":          {add("healthcheck: {test: [a]}"), "9:5", `unknown key "healthcheck"`, `write health: {http: "8080/healthz"}`},
		"environment":          {add("environment: {A: b}"), "9:5", `unknown key "environment"`, "write env:"},
		"deploy.replicas":      {add("deploy: {replicas: 3}"), "9:5", `unknown key "deploy"`, "write replicas and resources"},
		"stop_grace_period":    {add("stop_grace_period: 1m"), "9:5", `unknown key "stop_grace_period"`, "write stop: {grace: 10s}"},
		"volumes":              {add("volumes: [a]"), "9:5", `unknown key "volumes"`, "has to wait for storage"},
		"ports":                {add(`ports: ["80:80"]`), "9:5", `unknown key "ports"`, "kind gateway"},
		"cap_add":              {add("cap_add: [NET_ADMIN]"), "9:5", `unknown key "cap_add"`, "privileged: true"},
		"services":             {top("services: {}"), "4:1", `unknown key "services"`, "write workloads:"},
		"health test":          {add("health: {test: [a]}"), "9:14", `unknown key "test"`, "write exec:"},
		"health start_period":  {add("health: {tcp: 1, start_period: 3s}"), "9:22", `unknown key "start_period"`, "write start: 30s"},
		"parallelism":          {top("update: {parallelism: 2}"), "4:10", `unknown key "parallelism"`, "maxUnavailable"},
		"secret source":        {add("secrets: [{name: a, env: A, environment: B}]"), "9:33", `unknown key "environment"`, "from: env:NAME"},
		"secret value":         {add("secrets: [{name: a, env: A, value: hunter2}]"), "9:33", `unknown key "value"`, "a value in a spec is no secret"},
		"machine of container": {add("cloudInit: {}"), "9:5", `unknown key "cloudInit"`, "write kind: vm"},
		"container of machine": {machine("command: [a]"), "12:5", `unknown key "command"`, "starts its own programs"},
		"publish of machine":   {machine("publish: [a]"), "12:5", `a machine has no "publish"`, "kind gateway"},
		"exec into machine":    {machine("access: {exec: members}"), "12:14", `unknown key "exec"`, "console"},
		"console of container": {add("access: {console: members}"), "9:14", `unknown key "console"`, "let members exec"},

		"privileged namespace":  {add("privileged: true\n    isolation: namespace"), "9:17", "could take over its node", "write isolation: microvm"},
		"isolation":             {add("isolation: micorvm"), "9:16", `isolation can't be "micorvm"`, `did you mean "microvm"?`},
		"isolation elsewhere":   {add("isolation: kata"), "9:16", `isolation can't be "kata"`, `did you mean "microvm"?`},
		"restart unless":        {add("restart: unless-stopped"), "9:14", `restart can't be "unless-stopped"`, `did you mean "always"?`},
		"restart no":            {add("restart: no"), "9:14", `restart can't be "no"`, `did you mean "never"?`},
		"rollback":              {top("update: {onFailure: rollback}"), "4:21", `onFailure can't be "rollback"`, `did you mean "return"?`},
		"unavailable":           {top("update: {maxUnavailable: 2}"), "4:26", "in rolling updates only", "strategy: rolling"},
		"no unit":               {add("stop: {grace: 10}"), "9:19", "grace is a number", "with its unit"},
		"words":                 {add("stop: {grace: 10 seconds}"), "9:19", `grace "10 seconds" is no time`, `did you mean "10s"?`},
		"grace too long":        {add("stop: {grace: 1h}"), "9:19", "1h is out of range", "write 1s to 10m"},
		"half a second":         {add("stop: {grace: 1500ms}"), "9:19", "no whole number of seconds", `did you mean "2s"?`},
		"signal":                {add("stop: {signal: TERM}"), "9:20", `signal can't be "TERM"`, `did you mean "SIGTERM"?`},
		"no check":              {add("health: {interval: 5s}"), "9:13", "checks nothing", "write one of"},
		"two checks":            {add("health: {tcp: 80, http: \"80\"}"), "9:13", "is several: http, tcp", "write one of"},
		"exec too often":        {add("health: {exec: [/check], interval: 500ms}"), "9:40", "500ms is out of range", "write 1s to"},
		"CMD":                   {add(`health: {exec: [CMD, /check]}`), "9:21", "CMD is no program", "remove it"},
		"CMD-SHELL":             {add(`health: {exec: [CMD-SHELL, "a || b"]}`), "9:21", "CMD-SHELL is no program", "/bin/sh"},
		"exec as text":          {add(`health: {exec: /check}`), "9:20", "exec is a string", "write a list"},
		"url":                   {add(`health: {http: "http://localhost:8080/x"}`), "9:20", "is no port and path", `did you mean "8080/x"?`},
		"http as number":        {add("health: {http: 8080}"), "9:20", "http is a number", "put it in quotes"},
		"port zero":             {add(`health: {http: "0/x"}`), "9:20", "0 is no port", "1 to 65535"},
		"check of machine":      {machine("health: {exec: [a]}"), "12:20", "inside a machine", "check it from outside"},
		"spread of one":         {add("spread: node"), "9:13", "there is one of this workload", "add replicas: 2"},
		"spread on one node":    {add("replicas: 2\n    spread: node\n    node: node-1"), "10:13", "contradict each other", "remove one"},
		"no name":               {add("depends_on: [wbe]"), "9:18", `no workload "wbe"`, "no other workload"},
		"near name":             {add("depends_on: [bxo]") + vm, "9:18", `no workload "bxo"`, `did you mean "box"?`},
		"itself":                {add("depends_on: [web]"), "9:18", "can't wait for itself", "remove it"},
		"condition":             {add("depends_on: {db: {condition: service_healthy}}"), "9:17", "depends_on is an object", "depends_on: [db]"},
		"circle":                {add("depends_on: [box]") + vm + "    depends_on: [web]\n", "13:18", "web → box → web", "remove one of these lines"},
		"name of replica":       {add("replicas: 2") + strings.Replace(vm, "box", "web-2", 1), "10:11", `"web-2" is the name of a replica of the workload in line 5`, "choose another"},
		"file without content":  {add("files: [{path: /a}]"), "9:13", "wants from or content", "add from:"},
		"file with both":        {add("files: [{path: /a, from: a, content: b}]"), "9:13", "wants from or content", "add from:"},
		"file twice":            {add("files: [{path: /a, from: a}, {path: /a, from: b}]"), "9:41", "/a stands twice", "remove one"},
		"file elsewhere":        {add("files: [{path: /a/../b, from: a}]"), "9:20", "is not a plain path", `did you mean "/b"?`},
		"mode as number":        {add("files: [{path: /a, from: a, mode: 0644}]"), "9:39", "mode is a number", `like "0644"`},
		"secret nowhere":        {add("secrets: [{name: a, from: \"env:A\"}]"), "9:15", "wants env or path", "/run/secrets/a"},
		"secret from shell":     {add("secrets: [{name: a, env: A, from: $A}]"), "9:39", "no place to read a secret from", `did you mean "env:A"?`},
		"secret from path":      {add("secrets: [{name: a, env: A, from: ./a.txt}]"), "9:39", "no place to read a secret from", `did you mean "file:./a.txt"?`},
		"secret over env":       {add("env: {A: b}\n    secrets: [{name: a, env: A, from: \"env:A\"}]"), "10:30", "the variable A stands in env already", "remove it there"},
		"secret twice":          {add("secrets: [{name: a, env: A}, {name: a, env: B}]"), "9:41", `the secret "a" stands twice`, "a name of its own"},
		"secret over file":      {add("files: [{path: /a, from: a}]\n    secrets: [{name: a, path: /a}]"), "9:20", "/a is a secret as well", "remove one"},
		"variable of a machine": {machine("secrets: [{name: a, env: A}]"), "12:30", "a machine has no variables", "path: /run/secrets/a"},
		"disk twice":            {machine("disks: [{serial: a, size: 1GiB}, {serial: a, size: 1GiB}]"), "12:47", `the serial "a" is that of the disk in line 12`, "of its own"},
		"cmdline of a disk":     {machine("boot: disk\n    cmdline: quiet"), "13:14", "its own boot loader", "boot: kernel"},
		"uefi":                  {machine("boot: uefi"), "12:11", `boot can't be "uefi"`, `did you mean "disk"?`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("shop.yaml", []byte(c.in))
			mistaken(t, err, c.line, c.message, c.fix)
		})
	}
}

func containerOf(t *testing.T, p plan.Plan, name string) (plan.Workload, plan.Container) {
	t.Helper()
	for _, w := range p.Workloads {
		if w.Name == name {
			c, err := plan.DecodeContainer(w.Config)
			if err != nil {
				t.Fatal(err)
			}
			return w, c
		}
	}
	t.Fatalf("no workload %s", name)
	return plan.Workload{}, plan.Container{}
}

func TestTheLifeIsInThePlan(t *testing.T) {
	f := facts()
	f.File = func(name string, limit int) ([]byte, error) { return []byte("content of " + name), nil }
	text := strings.Replace(good, "group: demo\n", "group: demo\nupdate: {strategy: rolling, maxUnavailable: 2, deadline: 1m30s, onFailure: return}\n", 1) + `    restart: on-failure
    attempts: 5
    deadline: 10m
    stop: {signal: SIGINT, grace: 20s}
    health: {http: "8080", interval: 500ms, timeout: 1s, retries: 2, start: 1m}
    files: [{path: /etc/b, content: "b", mode: "0600"}, {path: /etc/a, from: a.conf}]
    access: {exec: members, restart: none}
`
	p, err := resolve(t, text, f)
	if err != nil {
		t.Fatal(err)
	}
	_, c := containerOf(t, p, "web")
	want := plan.Life{
		Restart: "on-failure", Attempts: 5, Deadline: 600, Signal: 2, Grace: 20,
		Health: &plan.Health{Kind: "http", Args: []string{}, Port: 8080, Path: "/", Interval: 500, Timeout: 1000, Retries: 2, Start: 60_000},
		Access: plan.Access{Exec: "members", Console: "none", Files: "none", Restart: "none"},
	}
	if !reflect.DeepEqual(c.Life, want) {
		t.Errorf("life %+v, want %+v", c.Life, want)
	}
	if u := (plan.Update{Strategy: "rolling", MaxUnavailable: 2, Deadline: 90, Return: true}); p.Update != u {
		t.Errorf("update %+v, want %+v", p.Update, u)
	}
	files := []plan.File{{Path: "/etc/a", Mode: 0o644, Content: []byte("content of a.conf")}, {Path: "/etc/b", Mode: 0o600, Content: []byte("b")}}
	if !reflect.DeepEqual(c.Files, files) {
		t.Errorf("files %v, want %v", c.Files, files)
	}
	if plain, err := resolve(t, good, f); err != nil || plain.Update != plan.DefaultUpdate() {
		t.Errorf("update %+v, %v", plain.Update, err)
	} else if _, c := containerOf(t, plain, "web"); !reflect.DeepEqual(c.Life, plan.DefaultLife()) {
		t.Errorf("life %+v, want %+v", c.Life, plan.DefaultLife())
	}
}

func TestAFileThatCannotBeReadIsNamed(t *testing.T) {
	f := facts()
	text := good + "    files: [{path: /a, from: none.conf}]\n"
	_, err := resolve(t, text, f)
	mistaken(t, err, "9:30", "can't be read here", "content")
	f.File = func(string, int) ([]byte, error) {
		return nil, problem.New("source-unreadable", "no file none.conf").WithFix("make it")
	}
	_, err = resolve(t, text, f)
	mistaken(t, err, "9:30", "no file none.conf", "make it")
	f.File = func(_ string, limit int) ([]byte, error) { return make([]byte, limit+1), nil }
	_, err = resolve(t, text, f)
	mistaken(t, err, "9:30", "more than 65536 bytes", "into the image")
}

func TestReplicasAreMeantByTheNameOfTheirSet(t *testing.T) {
	text := strings.Replace(good, "group: demo\n", "group: demo\nnetworks: [{name: back}]\n", 1) + `    replicas: 3
    networks: [{name: back, allow: [{ports: 80/tcp, from: [web]}]}]
    depends_on: [db]
  - {name: db, kind: container, image: "red/web:1", replicas: 1, networks: [{name: back, allow: [{ports: 5432/tcp, from: [web]}, {ports: 1/tcp, from: [db]}]}]}
  - {name: job, kind: container, image: "red/web:1", depends_on: [web, db]}
`
	f := facts()
	for i := range f.Nodes {
		f.Nodes[i].Free = contract.Capacity{CPU: 4000, Memory: 4 << 30, Disk: 4 << 30}
	}
	p, err := resolve(t, text, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web-1", "web-2", "web-3"} {
		w, c := containerOf(t, p, name)
		if w.Set != "web" || !slices.Equal(w.After, []string{"db-1"}) || !slices.Equal(c.Networks[0].Aliases, []string{"web"}) {
			t.Errorf("%s: set %q, after %v, aliases %v", name, w.Set, w.After, c.Networks[0].Aliases)
		}
		others := slices.DeleteFunc([]string{"web-1", "web-2", "web-3"}, func(n string) bool { return n == name })
		if got := c.Networks[0].Allow[0].Peers; !slices.Equal(got, others) {
			t.Errorf("%s lets in %v, want the other replicas", name, got)
		}
	}
	// A rule that lets in the set's own only replica must not become one for everyone.
	_, db := containerOf(t, p, "db-1")
	if a := db.Networks[0]; a.Open || len(a.Allow) != 1 || !slices.Equal(a.Allow[0].Peers, []string{"web-1", "web-2", "web-3"}) {
		t.Errorf("db-1 lets in %+v", a.Allow)
	}
	if w, _ := containerOf(t, p, "job"); !slices.Equal(w.After, []string{"db-1", "web-1", "web-2", "web-3"}) || w.Set != "" {
		t.Errorf("job comes after %v", w.After)
	}
	for _, n := range p.Workloads {
		if n.Name == "web" || n.Name == "db" {
			t.Errorf("the plan has a workload %s", n.Name)
		}
	}
}

func TestReplicasBehindAGatewayShareTheLoad(t *testing.T) {
	f := facts()
	f.Nodes[1].Pool = &contract.Pool{Slot: f.Nodes[1].Slot, Ranges: []contract.Range{{Prefix: "198.51.100.0/24", Router: "198.51.100.1", First: "198.51.100.10", Last: "198.51.100.20"}},
		Shared: []string{"198.51.100.10"}, First: 20000, Last: 20100}
	p, err := resolve(t, strings.Replace(good, "group: demo\n", "group: demo\nnetworks: [{name: back}]\n", 1)+`    replicas: 2
    networks: [back]
  - {name: gw, kind: gateway, publish: [{port: tcp, to: "web:80"}]}
`, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range p.Workloads {
		if w.Kind == plan.KindGateway {
			g, err := plan.DecodeGateway(w.Config)
			if err != nil || !slices.Equal(g.Routes[0].Backends, []string{"web-1", "web-2"}) {
				t.Errorf("backends %v, %v", g.Routes, err)
			}
		}
	}
}

// able is the nodes of facts() with what they can do.
func able(f Facts, classes ...[]string) Facts {
	for i, c := range classes {
		f.Nodes[i].Isolation = c
	}
	return f
}

func TestIsolationIsWhatTheNodeCan(t *testing.T) {
	micro, plain := []string{"microvm", "namespace"}, []string{"namespace"}
	with := func(line string) string { return good + "    " + line + "\n" }
	for name, c := range map[string]struct {
		in       string
		facts    Facts
		node     byte
		class    string
		overhead uint64
	}{
		"nodes that said nothing":     {good, facts(), 2, "namespace", 0},
		"any where it can":            {good, able(facts(), plain, micro), 2, "microvm", 128 << 20},
		"any elsewhere":               {good, able(facts(), micro, plain), 2, "namespace", 0},
		"microvm goes where it can":   {with("isolation: microvm"), able(facts(), micro, plain), 1, "microvm", 128 << 20},
		"namespace where more is had": {with("isolation: namespace"), able(facts(), micro, micro), 2, "namespace", 0},
		"privileged":                  {with("privileged: true"), able(facts(), micro, plain), 1, "microvm", 128 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := resolve(t, c.in, c.facts)
			if err != nil {
				t.Fatal(err)
			}
			w, got := containerOf(t, p, "web")
			if w.Slot != (canon.Hash{c.node}) || got.Isolation != c.class {
				t.Errorf("on %s in a %s, want %d and %s", w.Slot.Short(), got.Isolation, c.node, c.class)
			}
			if want := 128<<20 + c.overhead; w.Resources.Memory != want {
				t.Errorf("%d bytes of memory, want %d", w.Resources.Memory, want)
			}
			if got.Privileged != (name == "privileged") || got.NoNewPrivs == got.Privileged {
				t.Errorf("privileged %t, no new privileges %t", got.Privileged, got.NoNewPrivs)
			}
		})
	}
}

func TestRoomThatOnlyTheMicroVMLacks(t *testing.T) {
	both := []string{"microvm", "namespace"}
	f := able(facts(), both, both)
	for i := range f.Nodes {
		f.Nodes[i].Free.Memory = 200 << 20 // 128 MiB of its own, and as much for a micro-VM
	}
	_, err := resolve(t, good, f)
	mistaken(t, err, "5:5", "256 MiB memory", "or write isolation: namespace")
	_, err = resolve(t, good+"    isolation: microvm\n", f)
	if err == nil || strings.Contains(err.Error(), "namespace") {
		t.Errorf("who wants a micro-VM is told %v", err)
	}
	f.Nodes[0].Free.Memory, f.Nodes[1].Free.Memory = 100<<20, 100<<20
	if _, err = resolve(t, good, f); err == nil || strings.Contains(err.Error(), "namespace") {
		t.Errorf("what fits in neither class is told %v", err)
	}
}

func TestIsolationIsNeverLowered(t *testing.T) {
	micro, plain := []string{"microvm", "namespace"}, []string{"namespace"}
	with := func(line string) string { return good + "    " + line + "\n" }
	lacking := able(facts(), plain, plain)
	lacking.Nodes[1].Lacks = "no /dev/kvm"
	_, err := resolve(t, with("isolation: microvm"), lacking)
	mistaken(t, err, "5:5", "no node that takes this group's workloads runs micro-VMs", "or write isolation: namespace")
	_, err = resolve(t, with("isolation: microvm\n    node: node-2"), able(lacking, micro))
	mistaken(t, err, "10:11", "node node-2 is none that runs micro-VMs (no /dev/kvm)", "nodes that could: node-1")
	_, err = resolve(t, good+"  - {name: box, kind: vm, image: \"red/web:1\"}\n", facts())
	mistaken(t, err, "9:5", "runs machines", "ask a farm")

	// What stands in a micro-VM goes where micro-VMs are, or is refused.
	f := able(facts(), micro, micro)
	p, err := resolve(t, good, f)
	if err != nil {
		t.Fatal(err)
	}
	f = able(f, micro, plain)
	f.Standing = &p
	moved, err := resolve(t, good, f)
	if err != nil {
		t.Fatal(err)
	}
	if w, c := containerOf(t, moved, "web"); w.Slot != f.Nodes[0].Slot || c.Isolation != "microvm" {
		t.Errorf("on %s in a %s", w.Slot.Short(), c.Isolation)
	}
	_, err = resolve(t, good, able(f, plain, plain))
	mistaken(t, err, "5:5", "and this one is in a micro-VM now", "write isolation: namespace")
	if lowered, err := resolve(t, with("isolation: namespace"), f); err != nil {
		t.Error(err)
	} else if _, c := containerOf(t, lowered, "web"); c.Isolation != "namespace" {
		t.Error("people can't lower it by writing so")
	}
}

func TestAMachineIsInThePlan(t *testing.T) {
	f := able(facts(), []string{"microvm", "namespace"})
	f.Nodes[0].Free = contract.Capacity{CPU: 4000, Memory: 4 << 30, Disk: 16 << 30}
	f.File = func(name string, _ int) ([]byte, error) { return []byte("#cloud-config " + name), nil }
	p, err := resolve(t, good+`  - name: box
    kind: vm
    image: red/web:1
    cmdline: quiet
    disks: [{serial: z, size: 1GiB}, {serial: a, size: 2GiB}]
    cloudInit: {userData: user.yaml, keys: ["ssh-ed25519 AAAA ada"]}
    access: {console: members}
`, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range p.Workloads {
		if w.Kind != plan.KindVM {
			continue
		}
		m, err := plan.DecodeVM(w.Config)
		if err != nil {
			t.Fatal(err)
		}
		if w.Slot != f.Nodes[0].Slot || w.Resources != (plan.Resources{CPU: 1000, Memory: 576 << 20, Disk: 5 << 30, PIDs: 256}) {
			t.Errorf("on %s with %+v", w.Slot.Short(), w.Resources)
		}
		if m.Boot != "kernel" || m.Cmdline != "quiet" || m.Disks[0].Serial != "a" || string(m.UserData) != "#cloud-config user.yaml" || len(m.Keys) != 1 || m.Life.Access.Console != "members" {
			t.Errorf("machine %+v", m)
		}
		return
	}
	t.Error("no machine in the plan")
}

func TestSpreadSaysWhatIsMissing(t *testing.T) {
	three := good + "    replicas: 3\n    spread: node\n"
	_, err := resolve(t, three, facts())
	mistaken(t, err, "5:5", "3 replicas of web want as many nodes, and there are 2 with room for one", "lower replicas to 2")
	f := facts()
	f.Nodes = append(f.Nodes, Node{Slot: canon.Hash{3}, Name: "node-3", Farm: canon.Hash{9}, Free: f.Nodes[0].Free})
	p, err := resolve(t, three, f)
	if err != nil {
		t.Fatal(err)
	}
	slots := map[canon.Hash]bool{}
	for _, w := range p.Workloads {
		slots[w.Slot] = true
	}
	if len(slots) != 3 {
		t.Errorf("3 replicas are on %d nodes", len(slots))
	}
	_, err = resolve(t, strings.Replace(three, "spread: node", "spread: farm", 1), f)
	mistaken(t, err, "5:5", "3 replicas of web want as many farms, and there are 2 with room for one", "lower replicas to 2, or ask another farm")
}

func TestReplicasStayWhereTheyStandWhenTheirNumberChanges(t *testing.T) {
	f := facts()
	f.Nodes = append(f.Nodes, Node{Slot: canon.Hash{3}, Name: "node-3", Free: contract.Capacity{CPU: 1000, Memory: 128 << 20, Disk: 1 << 30}})
	at := func(n int, standing *plan.Plan) (map[string]canon.Hash, *plan.Plan) {
		t.Helper()
		f.Standing = standing
		p, err := resolve(t, good+fmt.Sprintf("    replicas: %d\n    spread: node\n", n), f)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]canon.Hash{}
		for _, w := range p.Workloads {
			out[w.Name] = w.Slot
		}
		return out, &p
	}
	two, p2 := at(2, nil)
	// Where memory is free changes, which moves nothing.
	f.Nodes[0].Free.Memory, f.Nodes[1].Free.Memory, f.Nodes[2].Free.Memory = 128<<20, 128<<20, 512<<20
	three, p3 := at(3, p2)
	one, _ := at(1+1, p3)
	for name, slot := range two {
		if three[name] != slot || one[name] != slot {
			t.Errorf("%s is on %s, then %s, then %s", name, slot.Short(), three[name].Short(), one[name].Short())
		}
	}
}

// sealed is facts in which every node has keys.
func sealed(t *testing.T, values map[string]string) (Facts, []*seal.PrivateKey) {
	t.Helper()
	f := facts()
	f.Grid = canon.Sum([]byte("grid"))
	var keys []*seal.PrivateKey
	for i := range f.Nodes {
		k, err := seal.KeyFromSeed([32]byte{byte(i + 1)})
		if err != nil {
			t.Fatal(err)
		}
		f.Nodes[i].Epoch, f.Nodes[i].SealingKey = uint64(i+1), k.Public()
		keys = append(keys, k)
	}
	f.Value = func(from string) ([]byte, bool, error) {
		v, ok := values[from]
		return []byte(v), ok, nil
	}
	return f, keys
}

func TestSecretsAreSealedToTheNodeOfEachReplica(t *testing.T) {
	f, keys := sealed(t, map[string]string{"env:PW": "hunter2\n", "file:key": "line\n"})
	p, err := resolve(t, good+`    replicas: 2
    spread: node
    secrets: [{name: pw, env: PASSWORD, from: "env:PW"}, {name: key, path: /run/key, from: "file:key"}]
`, f)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := plan.Encode(p)
	if err != nil || bytes.Contains(encoded, []byte("hunter2")) {
		t.Errorf("the plan shows the secret, or %v", err)
	}
	for _, w := range p.Workloads {
		_, c := containerOf(t, p, w.Name)
		node := slices.IndexFunc(f.Nodes, func(n Node) bool { return n.Slot == w.Slot })
		for i, want := range []string{"line\n", "hunter2"} { // sorted by name; a variable has no line end
			s := c.Secrets[i]
			info := secret.Info{Grid: f.Grid, Group: f.Group, Deployment: "shop", Workload: w.Name, Name: s.Name, Epoch: f.Nodes[node].Epoch}
			got, err := secret.Open(keys[node], info, s.Sealed)
			if err != nil || string(got) != want || s.Epoch != f.Nodes[node].Epoch {
				t.Errorf("%s of %s: %q, %v", s.Name, w.Name, got, err)
			}
			if _, err := secret.Open(keys[1-node], info, s.Sealed); err == nil {
				t.Errorf("%s of %s opens on another node", s.Name, w.Name)
			}
		}
	}
}

// An update by someone who doesn't know the value keeps what stands, while it can be
// read.
func TestASecretWithoutAValueStaysAsItIsSealed(t *testing.T) {
	values := map[string]string{"env:PW": "hunter2"}
	f, _ := sealed(t, values)
	text := good + "    secrets: [{name: pw, env: PASSWORD, from: \"env:PW\"}]\n"
	_, err := resolve(t, strings.Replace(text, ", from: \"env:PW\"", "", 1), f)
	mistaken(t, err, "9:15", `the secret "pw" of web has no value: it is new`, "add from: env:NAME")
	p, err := resolve(t, text, f)
	if err != nil {
		t.Fatal(err)
	}
	first, err := plan.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	delete(values, "env:PW")
	f.Standing = &p
	for _, in := range []string{text, strings.Replace(text, ", from: \"env:PW\"", "", 1)} {
		again, err := resolve(t, in, f)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := plan.Encode(again); err != nil || !bytes.Equal(b, first) {
			t.Errorf("without the value the plan is another one: %v", err)
		}
	}
	values["env:PW"] = ""
	_, err = resolve(t, text, f)
	mistaken(t, err, "9:47", "env:PW is empty", "set it")
	delete(values, "env:PW")

	rekeyed := f
	rekeyed.Nodes = slices.Clone(f.Nodes)
	rekeyed.Nodes[1].Epoch++
	_, err = resolve(t, text, rekeyed)
	mistaken(t, err, "9:15", "node node-2 has new keys", "set the variable PW before planning")
	_, err = resolve(t, text+"    node: node-1\n", f)
	mistaken(t, err, "9:15", "sealed to another node, not to node-1", "set the variable PW")

	values["env:PW"] = "hunter3"
	changed, err := resolve(t, text, f)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := plan.Encode(changed); bytes.Equal(b, first) {
		t.Error("a new value changed nothing")
	}
}
