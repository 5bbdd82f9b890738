package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/problem"
)

// cluster is some gateways of one contract, in one process.
type cluster struct {
	t        *testing.T
	contract canon.Hash
	slots    []canon.Hash
	stores   map[canon.Hash]*Shared
	away     map[canon.Hash]bool
	clock    time.Time
}

// seat is one gateway's view of the others.
type seat struct {
	c    *cluster
	slot canon.Hash
}

func (s seat) Gateways(contract canon.Hash) []canon.Hash {
	if contract != s.c.contract {
		return nil
	}
	return s.c.slots
}

func (s seat) Call(_ context.Context, slot canon.Hash, body []byte) ([]byte, error) {
	if s.c.away[slot] || s.c.away[s.slot] {
		return nil, errors.New("silent")
	}
	if len(body) > MaxPeerMessage {
		return nil, fmt.Errorf("%d bytes", len(body))
	}
	b, err := s.c.stores[slot].Answer(s.slot, body)
	if len(b) > MaxPeerMessage {
		return nil, fmt.Errorf("%d bytes", len(b))
	}
	return b, err
}

func newCluster(t *testing.T, n int) *cluster {
	c := &cluster{t: t, contract: canon.Sum([]byte("contract")), stores: map[canon.Hash]*Shared{}, away: map[canon.Hash]bool{}, clock: time.Unix(1_800_000_000, 0)}
	for i := range n {
		c.slots = append(c.slots, canon.Sum([]byte{byte(i)}))
	}
	slices.SortFunc(c.slots, func(a, b canon.Hash) int { return slices.Compare(a[:], b[:]) })
	for _, slot := range c.slots {
		c.open(slot, t.TempDir())
	}
	return c
}

func (c *cluster) open(slot canon.Hash, dir string) {
	c.t.Helper()
	s, err := NewShared(dir, [32]byte{slot[0], slot[1]}, slot, seat{c, slot}, discard())
	must(c.t, err)
	s.now = func() time.Time { return c.clock }
	c.stores[slot] = s
}

func (c *cluster) do(n int, op, key, value string) (control.StoreReply, error) {
	c.t.Helper()
	c.clock = c.clock.Add(time.Second)
	return c.stores[c.slots[n]].Do(limited(c.t), control.StoreRequest{Contract: c.contract, Op: op, Key: key, Value: []byte(value)})
}

func (c *cluster) put(n int, key, value string) {
	c.t.Helper()
	_, err := c.do(n, control.StorePut, key, value)
	must(c.t, err)
}

func (c *cluster) has(n int, key, value string) {
	c.t.Helper()
	r, err := c.do(n, control.StoreGet, key, "")
	must(c.t, err)
	if value == "" && r.Failure.Code != control.FailureAbsent || string(r.Value) != value {
		c.t.Errorf("gateway %d has %q at %s (%s), want %q", n, r.Value, key, r.Failure.Code, value)
	}
}

func TestGatewaysShareWhatOneWrites(t *testing.T) {
	c := newCluster(t, 3)
	c.put(0, "certificates/a", "one")
	c.has(1, "certificates/a", "one")
	c.put(1, "certificates/a", "two")
	c.has(0, "certificates/a", "two")
	c.has(2, "certificates/a", "two")
	if _, err := c.do(2, control.StoreDelete, "certificates/a", ""); err != nil {
		t.Fatal(err)
	}
	c.has(0, "certificates/a", "")
	// One that was away asks for what it missed, also for what was deleted.
	c.away[c.slots[2]] = true
	for i := range 100 {
		c.put(0, fmt.Sprintf("x/%03d", i), strings.Repeat("v", 2000))
	}
	c.away[c.slots[2]] = false
	r, err := c.do(2, control.StoreList, "x/", "")
	must(t, err)
	if len(r.Keys) != 100 || !slices.IsSorted(r.Keys) {
		t.Errorf("%d keys", len(r.Keys))
	}
	st, err := c.do(2, control.StoreStat, "x/007", "")
	if err != nil || st.Size != 2000 || st.Modified == 0 || len(st.Value) != 0 {
		t.Errorf("stat %+v, %v", st, err)
	}
	// One that is destroyed is replaced, with the same certificate.
	c.open(c.slots[1], t.TempDir())
	c.has(1, "x/042", strings.Repeat("v", 2000))
}

