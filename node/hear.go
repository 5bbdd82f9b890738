package node

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rollout"
	"github.com/zero-os/zos/spec/plan"
)

// hearEvery is how often receipts are read while something waits for them.
const hearEvery = 2 * time.Second

// bindings tells which key speaks for another slot, by the word of its farm. It is
// the bus' own knowledge while the node speaks on it.
type bindings struct {
	mu    sync.Mutex
	peers *bus.Peers
}

func (b *bindings) use(p *bus.Peers) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.peers = p
}

func (b *bindings) of(ctx context.Context, slot canon.Hash) (epoch uint64, key []byte, err error) {
	b.mu.Lock()
	p := b.peers
	b.mu.Unlock()
	if p == nil {
		return 0, nil, problem.New("bus-unreachable", "this node has not joined its slot yet")
	}
	bound, err := p.Binding(ctx, slot)
	return bound.Epoch, bound.SigningKey, err
}

// hear reads the receipts of the contracts that wait for some: one question for each,
// and none when nothing waits. It is called often and asks every hearEvery.
func (n *Node) hear(ctx context.Context, l ledgerLists) {
	if time.Since(n.heardAt) < hearEvery {
		return
	}
	n.heardAt = time.Now()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	news := false
	for _, d := range n.turns.wanted() {
		views, err := n.readReceipts(ctx, l, d)
		if err != nil {
			// Late news only make a workload wait longer.
			n.log.Warn("read the receipts of a contract", "contract", d.contract.Short(), "error", err)
			continue
		}
		news = n.turns.heard(d.contract, d.version, views) || news
	}
	if news {
		n.reconc.wake()
	}
}

// readReceipts reads what the nodes of a contract say of its workloads.
func (n *Node) readReceipts(ctx context.Context, l ledgerLists, d deployment) (map[string]rollout.View, error) {
	prefix := contract.KeyReceiptPrefix(d.contract)
	all, err := listAll(ctx, l, prefix)
	if err != nil {
		return nil, err
	}
	views := map[string]rollout.View{}
	for _, kv := range all {
		name := strings.TrimPrefix(kv.Key, prefix)
		for _, w := range d.plan.Workloads {
			if w.Name != name {
				continue
			}
			var rec contract.ReceiptRecord
			if err := canon.UnmarshalLimit(kv.Value, contract.MaxPlain*2, &rec); err != nil {
				n.log.Warn("read a receipt", "workload", name, "error", err)
				continue
			}
			v, err := n.believeReceipt(ctx, d.contract, w, rec.Signed)
			if err != nil {
				n.log.Debug("don't believe a receipt", "workload", name, "error", err)
				continue
			}
			views[name] = v
		}
	}
	return views, nil
}

// believeReceipt checks that the node which fills the workload's slot wrote the
// receipt: not the ledger's word alone, who holds it could make nodes return.
func (n *Node) believeReceipt(ctx context.Context, id canon.Hash, w plan.Workload, s contract.Signed) (rollout.View, error) {
	epoch, key := uint64(0), []byte(nil)
	if w.Slot == n.at.Slot {
		n.mu.Lock()
		epoch = n.epoch
		n.mu.Unlock()
		key = n.keys.Signer.Public()
	} else {
		var err error
		if epoch, key, err = n.bindings.of(ctx, w.Slot); err != nil {
			return rollout.View{}, err
		}
	}
	return judgeReceipt(n.at.grid.ID, id, w, epoch, key, s)
}

// judgeReceipt decides whether a receipt is of this workload and of the key that
// speaks for its slot, and what it says for package rollout.
func judgeReceipt(grid, id canon.Hash, w plan.Workload, epoch uint64, key []byte, s contract.Signed) (rollout.View, error) {
	r, _, keys, err := contract.Open[contract.Receipt](s, contract.KindReceipt, grid)
	if err != nil {
		return rollout.View{}, err
	}
	switch {
	case len(key) == 0 || len(keys) != 1 || !bytes.Equal(keys[0], key):
		return rollout.View{}, problem.New("receipt-refused", "the receipt of %s is not signed by the key of slot %s alone", w.Name, w.Slot.Short())
	case r.Contract != id || r.Workload != w.Name || r.Slot != w.Slot || r.Epoch != epoch:
		return rollout.View{}, problem.New("receipt-refused", "the receipt is of another workload, slot or epoch")
	}
	if r.Reason == codeReturned {
		return rollout.View{Ready: r.Ready, Returned: r.Version, Why: r.Detail}, nil
	}
	return rollout.View{Version: r.Version, Ready: r.Ready}, nil
}
