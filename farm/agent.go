package farm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Ledger is what the agent reads, verified, and where it submits.
type Ledger interface {
	// Bound returns the present binding of a slot; false when it never had one.
	Bound(ctx context.Context, slot canon.Hash) (contract.BoundRecord, bool, error)
	// Delegation returns the record of a delegation; false when it is not on the
	// ledger, or was replaced.
	Delegation(ctx context.Context, id canon.Hash) (contract.DelegationRecord, bool, error)
	// Submit sends a transaction. It returns when the ledger has taken or refused it.
	Submit(ctx context.Context, tx contract.Signed) error
}

// AgentConfig is for whom an agent acts, and how.
type AgentConfig struct {
	Conn       *bus.Conn // with the role bus.AsAgent(farm); the caller closes it
	Grid       canon.Hash
	Farm       contract.Signed   // the farm's founding statement
	Delegation contract.Signed   // the farm's, to Signer's key
	Signer     sign.Signer       // the delegated key
	Slots      []contract.Signed // the farm's slots
	Ledger     Ledger
	// AllowRekey has the agent re-key slots that keep their keys on disk or in a
	// TPM like those that keep none. Off by default: such a slot with a new key
	// means lost or foreign hardware, which the farm should look at.
	AllowRekey bool
	// SilenceFor replaces the default, if not 0.
	SilenceFor time.Duration
	Logger     *slog.Logger
	Now        func() time.Time // nil: time.Now
}

// Agent answers the nodes of one farm.
type Agent struct {
	cfg          AgentConfig
	farm         canon.Hash
	delegation   contract.Delegation
	delegationID canon.Hash
	slots        map[canon.Hash]*slotState
	log          *slog.Logger
	all          *rate.Limiter
}

// slotState is what the agent remembers of a slot.
type slotState struct {
	slot  contract.Slot
	limit *rate.Limiter

	mu      sync.Mutex // held for a whole decision: one at a time per slot
	epoch   uint64     // newest seen on the ledger
	since   time.Time  // when it was first seen
	pending pending
}

// pending is a statement that was submitted and may not be readable yet.
type pending struct {
	key   string
	epoch uint64
	at    time.Time
}

// Bounds of an agent.
const (
	agentWorkers    = 4
	agentQueue      = 64
	requestDeadline = 30 * time.Second
	pendingFor      = 10 * time.Second
	bindingLife     = 120 // seconds from the agent's time to the expiry of a Node statement
	maxBindingLife  = 600
	refusedRetry    = 15 // seconds
)

// NewAgent checks that the statements belong together.
func NewAgent(cfg AgentConfig) (*Agent, error) {
	if cfg.Conn == nil || cfg.Signer == nil || cfg.Ledger == nil {
		return nil, errors.New("farm agent: bus, signer and ledger are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.SilenceFor == 0 {
		cfg.SilenceFor = SilenceFor
	}
	f, farm, by, err := openOne[contract.Farm](cfg.Farm, contract.KindFarm, cfg.Grid)
	if err != nil {
		return nil, fmt.Errorf("farm agent: farm: %w", err)
	}
	if !by.Equal(f.Key) {
		return nil, problem.New("signature-missing", "farm agent: the farm's statement is not signed by its key")
	}
	d, id, by, err := openOne[contract.Delegation](cfg.Delegation, contract.KindDelegation, cfg.Grid)
	if err != nil {
		return nil, fmt.Errorf("farm agent: delegation: %w", err)
	}
	switch {
	case !by.Equal(f.Key) || d.Farm != farm:
		return nil, problem.New("delegation-refused", "farm agent: the delegation is not of farm %s", f.Name)
	case !cfg.Signer.Public().Equal(d.Key):
		return nil, problem.New("delegation-refused", "farm agent: the delegation is to another key").
			WithFix("give the agent the key %s, or have the farm sign a new delegation", sign.PublicKey(d.Key).Fingerprint())
	}
	a := &Agent{cfg: cfg, farm: farm, delegation: d, delegationID: id, slots: map[canon.Hash]*slotState{}, log: cfg.Logger, all: rate.NewLimiter(20, 60)}
	for _, s := range cfg.Slots {
		sl, slotID, by, err := openOne[contract.Slot](s, contract.KindSlot, cfg.Grid)
		if err != nil {
			return nil, fmt.Errorf("farm agent: slot: %w", err)
		}
		if !by.Equal(f.Key) || sl.Farm != farm {
			return nil, problem.New("slot-unknown", "farm agent: slot %s is not of farm %s", sl.Name, f.Name)
		}
		a.slots[slotID] = &slotState{slot: sl, limit: rate.NewLimiter(2, 10)}
	}
	return a, nil
}

// Run answers until ctx ends. The time that an old key must have been silent
// counts from here at the earliest.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slots := make([]canon.Hash, 0, len(a.slots))
	for id := range a.slots {
		slots = append(slots, id)
	}
	watch, err := bus.NewWatch(bus.WatchConfig{
		Conn: a.cfg.Conn, Grid: a.cfg.Grid, Slots: slots, Bound: a.bound, Logger: a.log, Now: a.cfg.Now,
	})
	if err != nil {
		return fmt.Errorf("farm agent: %w", err)
	}
	defer watch.Stop()
	type request struct {
		data    []byte
		respond func([]byte) error
	}
	queue := make(chan request, agentQueue)
	stop := a.cfg.Conn.Subscribe(bus.JoinSubject(a.farm), func(_ string, data []byte, respond func([]byte) error) {
		select {
		case queue <- request{data, respond}:
		default: // the node asks again
		}
	})
	defer stop()
	began := a.cfg.Now()
	var wg sync.WaitGroup
	defer wg.Wait()
	for range agentWorkers {
		wg.Go(func() {
			for {
				select {
				case r := <-queue:
					if !a.all.Allow() {
						continue
					}
					b, err := a.answer(ctx, watch, began, r.data)
					if err == nil {
						err = r.respond(b)
					}
					if err != nil {
						a.log.Debug("join request not answered", "error", err)
					}
				case <-ctx.Done():
					return
				}
			}
		})
	}
	<-ctx.Done()
	return ctx.Err()
}

