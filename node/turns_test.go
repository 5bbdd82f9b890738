package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/rollout"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// fleet is several nodes with a reconciler each, and the receipts that they write. A
// workload is ready five seconds after it was started, if its version is a good one.
type fleet struct {
	t     *testing.T
	id    canon.Hash
	nodes []*member

	mu       sync.Mutex
	receipts map[string]workload.Status
	said     []string        // of every receipt: name, version, reason
	bad      map[string]bool // "name version" that never gets ready
	most     int             // of replicas that were away at once
	counting bool
}

// member is a node of a fleet.
type member struct {
	fleet   *fleet
	slot    canon.Hash
	dir     string
	runs    map[workload.ID]workload.Status
	started map[workload.ID]time.Time
	turns   *turns
	reconc  *reconciler
	stop    func()
}

func (m *member) Ensure(_ context.Context, d workload.Desired) error {
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	m.runs[d.ID] = workload.Status{State: contract.StateRunning, Version: d.Version}
	m.started[d.ID] = time.Now()
	return nil
}

func (m *member) Observe(context.Context) (map[workload.ID]workload.Status, error) {
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	out := map[workload.ID]workload.Status{}
	for id, s := range m.runs {
		s.Ready = time.Since(m.started[id]) >= 5*time.Second && !m.fleet.bad[fmt.Sprint(id.Name, " ", s.Version)]
		m.runs[id], out[id] = s, s
	}
	m.fleet.count()
	return out, nil
}

func (m *member) Remove(_ context.Context, id workload.ID) error {
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	delete(m.runs, id)
	return nil
}

// count notes how many replicas are away; the caller holds the lock.
func (f *fleet) count() {
	if !f.counting {
		return
	}
	away := 0
	for _, n := range f.nodes {
		for id, s := range n.runs {
			if !s.Ready && !f.bad[fmt.Sprint(id.Name, " ", s.Version)] {
				away++
			}
		}
	}
	f.most = max(f.most, away)
}

func newFleet(t *testing.T, nodes int) *fleet {
	f := &fleet{t: t, id: canon.Sum([]byte("contract")), receipts: map[string]workload.Status{}, bad: map[string]bool{}}
	for i := range nodes {
		m := &member{fleet: f, slot: canon.Sum([]byte{byte(i)}), dir: t.TempDir(), runs: map[workload.ID]workload.Status{}, started: map[workload.ID]time.Time{}}
		f.nodes = append(f.nodes, m)
	}
	return f
}

// start runs the node's daemon: reconciler, memory, and the reading of receipts.
func (m *member) start() {
	log := slog.New(slog.DiscardHandler)
	m.turns = newTurns(m.slot, m.dir, log)
	m.reconc = newReconciler(map[string]workload.Kind{plan.KindContainer: m}, func(id workload.ID, _ string, s workload.Status) {
		m.fleet.mu.Lock()
		defer m.fleet.mu.Unlock()
		m.fleet.receipts[id.Name] = s
		m.fleet.said = append(m.fleet.said, fmt.Sprintf("%s %d %s", id.Name, s.Version, s.Reason))
	}, log)
	m.reconc.turns = m.turns
	ctx, stop := context.WithCancel(m.fleet.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.reconc.run(ctx) })
	wg.Go(func() {
		for ctx.Err() == nil {
			for _, d := range m.turns.wanted() {
				if m.turns.heard(d.contract, d.version, m.fleet.views()) {
					m.reconc.wake()
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(hearEvery):
			}
		}
	})
	m.stop = func() { stop(); wg.Wait() }
}

func (f *fleet) views() map[string]rollout.View {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]rollout.View{}
	for name, s := range f.receipts {
		out[name] = rollout.View{Version: s.Version, Ready: s.Ready}
		if s.Reason == codeReturned {
			out[name] = rollout.View{Ready: s.Ready, Returned: s.Version, Why: s.Detail}
		}
	}
	return out
}

