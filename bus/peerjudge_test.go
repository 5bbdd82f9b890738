package bus

import (
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

func TestPeerRequestMustNameThisRunAndItsCaller(t *testing.T) {
	caller, other := sign.FromSeed([32]byte{1}).Public(), sign.FromSeed([32]byte{2}).Public()
	sec := uint64(time.Second)
	type situation struct {
		r    PeerRequest
		by   sign.PublicKey
		from Binding
		me   peerSelf
	}
	for name, tc := range map[string]struct {
		change func(s *situation)
		want   string
	}{
		"good":                      {func(s *situation) {}, ""},
		"other slot":                {func(s *situation) { s.r.To = canon.Sum(nil) }, "request-misdirected"},
		"no slot":                   {func(s *situation) { s.r.To = canon.Hash{} }, "request-misdirected"},
		"other epoch of ours":       {func(s *situation) { s.r.ToEpoch++ }, "request-misdirected"},
		"from ourselves":            {func(s *situation) { s.r.From = s.me.slot }, "request-invalid"},
		"from nobody":               {func(s *situation) { s.r.From = canon.Hash{} }, "request-invalid"},
		"other key than bound":      {func(s *situation) { s.by = other }, "node-rekeyed"},
		"no key bound":              {func(s *situation) { s.from = Binding{Epoch: 3} }, "node-rekeyed"},
		"no key at all":             {func(s *situation) { s.from, s.by = Binding{Epoch: 3}, nil }, "node-rekeyed"},
		"earlier epoch of theirs":   {func(s *situation) { s.r.FromEpoch-- }, "node-rekeyed"},
		"later epoch of theirs":     {func(s *situation) { s.r.FromEpoch++ }, "node-rekeyed"},
		"earlier run of ours":       {func(s *situation) { s.r.ToRun = make([]byte, NonceSize) }, "request-stale"},
		"no run of ours":            {func(s *situation) { s.r.ToRun = nil }, "request-invalid"},
		"long run of ours":          {func(s *situation) { s.r.ToRun = append(s.r.ToRun[:NonceSize:NonceSize], 0) }, "request-invalid"},
		"no run of theirs":          {func(s *situation) { s.r.FromRun = nil }, "request-invalid"},
		"no id":                     {func(s *situation) { s.r.ID = nil }, "request-invalid"},
		"long id":                   {func(s *situation) { s.r.ID = make([]byte, NonceSize+1) }, "request-invalid"},
		"no reply key":              {func(s *situation) { s.r.ReplyKey = nil }, "request-invalid"},
		"short reply key":           {func(s *situation) { s.r.ReplyKey = make([]byte, 16) }, "request-invalid"},
		"no method":                 {func(s *situation) { s.r.Method = "" }, "request-invalid"},
		"long method":               {func(s *situation) { s.r.Method = string(make([]byte, MaxMethod+1)) }, "request-invalid"},
		"expires as it is issued":   {func(s *situation) { s.r.Expiry = s.r.Issued }, "request-invalid"},
		"expires before":            {func(s *situation) { s.r.Expiry = s.r.Issued - 1 }, "request-invalid"},
		"longest life":              {func(s *situation) { s.r.Expiry = s.r.Issued + 60*sec }, ""},
		"too long a life":           {func(s *situation) { s.r.Expiry = s.r.Issued + 60*sec + 1 }, "request-invalid"},
		"never expires":             {func(s *situation) { s.r.Expiry = ^uint64(0) }, "request-invalid"},
		"absurd times":              {func(s *situation) { s.r.Issued, s.r.Expiry = 1<<63, 1<<63+1 }, "request-invalid"},
		"absurd clock of theirs":    {func(s *situation) { s.r.FromTime = 1 << 63 }, "request-invalid"},
		"expired this moment":       {func(s *situation) { s.me.now = s.r.Expiry }, "request-expired"},
		"expired":                   {func(s *situation) { s.me.now = s.r.Expiry + 3600*sec }, "request-expired"},
		"last moment":               {func(s *situation) { s.me.now = s.r.Expiry - 1 }, ""},
		"a little ahead of us":      {func(s *situation) { s.me.now = s.r.Issued - 2*sec }, ""},
		"too far ahead of us":       {func(s *situation) { s.me.now = s.r.Issued - 2*sec - 1 }, "request-stale"},
		"of a stranger and expired": {func(s *situation) { s.by, s.me.now = other, s.r.Expiry }, "node-rekeyed"}, // he learns nothing
		"of a stranger and stale":   {func(s *situation) { s.by, s.r.ToRun = other, make([]byte, NonceSize) }, "node-rekeyed"},
	} {
		s := situation{by: caller, from: Binding{Epoch: 3, SigningKey: caller}, me: peerSelf{slot: canon.Sum([]byte("me")), epoch: 5, now: 1000 * sec}}
		s.me.run[0] = 1
		s.r = PeerRequest{
			From: canon.Sum([]byte("you")), FromEpoch: 3, FromRun: make([]byte, NonceSize), FromTime: 7,
			To: s.me.slot, ToEpoch: 5, ToRun: append([]byte{}, s.me.run[:]...), ID: make([]byte, NonceSize),
			Method: "x", Issued: 999 * sec, Expiry: 1010 * sec, ReplyKey: make([]byte, replyKeySize),
		}
		tc.change(&s)
		err := judgePeer(s.r, s.by, s.from, s.me)
		if got := problem.Code(err); got != tc.want || (err == nil) != (tc.want == "") {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// Only those who are proven, and whom it helps, learn why they were refused.
func TestStrangersLearnNothingOfRefusals(t *testing.T) {
	for code, want := range map[string]bool{
		"request-stale": true, "request-expired": true, "request-old": true, "node-busy": true, "unknown-method": true,
		"node-rekeyed": false, "request-misdirected": false, "request-invalid": false, "signature-invalid": false,
		"unsealable": false, "request-replayed": false, "not-permitted": false, "internal": false, "": false,
	} {
		if answerable(code) != want {
			t.Errorf("%q is answerable: %v", code, !want)
		}
	}
}

func TestPeerSealNamesGridSlotAndEpoch(t *testing.T) {
	k, err := seal.KeyFromSeed([32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	a, b := canon.Sum([]byte("a")), canon.Sum([]byte("b"))
	sealed, err := seal.Seal(k.Public(), peerInfo(a, b, 1), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	for name, info := range map[string][]byte{
		"another grid": peerInfo(b, b, 1), "another slot": peerInfo(a, a, 1), "another epoch": peerInfo(a, b, 2),
		"a person's request": requestInfo(a, b, 1), "a reply": replyInfo(a),
	} {
		if _, err := k.Open(info, sealed); err == nil {
			t.Errorf("it opens for %s", name)
		}
	}
	if _, err := k.Open(peerInfo(a, b, 1), sealed); err != nil {
		t.Errorf("control: %v", err)
	}
}

// A reply opens for the one request that it answers, and two of them never use
// one nonce.
func TestPeerReplyIsClosedToEverythingElse(t *testing.T) {
	h := func(s string) canon.Hash { return canon.Sum([]byte(s)) }
	node := sign.FromSeed([32]byte{3})
	good := peerAsked{h("grid"), h("self"), h("slot"), Binding{Epoch: 1, SigningKey: node.Public()}, h("request"), make([]byte, replyKeySize)}
	sealed, err := sealPeerReply(good, peerAnswer{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := sealPeerReply(good, peerAnswer{})
	if err != nil {
		t.Fatal(err)
	}
	if string(sealed) == string(again) {
		t.Error("two replies are sealed to the same bytes")
	}
	for name, change := range map[string]func(a *peerAsked){
		"another grid":    func(a *peerAsked) { a.grid = h("x") },
		"another caller":  func(a *peerAsked) { a.self = h("x") },
		"another callee":  func(a *peerAsked) { a.slot = h("x") },
		"another request": func(a *peerAsked) { a.request = h("x") },
		"another key":     func(a *peerAsked) { a.replyKey = append([]byte{1}, a.replyKey[1:]...) },
		"swapped ends":    func(a *peerAsked) { a.self, a.slot = a.slot, a.self },
	} {
		a := good
		change(&a)
		if _, _, err := openPeerReply(a, sealed); problem.Code(err) != "unsealable" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := openPeerReply(good, sealed); problem.Code(err) == "unsealable" {
		t.Errorf("control: %v", err)
	}
}

// What is kept for one caller never pushes out what is kept for another, and all
// of it is bounded and forgotten.
func TestKeptAnswersAreBounded(t *testing.T) {
	a := newAnswers()
	id := func(caller, n int) canon.Hash {
		return canon.Sum([]byte{byte(caller), byte(caller >> 8), byte(n), byte(n >> 8)})
	}
	add := func(caller, n, size int) {
		k := &kept{sealed: make([]byte, size), expiry: uint64(n)}
		a.by[id(caller, n)] = k
		a.keep(id(caller, n), id(caller, 0), size)
	}
	add(1, 1, 10)
	for n := range 1000 {
		add(2, n+1, 100)
	}
	if a.by[id(1, 1)] == nil {
		t.Error("another caller's answer was dropped")
	}
	if len(a.by) != keptPerCaller+1 || a.by[id(2, 1000)] == nil || a.by[id(2, 1000-keptPerCaller)] != nil {
		t.Errorf("%d answers are kept", len(a.by))
	}
	for n := range 20 {
		add(3, n+1, maxPeer)
	}
	if s := a.order[id(3, 0)].size; s > keptCallerSize || a.by[id(3, 20)] == nil {
		t.Errorf("%d bytes are kept for one caller", s)
	}
	for c := range 100 {
		for n := range 6 {
			add(10+c, n+1, maxPeer)
		}
	}
	if a.size > keptSize {
		t.Errorf("%d bytes are kept", a.size)
	}
	size := 0
	for _, k := range a.by {
		size += len(k.sealed)
	}
	if size != a.size {
		t.Errorf("%d bytes are kept, %d are counted", size, a.size)
	}
	a.sweep(500)
	for _, k := range a.by {
		if k.expiry <= 500 {
			t.Error("an answer to an expired request is kept")
		}
	}
	a.sweep(5000)
	if len(a.by)+len(a.order)+a.size != 0 {
		t.Errorf("after all expired: %d answers, %d callers, %d bytes", len(a.by), len(a.order), a.size)
	}
}