// bound is the binding of a slot as the bus needs it.
func (a *Agent) bound(ctx context.Context, slot canon.Hash) (bus.Binding, error) {
	_, n, ok, err := a.binding(ctx, slot)
	if err != nil {
		return bus.Binding{}, err
	}
	if !ok {
		return bus.Binding{}, problem.New("node-unbound", "slot %s has no node yet", slot.Short())
	}
	return bus.Binding{Epoch: n.Epoch, SigningKey: n.SigningKey, SealingKey: n.SealingKey}, nil
}

func (a *Agent) binding(ctx context.Context, slot canon.Hash) (contract.BoundRecord, contract.Node, bool, error) {
	rec, ok, err := a.cfg.Ledger.Bound(ctx, slot)
	if err != nil || !ok {
		return rec, contract.Node{}, false, err
	}
	n, _, _, err := contract.Open[contract.Node](rec.Signed, contract.KindNode, a.cfg.Grid)
	if err != nil {
		return rec, contract.Node{}, false, fmt.Errorf("binding of slot %s: %w", slot.Short(), err)
	}
	if n.Slot != slot || n.Epoch != rec.Epoch {
		return rec, contract.Node{}, false, fmt.Errorf("binding of slot %s: it is of another slot or epoch", slot.Short())
	}
	return rec, n, true, nil
}

// answer decides about one join and returns the signed answer. Bytes that are no
// join get none.
func (a *Agent) answer(ctx context.Context, watch *bus.Watch, began time.Time, data []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestDeadline)
	defer cancel()
	j, id, n, err := openJoin(a.cfg.Grid, a.farm, data)
	if err != nil {
		return nil, err
	}
	ans := a.judge(ctx, watch, began, j, n)
	ans.Header = contract.Header{V: contract.Version, Kind: KindAnswer, Grid: a.cfg.Grid}
	ans.Farm, ans.Slot, ans.Join, ans.Delegation = a.farm, n.Slot, id, a.delegationID
	ans.Time = uint64(a.cfg.Now().Unix())
	signed, err := contract.Sign(ctx, ans, KindAnswer, a.cfg.Signer)
	if err != nil {
		return nil, err
	}
	a.log.Info("node asked to join", "slot", n.Slot.Short(), "key", sign.PublicKey(n.SigningKey).Fingerprint(),
		"outcome", ans.Outcome, "code", ans.Code, "epoch", ans.Epoch)
	return canon.Marshal(answerWire{signed, a.cfg.Delegation})
}

