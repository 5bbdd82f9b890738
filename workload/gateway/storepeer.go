package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/problem"
)

// What gateways ask each other.
const (
	peerPut    = "put"    // these items
	peerGet    = "get"    // items whose key begins so; one if it is whole
	peerLock   = "lock"   // for the asker
	peerUnlock = "unlock" // if the asker has it
)

// MaxPeerMessage bounds a message between gateways in bytes: what a bus carries.
const MaxPeerMessage = 32 << 10

// Bounds of what gateways tell each other.
const (
	maxPeerItems = 64
	maxValue     = 28 << 10 // bytes of a value, and of all values of a message
	maxPages     = 256      // of one look at what another one has
)

// peerMessage is a question of one gateway to another, and its answer.
type peerMessage struct {
	Contract canon.Hash `cbor:"contract"`
	Op       string     `cbor:"op"`
	Key      string     `cbor:"key"`
	After    string     `cbor:"after"` // only keys behind this one
	Items    []item     `cbor:"items"`
	More     bool       `cbor:"more"`    // of an answer: there are more behind the last
	Granted  bool       `cbor:"granted"` // of an answer to a lock
}

func decodePeer(b []byte) (peerMessage, error) {
	var m peerMessage
	if err := canon.UnmarshalLimit(b, MaxPeerMessage, &m); err != nil {
		return m, problem.New("request-invalid", "message between gateways: %w", err)
	}
	if len(m.Items) > maxPeerItems || len(m.Key) > control.MaxKey || len(m.After) > control.MaxKey || len(m.Op) > 16 {
		return m, problem.New("request-invalid", "message between gateways: %d items, a key of %d bytes", len(m.Items), len(m.Key))
	}
	for _, i := range m.Items {
		r := control.StoreRequest{Key: i.Key, Value: i.Value}
		if err := r.Check(); err != nil || i.Slot.IsZero() || i.Time < 0 {
			return m, problem.New("request-invalid", "message between gateways: an item is not of its form")
		}
	}
	return m, nil
}

// others are the slots of a contract's other gateways.
func (s *Shared) others(contract canon.Hash) []canon.Hash {
	if s.peers == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.peers.Gateways(contract)), func(o canon.Hash) bool { return o == s.slot })
}

// ask asks another gateway.
func (s *Shared) ask(ctx context.Context, slot canon.Hash, m peerMessage) (peerMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, peerLimit)
	defer cancel()
	if m.Items == nil {
		m.Items = []item{}
	}
	b, err := canon.Marshal(m)
	if err != nil {
		return peerMessage{}, err
	}
	if b, err = s.peers.Call(ctx, slot, b); err != nil {
		return peerMessage{}, err
	}
	return decodePeer(b)
}

// spread tells all others, and waits until each has taken it or does not answer.
func (s *Shared) spread(ctx context.Context, contract canon.Hash, m peerMessage) {
	var wg sync.WaitGroup
	for _, slot := range s.others(contract) {
		wg.Go(func() {
			if _, err := s.ask(ctx, slot, m); err != nil {
				s.log.Info("another gateway does not have what this one shares, it will ask for it", "slot", slot.Short(), "error", err)
			}
		})
	}
	wg.Wait()
}

// catchUp asks all others for what begins with a key.
func (s *Shared) catchUp(ctx context.Context, contract canon.Hash, key string) {
	var wg sync.WaitGroup
	for _, slot := range s.others(contract) {
		wg.Go(func() {
			after := ""
			for range maxPages {
				m, err := s.ask(ctx, slot, peerMessage{Contract: contract, Op: peerGet, Key: key, After: after})
				if err != nil {
					return
				}
				for _, i := range m.Items {
					if err := s.take(contract, i); err != nil {
						s.log.Warn("keep what another gateway shares", "error", err)
						return
					}
					after = max(after, i.Key)
				}
				if !m.More || len(m.Items) == 0 {
					return
				}
			}
		})
	}
	wg.Wait()
}

// take keeps another gateway's item. One from far in the future would be the
// newest for as long, so whoever took that gateway over could keep the others from
// ever renewing a certificate.
func (s *Shared) take(contract canon.Hash, i item) error {
	if i.Time > s.now().Add(maxAhead).UnixNano() {
		return problem.New("request-invalid", "message between gateways: an item is more than %s ahead of this node's clock", maxAhead)
	}
	_, err := s.keep(contract, i)
	return err
}

