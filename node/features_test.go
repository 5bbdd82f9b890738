package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/secret"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// writer is the grid's book with its rules, as a node writes to it.
type writer struct {
	reader
	g       *grid
	written int
}

func (w *writer) Submit(_ context.Context, tx []byte) (light.Result, error) {
	w.written++
	_, err := contract.Apply(w.g.book, w.g.now, tx)
	return light.Result{}, err
}

func TestANodeSaysWhatItCanDoOnce(t *testing.T) {
	g := newGrid(t)
	key := g.signer()
	sealing, err := seal.KeyFromSeed([32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	g.apply(contract.NewNode(g.id, g.slot.ID(), 1, key.Public(), sealing.Public(), canon.Hash{}, contract.NewNonce(), g.now+100), contract.KindNode, key, g.farmer)
	w := &writer{reader: reader{g.book}, g: g}
	said := func() contract.Features {
		t.Helper()
		rec, found, err := get[contract.FeaturesRecord](t.Context(), w, contract.KeyFeatures(g.slot.ID()))
		if err != nil || !found {
			t.Fatal(found, err)
		}
		f, _, _, err := contract.Open[contract.Features](rec.Signed, contract.KindFeatures, g.id)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	boot := func(probe error) *features {
		f := newFeatures(g.id, g.slot.ID(), key, func(context.Context) error { return probe }, slog.New(slog.DiscardHandler))
		if err := f.say(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		f.find(t.Context())
		f.joined(1)
		if err := f.say(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		return f
	}
	boot(problem.New(codeIsolation, "no\nmachine"))
	if f := said(); !slices.Equal(f.Isolation, []string{plan.IsolationNamespace}) || f.Reason != codeIsolation || f.Sequence != 1 || w.written != 1 {
		t.Fatalf("after %d transactions it says %+v", w.written, f)
	}
	boot(problem.New(codeIsolation, "no\nmachine"))
	if w.written != 1 {
		t.Fatal("the same is said twice")
	}
	f := boot(nil)
	if f := said(); !f.Can(plan.IsolationMicroVM) || f.Sequence != 2 || f.Reason != "" {
		t.Fatalf("it says %+v", f)
	}
	if s := f.status(); !s.Machines || !s.Probed || s.Detail != "" {
		t.Fatalf("it shows %+v", s)
	}
}

func TestWhatIsNotThereYetIsLookedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		f := newFeatures(canon.Hash{1}, canon.Hash{2}, nil, func(context.Context) error {
			if tries++; tries < 4 {
				return problem.New("hub-unreachable", "no hub")
			}
			return nil
		}, slog.New(slog.DiscardHandler))
		done := make(chan struct{})
		go func() { f.find(t.Context()); close(done) }()
		synctest.Wait()
		if s := f.status(); s.Probed || s.Machines {
			t.Errorf("it shows %+v before it knows", s)
		}
		<-done
		if s := f.status(); tries != 4 || !s.Machines || s.Detail != "" {
			t.Errorf("after %d tries it shows %+v", tries, s)
		}
	})
}

func TestAClassIsNeverLowered(t *testing.T) {
	container := func(class string) plan.Workload {
		config, err := plan.Container{V: plan.Version, Flist: canon.Sum([]byte("image")), Size: 1, Args: []string{"/a"}, Env: []string{}, WorkDir: "/", Isolation: class, Life: plan.DefaultLife(), NoNewPrivs: true}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return plan.Workload{Name: "w", Kind: plan.KindContainer, Config: config}
	}
	all, low := []string{plan.IsolationMicroVM, plan.IsolationNamespace}, []string{plan.IsolationNamespace}
	vm := plan.Workload{Name: "w", Kind: plan.KindVM}
	for _, test := range []struct {
		what  string
		w     plan.Workload
		found []string
		may   bool
	}{
		{"microvm where it can", container(plan.IsolationMicroVM), all, true},
		{"microvm where it can't", container(plan.IsolationMicroVM), low, false},
		{"microvm before it is known", container(plan.IsolationMicroVM), nil, false},
		{"namespace where microvm can", container(plan.IsolationNamespace), all, true},
		{"namespace before it is known", container(plan.IsolationNamespace), nil, true},
		{"a machine where it can", vm, all, true},
		{"a machine where it can't", vm, low, false},
		{"a network", plan.Workload{Kind: plan.KindNetwork}, nil, true},
	} {
		err := mayRun(test.w, test.found, errors.New("there is no KVM"))
		if (err == nil) != test.may || err != nil && problem.Code(err) != "isolation-unavailable" {
			t.Errorf("%s: %v", test.what, err)
		}
	}
	if err := mayRun(plan.Workload{Kind: plan.KindContainer, Config: []byte{1}}, all, nil); err == nil {
		t.Error("a configuration that can't be read may run")
	}
}

func TestAWorkloadOfAnotherClassIsNotStarted(t *testing.T) {
	reconciling(t, func(r *reconciler, k *machineKind, last func(workload.ID) workload.Status) {
		r.may = func(plan.Workload) error { return problem.New(codeIsolation, "no") }
		d := wish("w", 1)
		r.setDesired([]workload.Desired{d})
		time.Sleep(time.Minute)
		if s := last(d.ID); s.State != contract.StateFailed || s.Reason != "isolation-unavailable" {
			t.Errorf("reported %+v", s)
		}
		if e, _, runs := k.count(); e != 0 || runs != 0 {
			t.Errorf("%d ensures, %d run", e, runs)
		}
	})
}

func TestASecretOpensForItsOwnWorkloadAlone(t *testing.T) {
	key, err := seal.KeyFromSeed([32]byte{7})
	if err != nil {
		t.Fatal(err)
	}
	d := workload.Desired{Plan: plan.Workload{Name: "db"}, Deployment: &plan.Plan{Group: canon.Hash{2}, Name: "shop"}}
	sealed, err := secret.Seal(key.Public(), secret.Info{Grid: canon.Hash{1}, Group: canon.Hash{2}, Deployment: "shop", Workload: "db", Name: "password", Epoch: 3}, []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	n, s := nodeSecrets{canon.Hash{1}, key}, plan.Secret{Name: "password", Epoch: 3, Sealed: sealed}
	if v, err := n.open(t.Context(), d, s); err != nil || string(v) != "hunter2" {
		t.Fatalf("%q, %v", v, err)
	}
	other, err := seal.KeyFromSeed([32]byte{8})
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(n *nodeSecrets, d *workload.Desired, s *plan.Secret){
		"of another grid": func(n *nodeSecrets, _ *workload.Desired, _ *plan.Secret) { n.grid = canon.Hash{9} },
		"after a new key": func(n *nodeSecrets, _ *workload.Desired, _ *plan.Secret) { n.key = other },
		"of another group": func(_ *nodeSecrets, d *workload.Desired, _ *plan.Secret) {
			d.Deployment = &plan.Plan{Group: canon.Hash{3}, Name: "shop"}
		},
		"of another deployment": func(_ *nodeSecrets, d *workload.Desired, _ *plan.Secret) {
			d.Deployment = &plan.Plan{Group: canon.Hash{2}, Name: "shed"}
		},
		"of another workload": func(_ *nodeSecrets, d *workload.Desired, _ *plan.Secret) { d.Plan.Name = "web" },
		"of another name":     func(_ *nodeSecrets, _ *workload.Desired, s *plan.Secret) { s.Name = "token" },
		"of another epoch":    func(_ *nodeSecrets, _ *workload.Desired, s *plan.Secret) { s.Epoch = 4 },
		"of nothing known":    func(_ *nodeSecrets, d *workload.Desired, _ *plan.Secret) { d.Deployment = nil },
	} {
		n, d, s := n, d, s
		change(&n, &d, &s)
		if v, err := n.open(t.Context(), d, s); problem.Code(err) != "secret-unreadable" {
			t.Errorf("a secret %s opens: %q, %v", what, v, err)
		}
	}
}