// judge gathers the facts, decides and acts.
func (a *Agent) judge(ctx context.Context, watch *bus.Watch, began time.Time, j Join, n contract.Node) Answer {
	s := a.slots[n.Slot]
	if s == nil {
		return refused(Decide(Facts{Farm: a.farm}))
	}
	if !s.limit.Allow() {
		return Answer{Outcome: ReplyWait, Retry: 2, Message: "this slot is asked for too often"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := a.facts(ctx, watch, began, s, j, n)
	if err != nil {
		a.log.Warn("farm agent can't read the ledger", "error", err)
		return Answer{Outcome: ReplyWait, Retry: 5, Code: "ledger-unreachable", Message: "the agent can't read the ledger now"}
	}
	if s.pending.key == string(n.SigningKey) && s.pending.epoch > f.Epoch && a.cfg.Now().Sub(s.pending.at) < pendingFor {
		return Answer{Outcome: ReplySubmitted, Epoch: s.pending.epoch, Retry: 1}
	}
	d := Decide(f)
	switch d.Outcome {
	case OutcomeBound:
		return Answer{Outcome: ReplyBound, Epoch: d.Epoch}
	case OutcomeWait:
		return Answer{Outcome: ReplyWait, Retry: uint64(d.Wait/time.Second) + 1, Message: d.Message}
	case OutcomeAdmit, OutcomeRekey:
		if n.Epoch != d.Epoch || n.Delegation != a.delegationID || n.Expiry <= f.Now+bindingLife/4 || n.Expiry > f.Now+maxBindingLife {
			return Answer{Outcome: ReplySign, Epoch: d.Epoch}
		}
		return a.submit(ctx, s, j, n)
	}
	return refused(d)
}

func (a *Agent) submit(ctx context.Context, s *slotState, j Join, n contract.Node) Answer {
	tx, err := contract.Countersign(ctx, j.Node, contract.KindNode, a.cfg.Signer)
	if err == nil {
		err = a.cfg.Ledger.Submit(ctx, tx)
	}
	if err != nil {
		a.log.Warn("node not bound", "slot", s.slot.Name, "error", err)
		ans := Answer{Outcome: ReplyRefused, Retry: 5, Code: problem.Code(err), Message: "the ledger refused the binding"}
		if ans.Code == "" {
			ans.Code = "ledger-unreachable"
		}
		return ans
	}
	s.pending = pending{string(n.SigningKey), n.Epoch, a.cfg.Now()}
	return Answer{Outcome: ReplySubmitted, Epoch: n.Epoch, Retry: 1}
}

func (a *Agent) facts(ctx context.Context, watch *bus.Watch, began time.Time, s *slotState, j Join, n contract.Node) (Facts, error) {
	now := a.cfg.Now()
	f := Facts{
		Now: uint64(now.Unix()), Farm: a.farm,
		Declared: true, SlotID: n.Slot, Slot: s.slot,
		Delegation: a.delegation,
		SigningKey: n.SigningKey, SealingKey: n.SealingKey, Hints: j.Hints,
		SilenceFor: a.cfg.SilenceFor, AllowRekey: a.cfg.AllowRekey,
	}
	rec, ok, err := a.cfg.Ledger.Delegation(ctx, a.delegationID)
	if err != nil {
		return f, fmt.Errorf("read delegation: %w", err)
	}
	f.Stands, f.Admitted, f.Used = ok, rec.Admitted, rec.Used
	_, old, bound, err := a.binding(ctx, n.Slot)
	if err != nil {
		return f, fmt.Errorf("read binding: %w", err)
	}
	if !bound {
		return f, nil
	}
	f.Bound, f.Epoch, f.BoundSigning, f.BoundSealing = true, old.Epoch, old.SigningKey, old.SealingKey
	if old.Epoch != s.epoch {
		// A key that was just bound had no time for a heartbeat yet. Epochs seen
		// at the agent's start count from that start.
		s.since = now
		if s.epoch == 0 {
			s.since = began
		}
		s.epoch = old.Epoch
	}
	last := s.since
	if began.After(last) {
		last = began
	}
	if hb, at, ok := watch.Last(n.Slot); ok && hb.Epoch == old.Epoch && at.After(last) {
		last = at
	}
	f.Silent = now.Sub(last)
	return f, nil
}

func refused(d Decision) Answer {
	return Answer{Outcome: ReplyRefused, Code: d.Code, Message: d.Message, Retry: refusedRetry}
}