// lock asks the gateway that grants locks: the lowest slot that answers.
func (s *Shared) lock(ctx context.Context, r control.StoreRequest) (control.StoreReply, error) {
	m := peerMessage{Contract: r.Contract, Op: r.Op, Key: r.Key}
	slots := append(s.others(r.Contract), s.slot)
	slices.SortFunc(slots, func(a, b canon.Hash) int { return slices.Compare(a[:], b[:]) })
	for _, slot := range slots {
		granted := false
		if slot == s.slot {
			granted = s.grant(m, s.slot)
		} else {
			answer, err := s.ask(ctx, slot, m)
			if err != nil {
				continue
			}
			granted = answer.Granted
		}
		if r.Op == control.StoreLock && !granted {
			return control.StoreReply{Failure: control.Failure{Code: control.FailureLocked, Message: "another gateway has the lock"}}, nil
		}
		return control.StoreReply{}, nil
	}
	return control.StoreReply{}, errors.New("no gateway grants locks")
}

// grant gives a lock to a slot, or takes it back. Who has it may have it again:
// its process may have been started anew.
func (s *Shared) grant(m peerMessage, to canon.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := lockKey{m.Contract, m.Key}
	now := s.now()
	h, taken := s.locks[key]
	taken = taken && now.Before(h.until)
	if m.Op == peerUnlock {
		if h.slot == to {
			delete(s.locks, key)
		}
		return true
	}
	if taken && h.slot != to {
		return false
	}
	mine := 0 // of this contract: what one takes, others do not lack
	for k, o := range s.locks {
		if !now.Before(o.until) {
			delete(s.locks, k)
		} else if k.contract == m.Contract && k != key {
			mine++
		}
	}
	if mine >= maxLocks {
		return false
	}
	s.locks[key] = held{to, now.Add(lease)}
	return true
}

// Answer answers another gateway's node, whose slot is proven. It may ask about
// contracts of which it has a gateway by their newest proven plan, and that have
// one here.
func (s *Shared) Answer(from canon.Hash, body []byte) ([]byte, error) {
	m, err := decodePeer(body)
	if err != nil {
		return nil, err
	}
	if s.peers == nil || !mayShare(s.peers.Gateways(m.Contract), s.slot, from) {
		return nil, problem.New("not-permitted", "node %s has no gateway of contract %s", from.Short(), m.Contract.Short())
	}
	out := peerMessage{Contract: m.Contract, Op: m.Op, Items: []item{}}
	switch m.Op {
	case peerPut:
		for _, i := range m.Items {
			if err := s.take(m.Contract, i); err != nil {
				return nil, err
			}
		}
	case peerGet:
		out.Items, out.More = s.some(m.Contract, m.Key, m.After)
	case peerLock, peerUnlock:
		out.Granted = s.grant(m, from)
	default:
		return nil, problem.New("request-invalid", "message between gateways: %.16q is not known", m.Op)
	}
	return canon.Marshal(out)
}

// mayShare tells whether two different slots both have a gateway of a contract.
func mayShare(gateways []canon.Hash, here, there canon.Hash) bool {
	return here != there && slices.Contains(gateways, here) && slices.Contains(gateways, there)
}

// some are the items whose key begins so and lies behind after, in order, as many
// as a message holds; one if the key is whole. The memory of old deletions is not
// passed on.
func (s *Shared) some(contract canon.Hash, prefix, after string) (out []item, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out = []item{}
	all := s.items(contract)
	if i, ok := all[prefix]; ok {
		return append(out, i), false
	}
	oldest := s.now().Add(-tombstones).UnixNano()
	size := 0
	for _, key := range slices.Sorted(maps.Keys(all)) {
		i := all[key]
		if !strings.HasPrefix(key, prefix) || key <= after || i.Deleted && i.Time < oldest {
			continue
		}
		if size += len(i.Key) + len(i.Value) + 128; len(out) > 0 && size > maxValue || len(out) == maxPeerItems {
			return out, true
		}
		out = append(out, i)
	}
	return out, false
}
