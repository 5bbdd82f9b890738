package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/rollout"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/shim"
)

// turnsFile holds what must not be forgotten in the middle of an update. maxTurns
// bounds it.
const (
	turnsFile = "turns"
	maxTurns  = 16 << 20
)

// Codes of what people are told of a workload in an update.
const (
	codeWaiting  = "waiting-for"
	codeReturned = "update-returned"
)

// deployment is one proven contract on its way from version to version.
type deployment struct {
	contract canon.Hash
	version  uint64
	plan     *plan.Plan
	// history is every kept approval; contract.Judge has verified all of them.
	history []contract.Signed
	// asked is what the plan asks of this slot, granted what the group may use of the
	// farm, offered what the slot has.
	asked, granted, offered contract.Capacity
	// Of the rest only turns knows.
	base     uint64
	basePlan *plan.Plan
	there    map[string]rollout.View // by receipts
	steps    []rollout.Step          // of the last decision
	done     bool                    // the update is over: no receipt is read any more
}

// turns asks package rollout whose turn it is, for every contract of this node, and
// keeps what it must remember on the data disk.
type turns struct {
	slot canon.Hash
	dir  string // of turnsFile
	log  *slog.Logger
	now  func() time.Time

	mu       sync.Mutex
	deployed map[canon.Hash]*deployment
	memories map[canon.Hash]rollout.Memory
	kept     []byte // what the disk has
}

// keptMemory is a rollout.Memory on the disk.
type keptMemory struct {
	Contract canon.Hash     `cbor:"contract"`
	Memory   rollout.Memory `cbor:"memory"`
}

// keptTurns is the content of turnsFile.
type keptTurns struct {
	V         uint64       `cbor:"v"`
	Contracts []keptMemory `cbor:"contracts"` // sorted by contract
}