// version is a plan with one replica on each node, and its approval.
func (f *fleet) version(n uint64, u plan.Update, change func(*plan.Plan)) contract.Signed {
	f.t.Helper()
	p := plan.Plan{V: plan.Version, Update: u, Group: canon.Sum([]byte("group")), Name: "shop"}
	for i, m := range f.nodes {
		config, err := plan.Container{V: plan.Version, Flist: canon.Sum([]byte("image")), Size: 1, Args: []string{"/bin/web"}, Env: []string{},
			WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), NoNewPrivs: true}.Encode()
		if err != nil {
			f.t.Fatal(err)
		}
		p.Workloads = append(p.Workloads, plan.Workload{Name: fmt.Sprintf("web-%d", i+1), Kind: plan.KindContainer, Slot: m.slot, Set: "web",
			Resources: plan.Resources{CPU: 1, Memory: plan.MinMemory, PIDs: 8}, Config: config})
	}
	if change != nil {
		change(&p)
	}
	b, err := plan.Encode(p)
	if err != nil {
		f.t.Fatal(err)
	}
	a := contract.Approval{Header: contract.Header{V: contract.Version, Kind: contract.KindApproval}, Version: n, Action: contract.ActionUpdate, Plan: b}
	statement, err := canon.Marshal(a)
	if err != nil {
		f.t.Fatal(err)
	}
	return contract.Signed{Statement: statement}
}

// prove gives the nodes a history, as their provers would.
func (f *fleet) prove(history []contract.Signed, nodes ...*member) {
	f.t.Helper()
	a, err := newestApproval(history)
	if err != nil {
		f.t.Fatal(err)
	}
	p, err := plan.Decode(a.Plan)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, m := range nodes {
		m.turns.set([]deployment{{contract: f.id, version: a.Version, plan: &p, history: history}})
		var set []workload.Desired
		for _, w := range p.Workloads {
			if w.Slot == m.slot {
				set = append(set, workload.Desired{ID: workload.ID{Contract: f.id, Name: w.Name}, Version: a.Version, Plan: w, Deployment: &p})
			}
		}
		m.reconc.setDesired(set)
	}
}

// running shows every replica as name, version and reason of its last receipt.
func (f *fleet) running() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, m := range f.nodes {
		for id, s := range m.runs {
			out = append(out, fmt.Sprintf("%s:%d:%v:%s", id.Name, s.Version, s.Ready, f.receipts[id.Name].Reason))
		}
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}

// locked looks at what the nodes share.
func (f *fleet) locked(look func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	look()
}

func (f *fleet) expect(want string) {
	f.t.Helper()
	if got := f.running(); got != want {
		f.t.Fatalf("runs %s\nwant %s", got, want)
	}
}

// updating is a fleet of three in version 1, in fake time.
func updating(t *testing.T, f func(f *fleet, one contract.Signed)) {
	synctest.Test(t, func(t *testing.T) {
		fl := newFleet(t, 3)
		for _, m := range fl.nodes {
			m.start()
		}
		one := fl.version(1, plan.DefaultUpdate(), nil)
		fl.prove([]contract.Signed{one}, fl.nodes...)
		time.Sleep(20 * time.Second)
		fl.expect("[web-1:1:true: web-2:1:true: web-3:1:true:]")
		fl.mu.Lock()
		fl.counting = true
		fl.mu.Unlock()
		f(fl, one)
		for _, m := range fl.nodes {
			m.stop()
		}
	})
}

func rollingUpdate() plan.Update {
	return plan.Update{Strategy: plan.UpdateRolling, MaxUnavailable: 1, Deadline: 60, Return: true}
}

func TestReplicasAreReplacedOneAfterAnother(t *testing.T) {
	updating(t, func(f *fleet, one contract.Signed) {
		f.prove([]contract.Signed{one, f.version(2, rollingUpdate(), nil)}, f.nodes...)
		time.Sleep(3 * time.Second)
		f.expect("[web-1:2:false: web-2:1:true:waiting-for web-3:1:true:waiting-for]")
		time.Sleep(time.Minute)
		f.expect("[web-1:2:true: web-2:2:true: web-3:2:true:]")
		f.locked(func() {
			if f.most != 1 {
				t.Errorf("%d were away at once", f.most)
			}
		})
	})
}

