package bus

import (
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
)

func goodRequest(t testing.TB) (opened, self) {
	t.Helper()
	k, err := seal.KeyFromSeed([32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	me := self{slot: canon.Sum([]byte("slot")), epoch: 3, now: 1_000_000}
	me.bootNonce[0], me.instance[0] = 1, 2
	o := opened{Request: Request{
		Slot: me.slot, Epoch: 3, BootNonce: me.bootNonce[:], Instance: me.instance[:], ID: make([]byte, NonceSize),
		Method: MethodStatus, ReplyTo: k.Public(), Expiry: me.now + 1,
	}}
	return o, me
}

func TestRequestMustNameThisRunOfThisNode(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(o *opened, me *self)
		want   string
	}{
		"good":                {func(o *opened, me *self) {}, ""},
		"other slot":          {func(o *opened, me *self) { o.Slot = canon.Sum(nil) }, "request-misdirected"},
		"other epoch":         {func(o *opened, me *self) { o.Epoch++ }, "request-misdirected"},
		"other boot":          {func(o *opened, me *self) { o.BootNonce = make([]byte, NonceSize) }, "request-stale"},
		"other run":           {func(o *opened, me *self) { o.Instance = make([]byte, NonceSize) }, "request-stale"},
		"no boot nonce":       {func(o *opened, me *self) { o.BootNonce = nil }, "request-invalid"},
		"short run nonce":     {func(o *opened, me *self) { o.Instance = o.Instance[:15] }, "request-invalid"},
		"no id":               {func(o *opened, me *self) { o.ID = nil }, "request-invalid"},
		"long id":             {func(o *opened, me *self) { o.ID = make([]byte, 17) }, "request-invalid"},
		"long method":         {func(o *opened, me *self) { o.Method = string(make([]byte, MaxMethod+1)) }, "request-invalid"},
		"long params":         {func(o *opened, me *self) { o.Params = make([]byte, MaxParams+1) }, "request-invalid"},
		"expired this second": {func(o *opened, me *self) { me.now++ }, "request-expired"},
		"expired":             {func(o *opened, me *self) { me.now += 1000 }, "request-expired"},
		"never expires":       {func(o *opened, me *self) { o.Expiry = ^uint64(0) }, "request-invalid"},
		"latest expiry":       {func(o *opened, me *self) { o.Expiry = me.now + MaxAhead }, ""},
		"too late an expiry":  {func(o *opened, me *self) { o.Expiry = me.now + MaxAhead + 1 }, "request-invalid"},
		"no reply key":        {func(o *opened, me *self) { o.ReplyTo = nil }, "request-invalid"},
		"bad session":         {func(o *opened, me *self) { o.session = &Session{} }, "session-invalid"},
	} {
		o, me := goodRequest(t)
		tc.change(&o, &me)
		if got := problem.Code(judge(o, me)); got != tc.want {
			t.Errorf("%s: code %q, want %q", name, got, tc.want)
		}
	}
}

func TestReplayMemoryIsBoundedAndForgetsOnlyTheExpired(t *testing.T) {
	r := newReplay()
	id := func(n int) []byte {
		b := make([]byte, NonceSize)
		b[0], b[1], b[2] = byte(n), byte(n>>8), byte(n>>16)
		return b
	}
	code := func(err error) string { return problem.Code(err) }
	for n := range replayPerCaller {
		if err := r.admit([]byte("a"), id(n), 100, 1); err != nil {
			t.Fatal(err)
		}
	}
	if got := code(r.admit([]byte("a"), id(1<<20), 100, 1)); got != "node-busy" {
		t.Errorf("one caller's share is full: %q", got)
	}
	if err := r.admit([]byte("b"), id(0), 100, 1); err != nil {
		t.Errorf("the same id of another caller: %v", err)
	}
	for n := 0; len(r.seen) < replayMost; n++ {
		if err := r.admit([]byte{'c', byte(n % 200)}, id(n), 200, 1); err != nil {
			t.Fatal(err)
		}
	}
	if got := code(r.admit([]byte("d"), id(0), 100, 50)); got != "node-busy" {
		t.Errorf("full: %q", got)
	}
	if got := code(r.admit([]byte("a"), id(0), 100, 99)); got != "request-replayed" {
		t.Errorf("the last second of an id: %q", got)
	}
	// At 100 judge refuses those with expiry 100, so they may be forgotten.
	if err := r.admit([]byte("d"), id(0), 200, 100); err != nil {
		t.Errorf("after the expiry there is room: %v", err)
	}
	if len(r.callers) != 201 {
		t.Errorf("%d callers are remembered, want 201", len(r.callers))
	}
	if err := r.admit([]byte("d"), id(1), 400, 300); err != nil || len(r.seen) != 1 || len(r.callers) != 1 {
		t.Errorf("%v; %d ids, %d callers after everything expired", err, len(r.seen), len(r.callers))
	}
}

// What is sealed for one slot, epoch and grid opens for no other, even where the
// same key would be used.
func TestSealNamesGridSlotAndEpoch(t *testing.T) {
	k, err := seal.KeyFromSeed([32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	a, b := canon.Sum([]byte("a")), canon.Sum([]byte("b"))
	sealed, err := seal.Seal(k.Public(), requestInfo(a, b, 1), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	for name, info := range map[string][]byte{
		"another grid": requestInfo(b, b, 1), "another slot": requestInfo(a, a, 1), "another epoch": requestInfo(a, b, 2), "a reply": replyInfo(a),
	} {
		if _, err := k.Open(info, sealed); err == nil {
			t.Errorf("it opens for %s", name)
		}
	}
	if _, err := k.Open(requestInfo(a, b, 1), sealed); err != nil {
		t.Errorf("control: %v", err)
	}
}
