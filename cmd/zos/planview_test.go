package main

import (
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/spec/plan"
)

// running is a plan with one container.
func running(t *testing.T, slot canon.Hash, change func(*plan.Container)) *plan.Plan {
	t.Helper()
	c := plan.Container{V: plan.Version, Flist: canon.Hash{1}, Args: []string{"/db"}, WorkDir: "/", NoNewPrivs: true, Isolation: plan.IsolationMicroVM, Life: plan.DefaultLife()}
	change(&c)
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return &plan.Plan{Name: "shop", Workloads: []plan.Workload{{Name: "db", Kind: plan.KindContainer, Slot: slot, Config: b, Resources: plan.Resources{CPU: 1, Memory: 1 << 30, Disk: 1 << 30, PIDs: 1}}}}
}

// sealed is a plan with one container that has a secret.
func sealed(t *testing.T, slot canon.Hash, image byte, program, value string) *plan.Plan {
	return running(t, slot, func(c *plan.Container) {
		c.Flist, c.Args = canon.Hash{image}, []string{program}
		c.Secrets = []plan.Secret{{Name: "pw", Env: "PASSWORD", Epoch: 1, Sealed: []byte(value)}}
	})
}

// Nobody signs a grant, less isolation, a loss of data or another reader of a secret without having been told.
func TestAPlanSaysWhatToLookAtTwice(t *testing.T) {
	n1, n2 := canon.Hash{1}, canon.Hash{2}
	same := func(*plan.Container) {}
	standing := running(t, n1, same)
	for name, c := range map[string]struct {
		from, to *plan.Plan
		want     []string
	}{
		"nothing new":  {standing, standing, nil},
		"new":          {nil, standing, []string{"ephemeral: what db write is lost"}},
		"command":      {standing, running(t, n1, func(c *plan.Container) { c.Args = []string{"/new"} }), nil},
		"exec granted": {standing, running(t, n1, func(c *plan.Container) { c.Life.Access.Exec = plan.AccessMembers }), []string{"db: each member of the group may now run programs in it (exec)"}},
		"files at once": {nil, running(t, n1, func(c *plan.Container) { c.Life.Access.Files = plan.AccessMembers }),
			[]string{"db: each member of the group may now copy files (cp)", "ephemeral"}},
		"exec taken": {running(t, n1, func(c *plan.Container) { c.Life.Access.Exec = plan.AccessMembers }), standing, nil},
		"lowered": {standing, running(t, n1, func(c *plan.Container) { c.Isolation = plan.IsolationNamespace }),
			[]string{"db: leaves its micro-VM, and shares the node's kernel", "db: what it has written is lost: its isolation changes", "ephemeral"}},
		"privileged": {standing, running(t, n1, func(c *plan.Container) { c.Privileged, c.NoNewPrivs = true, false }), []string{"db: is privileged"}},
		"setuid":     {standing, running(t, n1, func(c *plan.Container) { c.NoNewPrivs = false }), []string{"db: its programs may gain privileges"}},
		"image":      {standing, running(t, n1, func(c *plan.Container) { c.Flist = canon.Hash{2} }), []string{"db: what it has written is lost: its image changes", "ephemeral"}},
		"moved":      {standing, running(t, n2, same), []string{"db: what it has written is lost: it moves to another node", "ephemeral"}},
		"sealed anew for another image": {sealed(t, n1, 1, "/db", "one"), sealed(t, n1, 2, "/db", "two"),
			[]string{"db: what it has written is lost: its image changes", "ephemeral"}},
		"carried on into another image": {sealed(t, n1, 1, "/db", "one"), sealed(t, n1, 2, "/db", "one"),
			[]string{"db: what was sealed for it before is handed to another image: pw", "db: what it has written is lost: its image changes", "ephemeral"}},
		"carried on into another command": {sealed(t, n1, 1, "/db", "one"), sealed(t, n1, 1, "/steal", "one"),
			[]string{"db: what was sealed for it before is handed to another command, environment or files: pw"}},
		"carried on": {sealed(t, n1, 1, "/db", "one"), sealed(t, n1, 1, "/db", "one"), nil},
		"removed":    {standing, &plan.Plan{Name: "shop"}, []string{"db: what it has written is lost: it is removed"}},
	} {
		got := attention(c.from, c.to)
		ok := len(got) == len(c.want)
		for i := range c.want {
			ok = ok && strings.HasPrefix(got[i], c.want[i])
		}
		if !ok {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// What a file or a secret holds is nobody's business who looks at a plan.
func TestAPlanShowsFilesAndSecretsByNameOnly(t *testing.T) {
	p := running(t, canon.Hash{1}, func(c *plan.Container) {
		c.Files = []plan.File{{Path: "/etc/db.conf", Mode: 0o644, Content: []byte("content-of-file")}}
		c.Secrets = []plan.Secret{{Name: "pw", Env: "PASSWORD", Epoch: 2, Sealed: []byte("sealed-bytes")}}
		c.Life.Health = &plan.Health{Kind: plan.CheckHTTP, Args: []string{}, Port: 80, Path: "/ok", Interval: 10_000, Timeout: 2000, Retries: 3, Start: 90_000}
	})
	p.Workloads[0].Set, p.Workloads[0].After = "dbs", []string{"a", "b"}
	p.Update = plan.Update{Strategy: plan.UpdateRolling, MaxUnavailable: 1, Deadline: 300, Return: true}
	got := strings.Join(diff(nil, p, client.Names{}), "\n")
	for _, want := range []string{
		"update is rolling, 1 of each set away at a time, each ready within 5m, else back to the version before",
		"    replica  of dbs", "    after    a, b are ready", "    isolated in a micro-VM with a kernel of its own",
		"    life     restart always, stopped by SIGTERM and 10s", "    health   http 80/ok every 10s, 2s each, unhealthy after 3 failures, not before 1m30s",
		"    access   members may restart it", "    file     /etc/db.conf mode 0644, 15 bytes", "    secret   pw as variable PASSWORD, sealed to the node's keys 2",
		"(128.0 MiB of the memory is its micro-VM's)",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	for _, hidden := range []string{"content-of-file", "sealed-bytes"} {
		if strings.Contains(got, hidden) {
			t.Errorf("%q is shown in\n%s", hidden, got)
		}
	}
}