func TestAFailedUpdateIsTakenBackByEveryNode(t *testing.T) {
	updating(t, func(f *fleet, one contract.Signed) {
		f.locked(func() { f.bad["web-2 2"] = true })
		history := []contract.Signed{one, f.version(2, rollingUpdate(), nil)}
		f.prove(history, f.nodes...)
		time.Sleep(3 * time.Minute)
		f.expect("[web-1:1:true:update-returned web-2:1:true:update-returned web-3:1:true:update-returned]")
		f.locked(func() {
			if slices.Contains(f.said, "web-3 2 ") {
				t.Error("the third was updated although the second had failed")
			}
		})
		// A daemon that starts again does not try the failed version again.
		m := f.nodes[1]
		m.stop()
		m.start()
		f.prove(history, m)
		time.Sleep(3 * time.Minute)
		f.expect("[web-1:1:true:update-returned web-2:1:true:update-returned web-3:1:true:update-returned]")
		// The next version comes from the one that runs, and returns to it too.
		f.locked(func() { f.bad["web-1 3"] = true })
		history = append(history, f.version(3, rollingUpdate(), nil))
		f.prove(history, f.nodes...)
		time.Sleep(3 * time.Minute)
		f.expect("[web-1:1:true:update-returned web-2:1:true:update-returned web-3:1:true:update-returned]")
		f.locked(func() {
			if v := f.receipts["web-1"].Version; v != 3 {
				t.Errorf("the receipt speaks of version %d", v)
			}
		})
		f.prove(append(history, f.version(4, rollingUpdate(), nil)), f.nodes...)
		time.Sleep(3 * time.Minute)
		f.expect("[web-1:4:true: web-2:4:true: web-3:4:true:]")
		f.locked(func() {
			if f.most != 1 {
				t.Errorf("%d were away at once", f.most)
			}
		})
	})
}

func TestANodeThatDiesInAnUpdateGoesOnWithIt(t *testing.T) {
	updating(t, func(f *fleet, one contract.Signed) {
		history := []contract.Signed{one, f.version(2, rollingUpdate(), nil)}
		f.prove(history, f.nodes...)
		time.Sleep(3 * time.Second)
		for _, m := range f.nodes[:2] { // the one that is on its way, and one that waits
			m.stop()
			f.mu.Lock()
			clear(m.runs)
			f.mu.Unlock()
			m.start()
			f.prove(history, m)
		}
		time.Sleep(3 * time.Second)
		f.expect("[web-1:2:false: web-2:1:false:waiting-for web-3:1:true:waiting-for]")
		time.Sleep(time.Minute)
		f.expect("[web-1:2:true: web-2:2:true: web-3:2:true:]")
	})
}

func TestWhatComesAfterOthersStartsWhenTheyAreReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		for _, m := range f.nodes {
			m.start()
		}
		one := f.version(1, plan.DefaultUpdate(), func(p *plan.Plan) { p.Workloads[0].After = []string{"web-2"} })
		f.prove([]contract.Signed{one}, f.nodes...)
		time.Sleep(3 * time.Second)
		f.expect("[web-2:1:false:]")
		f.mu.Lock()
		s := f.receipts["web-1"]
		f.mu.Unlock()
		if s.State != contract.StatePending || s.Reason != codeWaiting || s.Detail != "waits for web-2 to be ready" {
			t.Errorf("the one that waits is reported as %+v", s)
		}
		time.Sleep(20 * time.Second)
		f.expect("[web-1:1:true: web-2:1:true:]")
		for _, m := range f.nodes {
			if n := m.turns.wanted(); len(n) != 0 {
				t.Errorf("receipts are still read when nothing waits: %d contracts", len(n))
			}
			m.stop()
		}
	})
}