// newTurns reads what dir remembers. What is not readable is forgotten: the receipts
// on the ledger tell most of it again.
func newTurns(slot canon.Hash, dir string, log *slog.Logger) *turns {
	t := &turns{slot: slot, dir: dir, log: log, now: time.Now, deployed: map[canon.Hash]*deployment{}, memories: map[canon.Hash]rollout.Memory{}}
	b, err := os.ReadFile(filepath.Join(dir, turnsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return t
	}
	var kept keptTurns
	if err == nil {
		err = canon.UnmarshalLimit(b, maxTurns, &kept)
	}
	if err == nil && kept.V != 1 {
		err = fmt.Errorf("it has format %d", kept.V)
	}
	if err != nil {
		log.Warn("what was remembered of updates is not usable", "error", err)
		return t
	}
	for _, m := range kept.Contracts {
		t.memories[m.Contract] = m.Memory
	}
	t.kept = b
	return t
}

// set replaces the proven contracts. What was read of receipts stays.
func (t *turns) set(all []deployment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := make(map[canon.Hash]*deployment, len(all))
	for _, d := range all {
		old := t.deployed[d.contract]
		if old != nil && old.version == d.version {
			old.granted, old.offered = d.granted, d.offered
			next[d.contract] = old
			continue
		}
		d.base, d.basePlan = before(d, t.memories[d.contract])
		d.there = map[string]rollout.View{}
		next[d.contract] = &d
	}
	for id := range t.memories {
		if next[id] == nil {
			delete(t.memories, id)
		}
	}
	t.deployed = next
}

// before finds the version that d's update comes from and returns to: the one before,
// or, if nodes went back from that, what they went back to. 0 without one: it is the
// first, or the ledger has shown no proof of it.
func before(d deployment, m rollout.Memory) (uint64, *plan.Plan) {
	version := d.version - 1
	switch {
	case m.Version == d.version:
		version = m.Base
	case m.Version == version && m.Returned:
		version = m.Base
	}
	if version == 0 {
		return 0, nil
	}
	for _, s := range d.history {
		var a contract.Approval
		if err := canon.UnmarshalLimit(s.Statement, contract.MaxStatement, &a); err != nil || a.Version != version || a.Action == contract.ActionCancel {
			continue
		}
		if p, err := plan.Decode(a.Plan); err == nil {
			return version, &p
		}
	}
	return 0, nil
}

// aim is what is wanted of one workload now.
type aim struct {
	workload.Desired
	start    bool     // it may be made or replaced
	waiting  []string // what it waits for
	returned uint64   // the version that it went back from; 0: none
	why      string   // of returned
	gone     bool     // it is not to be here; Desired has its ID and Version alone
}

// aims decides for every contract, with what the node sees of its workloads. What
// must be remembered is on the disk before it returns. A contract that turns do not
// know is not in the answer.
func (t *turns) aims(seen map[workload.ID]rollout.View) map[workload.ID]aim {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[workload.ID]aim{}
	here := map[canon.Hash]map[string]rollout.View{}
	for id, v := range seen {
		if here[id.Contract] == nil {
			here[id.Contract] = map[string]rollout.View{}
		}
		here[id.Contract][id.Name] = v
	}
	crowded := crowded(t.slot, t.deployed, t.memories)
	for id, d := range t.deployed {
		c := rollout.Case{
			Slot: t.slot, Version: d.version, Plan: d.plan, Base: d.base, BasePlan: d.basePlan,
			Here: here[id], There: d.there, Memory: t.memories[id], Now: t.now().Unix(),
			Crowded: crowded[id],
		}
		steps, m := rollout.Decide(c)
		t.memories[id], d.steps = m, steps
		c.Memory = m
		d.done = d.done || rollout.Done(c)
		for _, s := range steps {
			w := t.aim(d, s, m)
			out[w.ID] = w
		}
	}
	if err := t.keep(); err != nil {
		// Others' receipts and its own say it again after a restart.
		t.log.Warn("remember the state of updates", "error", err)
	}
	return out
}

func (t *turns) aim(d *deployment, s rollout.Step, m rollout.Memory) aim {
	w := aim{start: s.Start, waiting: s.Waiting, gone: s.Run == 0}
	w.ID, w.Version = workload.ID{Contract: d.contract, Name: s.Name}, s.Run
	if s.Returned {
		w.returned, w.why = d.version, m.Why
	}
	p := d.plan
	if s.Run != d.version {
		p = d.basePlan
	}
	if p == nil {
		return w
	}
	for _, x := range p.Workloads {
		if x.Name == s.Name && x.Slot == t.slot {
			w.Plan, w.Deployment = x, p
		}
	}
	return w
}

// wanted lists contracts of which receipts must be read, with their plans: while
// something waits, and while an update may fail and return.
func (t *turns) wanted() []deployment {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []deployment
	for _, d := range t.deployed {
		waits := false
		for _, s := range d.steps {
			waits = waits || len(s.Waiting) > 0
		}
		if waits || !d.done && d.base != 0 && d.plan.Update.Return {
			out = append(out, deployment{contract: d.contract, version: d.version, plan: d.plan})
		}
	}
	return out
}

// heard takes what receipts say of a contract's workloads; true if it is news.
func (t *turns) heard(id canon.Hash, version uint64, views map[string]rollout.View) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.deployed[id]
	if d == nil || d.version != version {
		return false
	}
	news := false
	for name, v := range views {
		if d.there[name] != v {
			d.there[name], news = v, true
		}
	}
	return news
}

// keep writes the memories to the disk if they changed; the caller holds the lock.
func (t *turns) keep() error {
	if t.dir == "" {
		return nil
	}
	kept := keptTurns{V: 1}
	for id, m := range t.memories {
		kept.Contracts = append(kept.Contracts, keptMemory{id, m})
	}
	slices.SortFunc(kept.Contracts, func(a, b keptMemory) int { return bytes.Compare(a.Contract[:], b.Contract[:]) })
	b, err := canon.Marshal(kept)
	if err != nil || bytes.Equal(b, t.kept) {
		return err
	}
	if err := replaceFile(filepath.Join(t.dir, turnsFile), b); err != nil {
		return err
	}
	t.kept = b
	return nil
}

// waitingText says for people what a workload waits for.
func waitingText(names []string) string {
	const most = 5
	more := ""
	if n := len(names); n > most {
		names, more = names[:most], fmt.Sprintf(" and %d others", n-most)
	}
	return "waits for " + strings.Join(names, ", ") + more + " to be ready"
}

// viewOf is what a node sees of a workload of its own.
func viewOf(kind string, s workload.Status) rollout.View {
	v := rollout.View{Version: s.Version, Ready: isReady(kind, s)}
	v.Over = !v.Ready && (s.State == contract.StateExited || s.State == contract.StateFailed && s.Reason == shim.ReasonAttempts)
	return v
}

// isReady tells whether a workload is ready. Kinds without a program are when they
// stand.
func isReady(kind string, s workload.Status) bool {
	switch {
	case s.Ready:
		return true
	case s.State == contract.StateExited:
		return s.ExitCode == 0
	}
	return s.State == contract.StateRunning && !plan.Runs(kind)
}