func TestTheNewestWriteCounts(t *testing.T) {
	c := newCluster(t, 2)
	c.put(0, "k", "old")
	c.away[c.slots[0]] = true
	c.put(0, "k", "left")
	c.put(1, "k", "right") // later
	c.away[c.slots[0]] = false
	_, err := c.do(0, control.StoreList, "", "")
	must(t, err)
	_, err = c.do(1, control.StoreList, "", "")
	must(t, err)
	c.has(0, "k", "right")
	c.has(1, "k", "right")
	// A clock that is behind does not make a write of no effect.
	c.clock = c.clock.Add(-time.Hour)
	c.put(0, "k", "now")
	c.has(1, "k", "now")
}

func TestOneGatewayAtATimeHasALock(t *testing.T) {
	c := newCluster(t, 3)
	taken := func(n int) bool {
		t.Helper()
		r, err := c.do(n, control.StoreLock, "order", "")
		must(t, err)
		return r.Failure.Code == ""
	}
	if !taken(1) || taken(0) || taken(2) || !taken(1) {
		t.Error("it is not one gateway's")
	}
	// Nobody else gives it back.
	if _, err := c.do(2, control.StoreUnlock, "order", ""); err != nil {
		t.Fatal(err)
	}
	if taken(2) {
		t.Error("another one gave it back")
	}
	if _, err := c.do(1, control.StoreUnlock, "order", ""); err != nil {
		t.Fatal(err)
	}
	if !taken(2) || taken(0) {
		t.Error("it can't be had after it was given back")
	}
	// Its holder dies.
	c.clock = c.clock.Add(lease)
	if !taken(0) {
		t.Error("a lease has no end")
	}
	// Who grants is away: the next one does.
	c.away[c.slots[0]] = true
	if !taken(1) || taken(2) {
		t.Error("without the first gateway nobody grants")
	}
}

func TestWhatIsSharedIsReadByNobodyElse(t *testing.T) {
	c := newCluster(t, 2)
	c.put(0, "certificates/secret-host", "a private key")
	dir := c.stores[c.slots[0]].dir
	seen := 0
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		seen++
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("private")) || bytes.Contains(b, []byte("secret")) || strings.Contains(path, "secret") {
			t.Error("it lies there in the clear")
		}
		return err
	}))
	if seen != 1 {
		t.Errorf("%d files", seen)
	}
	// The same daemon again reads it; another node's key does not.
	c.away[c.slots[1]] = true
	c.open(c.slots[0], dir)
	c.has(0, "certificates/secret-host", "a private key")
	other, err := NewShared(dir, [32]byte{9}, c.slots[0], seat{c, c.slots[0]}, discard())
	must(t, err)
	if r, err := other.Do(limited(t), control.StoreRequest{Contract: c.contract, Op: control.StoreGet, Key: "certificates/secret-host"}); err != nil || r.Failure.Code != control.FailureAbsent {
		t.Errorf("another key reads %+v, %v", r, err)
	}
	must(t, c.stores[c.slots[0]].Forget(c.contract))
	c.has(0, "certificates/secret-host", "")
}

