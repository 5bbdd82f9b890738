package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec"
)

const foreignSpec = `apiVersion: zos/v1
name: foreign
group: demo
workloads:
  - name: hello
    kind: container
    image: red/foreign:1
    command: [/hello]
    resources: {cpu: 0.1, memory: 64MiB, disk: 16MiB, pids: 32}
`

// foreign sends what the command line never would: approvals for another grid,
// contract, version or group epoch, and signatures of something else.
func (w *world) foreign(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w.must(os.MkdirAll(w.path("tree"), 0o755))
	w.must(os.WriteFile(w.path("tree/hello"), []byte("hello"), 0o755))
	w.zos("flist", "build", "--from", w.path("tree"), "--root-owned", "--tag", "red/foreign:1")
	config := client.Config{Dir: w.config}
	known, err := config.Load("test")
	w.must(err)
	c, err := client.Open(ctx, config, known, nil)
	w.must(err)
	defer c.Close()
	red, err := c.Signer(ctx, "red")
	w.must(err)
	green, err := c.Signer(ctx, "green")
	w.must(err)
	d, err := spec.Parse("foreign.yaml", []byte(foreignSpec))
	w.must(err)
	p, err := c.Plan(ctx, d)
	w.must(err)
	id, err := c.Propose(ctx, p, red)
	w.must(err)
	proposal, err := c.Proposal(ctx, id)
	w.must(err)
	w.must(c.Approve(ctx, proposal, green))
	if p, err = c.Plan(ctx, d); err != nil || p.Version != 2 {
		t.Fatalf("the next version is %d, %v", p.Version, err)
	}

	next := contract.NewUpdate(known.Grid(), id, 1, p.Plan, p.Bytes, p.Epoch, contract.NewNonce(), uint64(time.Now().Add(time.Hour).Unix()))
	for _, f := range []struct {
		what, code string
		change     func(*contract.Approval)
	}{
		{"another grid", "wrong-grid", func(a *contract.Approval) { a.Grid = canon.Sum([]byte("another")) }},
		{"another contract", "contract-unknown", func(a *contract.Approval) { a.Contract = canon.Sum([]byte("another")) }},
		{"the version that stands", "stale-version", func(a *contract.Approval) { a.Version = 1 }},
		{"a version ahead", "stale-version", func(a *contract.Approval) { a.Version = 3 }},
		{"another epoch of the group", "stale-epoch", func(a *contract.Approval) { a.GroupEpoch = 2 }},
		{"a time that is past", "proposal-expired", func(a *contract.Approval) { a.Expiry = uint64(time.Now().Add(-time.Hour).Unix()) }},
	} {
		a := next
		f.change(&a)
		s, err := contract.Sign(ctx, a, contract.KindApproval, red)
		w.must(err)
		if err := c.Submit(ctx, s); problem.Code(err) != f.code {
			t.Errorf("an approval for %s: %v, want code %s", f.what, err, f.code)
		}
	}
	s, err := contract.Sign(ctx, next, contract.KindApproval, red)
	w.must(err)
	other := next
	other.Nonce = contract.NewNonce()
	o, err := contract.Sign(ctx, other, contract.KindApproval, red)
	w.must(err)
	s.Signatures = o.Signatures
	if err := c.Submit(ctx, s); problem.Code(err) != "signature-invalid" {
		t.Errorf("a signature of another statement: %v", err)
	}
	k, err := c.Contract(ctx, id)
	w.must(err)
	if k.Version != 1 {
		t.Errorf("the contract is at version %d after nothing but refusals", k.Version)
	}
}