func TestWhatIsSeenOfAWorkload(t *testing.T) {
	for _, test := range []struct {
		kind string
		s    workload.Status
		want rollout.View
	}{
		{plan.KindContainer, workload.Status{State: contract.StateRunning, Version: 2}, rollout.View{Version: 2}},
		{plan.KindContainer, workload.Status{State: contract.StateRunning, Version: 2, Ready: true}, rollout.View{Version: 2, Ready: true}},
		{plan.KindNetwork, workload.Status{State: contract.StateRunning, Version: 2}, rollout.View{Version: 2, Ready: true}},
		{plan.KindNetwork, workload.Status{State: contract.StatePending, Version: 2}, rollout.View{Version: 2}},
		{plan.KindContainer, workload.Status{State: contract.StateExited, Version: 2}, rollout.View{Version: 2, Ready: true}},
		{plan.KindContainer, workload.Status{State: contract.StateExited, Version: 2, ExitCode: 1}, rollout.View{Version: 2, Over: true}},
		{plan.KindContainer, workload.Status{State: contract.StateFailed, Version: 2, Reason: "exited"}, rollout.View{Version: 2}},
		{plan.KindContainer, workload.Status{State: contract.StateFailed, Version: 2, Reason: "attempts-exhausted"}, rollout.View{Version: 2, Over: true}},
	} {
		if got := viewOf(test.kind, test.s); got != test.want {
			t.Errorf("%s %+v is seen as %+v, want %+v", test.kind, test.s, got, test.want)
		}
	}
}

func TestADamagedMemoryIsForgotten(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, turnsFile), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m := newTurns(canon.Hash{1}, dir, slog.New(slog.DiscardHandler)); len(m.memories) != 0 {
		t.Errorf("it remembers %+v", m.memories)
	}
}

func TestReceiptsOfOthersAreNotBelieved(t *testing.T) {
	g := newGrid(t)
	node, other := g.signer(), g.signer()
	id, w := canon.Sum([]byte("c")), plan.Workload{Name: "w", Slot: g.slot.ID()}
	good := contract.NewReceipt(g.id, contract.Receipt{Contract: id, Version: 3, Workload: "w", Slot: g.slot.ID(), Epoch: 2, State: contract.StateRunning, Ready: true})
	write := func(change func(*contract.Receipt), by ...int) contract.Signed {
		r := good
		if change != nil {
			change(&r)
		}
		signers := []sign.Signer{node, other}
		s, err := contract.Sign(t.Context(), r, contract.KindReceipt, signers[by[0]])
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	judge := func(s contract.Signed) (rollout.View, error) {
		return judgeReceipt(g.id, id, w, 2, node.Public(), s)
	}
	if v, err := judge(write(nil, 0)); err != nil || v != (rollout.View{Version: 3, Ready: true}) {
		t.Errorf("%+v, %v", v, err)
	}
	returned := func(r *contract.Receipt) { r.Reason, r.Detail = codeReturned, "it fell" }
	if v, err := judge(write(returned, 0)); err != nil || v != (rollout.View{Ready: true, Returned: 3, Why: "it fell"}) {
		t.Errorf("%+v, %v", v, err)
	}
	for what, s := range map[string]contract.Signed{
		"of another key":      write(returned, 1),
		"of another workload": write(func(r *contract.Receipt) { r.Workload = "x" }, 0),
		"of another contract": write(func(r *contract.Receipt) { r.Contract = canon.Hash{9} }, 0),
		"of another slot":     write(func(r *contract.Receipt) { r.Slot = canon.Hash{9} }, 0),
		"of an old epoch":     write(func(r *contract.Receipt) { r.Epoch = 1 }, 0),
		"without a signature": {Statement: write(nil, 0).Statement},
	} {
		if v, err := judge(s); err == nil {
			t.Errorf("a receipt %s says %+v", what, v)
		}
	}
}