func TestStrangersShareNothing(t *testing.T) {
	c := newCluster(t, 2)
	c.put(0, "k", "v")
	s := c.stores[c.slots[0]]
	for what, ask := range map[string]struct {
		from     canon.Hash
		contract canon.Hash
	}{
		"a node without a gateway":      {canon.Sum([]byte("stranger")), c.contract},
		"a gateway of another contract": {c.slots[1], canon.Sum([]byte("other"))},
		"itself":                        {c.slots[0], c.contract},
		"nobody":                        {canon.Hash{}, c.contract},
	} {
		b, err := canon.Marshal(peerMessage{Contract: ask.contract, Op: peerGet, Items: []item{}})
		must(t, err)
		if _, err := s.Answer(ask.from, b); problem.Code(err) != "not-permitted" {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, m := range map[string]peerMessage{
		"an unknown question": {Contract: c.contract, Op: "x", Items: []item{}},
		"a key with an end":   {Contract: c.contract, Op: peerPut, Items: []item{{Key: "a\n", Slot: c.slots[1]}}},
		"nobody's item":       {Contract: c.contract, Op: peerPut, Items: []item{{Key: "a"}}},
		"too many items":      {Contract: c.contract, Op: peerPut, Items: make([]item, maxPeerItems+1)},
		"a long key":          {Contract: c.contract, Op: peerLock, Key: strings.Repeat("k", control.MaxKey+1), Items: []item{}},
	} {
		b, err := canon.Marshal(m)
		must(t, err)
		if _, err := s.Answer(c.slots[1], b); problem.Code(err) != "request-invalid" {
			t.Errorf("%s: %v", what, err)
		}
	}
	full := func() error {
		for i := range maxItems + 1 {
			if _, err := s.keep(c.contract, item{Key: fmt.Sprint("fill/", i), Value: []byte("x"), Time: 1, Slot: c.slots[1]}); err != nil {
				return err
			}
		}
		return nil
	}
	if err := full(); problem.Code(err) != "store-full" {
		t.Errorf("it takes items without end: %v", err)
	}
	if _, err := s.Do(limited(t), control.StoreRequest{Contract: c.contract, Op: control.StorePut, Key: "k", Value: make([]byte, maxValue+1)}); problem.Code(err) != "store-full" {
		t.Errorf("a large value: %v", err)
	}
}

func TestAGatewayThatWasTakenOverKeepsNobodyFromRenewing(t *testing.T) {
	c := newCluster(t, 2)
	s, evil := c.stores[c.slots[0]], c.slots[1]
	say := func(m peerMessage) ([]byte, error) {
		b, err := canon.Marshal(m)
		must(t, err)
		return s.Answer(evil, b)
	}
	// It writes what would be the newest for ever.
	for _, ahead := range []int64{math.MaxInt64, c.clock.Add(maxAhead + time.Minute).UnixNano()} {
		_, err := say(peerMessage{Contract: c.contract, Op: peerPut, Items: []item{{Key: "certificate", Value: []byte("no"), Time: ahead, Slot: evil}}})
		if problem.Code(err) != "request-invalid" {
			t.Errorf("an item of time %d: %v", ahead, err)
		}
	}
	// Also as an answer to who asks it.
	_, err := c.stores[evil].keep(c.contract, item{Key: "certificate", Value: []byte("no"), Time: math.MaxInt64, Slot: evil})
	must(t, err)
	c.has(0, "certificate", "")
	c.away[evil] = true
	c.put(0, "certificate", "yes")
	c.has(0, "certificate", "yes")
	// It takes all the locks that there are: those of its own contract.
	granted := 0
	for i := range 2 * maxItems {
		b, err := say(peerMessage{Contract: c.contract, Op: peerLock, Key: fmt.Sprint("host/", i), Items: []item{}})
		must(t, err)
		m, err := decodePeer(b)
		must(t, err)
		if m.Granted {
			granted++
		}
	}
	if granted != maxLocks {
		t.Errorf("%d locks were granted, want %d", granted, maxLocks)
	}
	if !s.grant(peerMessage{Contract: canon.Sum([]byte("other")), Op: peerLock, Key: "host/a"}, c.slots[0]) {
		t.Error("another contract gets no lock")
	}
}

func FuzzWhatAnotherGatewaySays(f *testing.F) {
	for _, m := range []peerMessage{{Op: peerGet, Key: "k", Items: []item{}}, {Op: peerPut, Items: []item{{Key: "k", Value: []byte("v"), Time: 1, Slot: canon.Sum(nil)}}}, {Op: peerLock, Key: "l", Items: []item{}}} {
		b, err := canon.Marshal(m)
		must(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodePeer(b)
		if err != nil {
			return
		}
		if again, err := canon.Marshal(m); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%v: %x became %x", err, b, again)
		}
	})
}
