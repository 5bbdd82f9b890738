package bus

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// The decoders must not panic on anything, and must accept no bytes that they
// would not write themselves.

var fuzzGrid, fuzzSlot = canon.Sum([]byte("grid")), canon.Sum([]byte("slot"))

func fuzzKeys() (account, session, node sign.Signer) {
	return sign.FromSeed([32]byte{1}), sign.FromSeed([32]byte{2}), sign.FromSeed([32]byte{3})
}

func signed(f *testing.F, st contract.Statement, s sign.Signer) contract.Signed {
	out, err := contract.Sign(context.Background(), st, st.Head().Kind, s)
	if err != nil {
		f.Fatal(err)
	}
	return out
}

func encoded(f *testing.F, v any) []byte {
	b, err := canon.Marshal(v)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// seedAll adds b and some damaged forms of it.
func seedAll(f *testing.F, b []byte) {
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add(append(bytes.Clone(b), 0))
	f.Add(append([]byte{0xbf}, b[1:]...))
	for i := 0; i < len(b); i += max(1, len(b)/16) {
		c := bytes.Clone(b)
		c[i] ^= 0x20
		f.Add(c)
	}
	f.Add([]byte{0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add(bytes.Repeat([]byte{0x81}, 100))
}

func FuzzDecodeCall(f *testing.F) {
	account, session, _ := fuzzKeys()
	k, err := seal.KeyFromSeed([32]byte{4})
	if err != nil {
		f.Fatal(err)
	}
	req := Request{
		Header: header(contract.KindRequest, fuzzGrid), Slot: fuzzSlot, Epoch: 1, BootNonce: make([]byte, 16), Instance: make([]byte, 16),
		ID: make([]byte, 16), Method: MethodLogs, Contract: fuzzSlot, ReplyTo: k.Public(), Expiry: 60,
	}
	s := Session{Header: header(KindSession, fuzzGrid), Account: account.Public(), Key: session.Public(), Scope: ScopeRead, Issued: 1, Expiry: 100}
	seedAll(f, encoded(f, call{Request: signed(f, req, account)}))
	seedAll(f, encoded(f, call{Request: signed(f, req, session), Session: []contract.Signed{signed(f, s, account)}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeCall(fuzzGrid, b)
		if err != nil {
			return
		}
		if len(o.account) == 0 || o.Grid != fuzzGrid {
			t.Errorf("accepted without an account, or of another grid")
		}
		_ = judge(o, self{slot: fuzzSlot, epoch: 1, now: 1})
	})
}

func FuzzDecodeReply(f *testing.F) {
	_, _, node := fuzzKeys()
	request := canon.Sum([]byte("request"))
	r := Reply{Header: header(contract.KindReply, fuzzGrid), Slot: fuzzSlot, Epoch: 1, Request: request, Last: true, Body: canon.Sum([]byte("body"))}
	seedAll(f, encoded(f, chunk{Reply: signed(f, r, node), Body: []byte("body")}))
	from := Binding{Epoch: 1, SigningKey: node.Public()}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, body, err := decodeReply(fuzzGrid, fuzzSlot, from, request, b)
		if err == nil && canon.Sum(body) != r.Body {
			t.Error("accepted another body than the signed one")
		}
	})
}

func FuzzOpenHeartbeat(f *testing.F) {
	_, _, node := fuzzKeys()
	hb := Heartbeat{
		Header: header(contract.KindHeartbeat, fuzzGrid), Slot: fuzzSlot, Epoch: 1, BootNonce: make([]byte, 16), Instance: make([]byte, 16),
		Sequence: 1, Time: 1, Status: Status{Problems: []string{"disk-full"}}, Challenge: make([]byte, 16),
	}
	seedAll(f, encoded(f, signed(f, hb, node)))
	from := Binding{Epoch: 1, SigningKey: node.Public()}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := openHeartbeat(fuzzGrid, fuzzSlot, from, b)
		if err == nil {
			_ = newer(nil, h, time.Unix(1, 0))
		}
	})
}

func FuzzDecodeSession(f *testing.F) {
	c, err := NewSession(context.Background(), fuzzGrid, sign.FromSeed([32]byte{1}), time.Unix(1000, 0), time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	b, err := c.Encode()
	if err != nil {
		f.Fatal(err)
	}
	seedAll(f, b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeSession(fuzzGrid, b)
		if err != nil {
			return
		}
		again, err := c.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("it encodes to other bytes: %v", err)
		}
	})
}

func FuzzDecodePeerCall(f *testing.F) {
	_, _, node := fuzzKeys()
	r := PeerRequest{
		Header: header(KindPeerRequest, fuzzGrid), From: canon.Sum([]byte("from")), FromEpoch: 1, FromRun: make([]byte, 16),
		To: fuzzSlot, ToEpoch: 1, ToRun: make([]byte, 16), ID: make([]byte, 16), Method: "x", Issued: 1, Expiry: 2,
		ReplyKey: make([]byte, 32), Body: canon.Sum([]byte("body")),
	}
	seedAll(f, encoded(f, peerCall{Request: signed(f, r, node), Body: []byte("body")}))
	me := peerSelf{slot: fuzzSlot, epoch: 1, now: 1}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodePeerCall(fuzzGrid, b)
		if err != nil {
			return
		}
		if canon.Sum(o.body) != o.Body || o.Grid != fuzzGrid || len(o.signer) == 0 {
			t.Error("accepted unsigned, of another grid, or with another body than the signed one")
		}
		if err := judgePeer(o.PeerRequest, o.signer, Binding{Epoch: 1, SigningKey: node.Public()}, me); err == nil && !bytes.Equal(o.signer, node.Public()) {
			t.Error("accepted from a stranger")
		}
	})
}

func FuzzDecodePeerReply(f *testing.F) {
	_, _, node := fuzzKeys()
	a := peerAsked{fuzzGrid, canon.Sum([]byte("self")), fuzzSlot, Binding{Epoch: 1, SigningKey: node.Public()}, canon.Sum([]byte("request")), make([]byte, 32)}
	r := PeerReply{
		Header: header(KindPeerReply, fuzzGrid), From: fuzzSlot, Epoch: 1, Run: make([]byte, 16), Time: 1,
		To: a.self, Request: a.request, Body: canon.Sum([]byte("body")),
	}
	seedAll(f, encoded(f, peerAnswer{Reply: signed(f, r, node), Body: []byte("body")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, body, err := decodePeerReply(a, b)
		if err == nil && (canon.Sum(body) != r.Body || r.Request != a.request || r.From != a.slot) {
			t.Error("accepted another body than the signed one, or the answer to something else")
		}
	})
}

func FuzzOpenPeerHello(f *testing.F) {
	_, _, node := fuzzKeys()
	challenge := bytes.Repeat([]byte{7}, NonceSize)
	h := PeerHello{Header: header(KindPeerHello, fuzzGrid), Slot: fuzzSlot, Epoch: 1, Run: make([]byte, 16), Time: 1, Challenge: challenge}
	seedAll(f, encoded(f, signed(f, h, node)))
	from := Binding{Epoch: 1, SigningKey: node.Public()}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := openPeerHello(fuzzGrid, fuzzSlot, from, challenge, b)
		if err == nil && (len(h.Run) != NonceSize || !bytes.Equal(h.Challenge, challenge)) {
			t.Error("accepted a hello of no run, or to another challenge")
		}
	})
}

func FuzzDecodeRenewal(f *testing.F) {
	seedAll(f, encoded(f, Renewal{Stream: fuzzSlot, Received: 7, End: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Renewal
		if canon.UnmarshalLimit(b, MaxParams, &r) != nil {
			return
		}
		if again, err := canon.Marshal(r); err != nil || !bytes.Equal(again, b) {
			t.Errorf("it encodes to other bytes: %v", err)
		}
	})
}

func FuzzParseRole(f *testing.F) {
	for _, r := range []Role{AsPeople(), AsNode(fuzzSlot), AsAgent(fuzzSlot)} {
		f.Add(r.String())
	}
	f.Add("node.*")
	f.Add("node.>")
	f.Add("agent." + fuzzSlot.String()[:62] + ".>")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRole(s)
		if err != nil {
			return
		}
		if r.String() != s {
			t.Errorf("%q is read as %q", s, r)
		}
		if _, sub := r.Subjects("0123"); len(sub) == 0 {
			t.Errorf("%q has no subjects", s)
		}
	})
}

func FuzzDecodeFrame(f *testing.F) {
	seedAll(f, encoded(f, frame{Sequence: 3, Received: 2, Taken: 1, Beat: 1, Data: []byte("data")}))
	seedAll(f, encoded(f, frame{Sequence: 3, Last: true, Code: "internal", Message: "why"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := decodeFrame(b)
		if err != nil {
			return
		}
		if len(in.Data) > MaxDuplex || in.Code != "" && !in.Last || !bytes.Equal(encodedFor(t, in), b) {
			t.Errorf("accepted %+v", in)
		}
	})
}

func FuzzDecodeAct(f *testing.F) {
	seedAll(f, encoded(f, Act{Workload: "web", Secret: make([]byte, secretSize), Params: []byte("params")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, duplex := range []bool{true, false} {
			if a, err := decodeAct(b, duplex); err == nil && (duplex != (len(a.Secret) == secretSize) || !bytes.Equal(encodedFor(t, a), b)) {
				t.Errorf("accepted %+v", a)
			}
		}
	})
}

func encodedFor(t *testing.T, v any) []byte {
	b, err := canon.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzFlow lets one side say anything that decodes: the other's account stays
// within its bounds, and gives each message once, in order.
func FuzzFlow(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 16, 17, 18, 255})
	f.Add([]byte{2, 1, 2, 1, 130, 131, 200})
	f.Fuzz(func(t *testing.T, script []byte) {
		fl, now := newFlow(), time.Unix(1, 0)
		given := 0
		for _, b := range script {
			in := frame{Sequence: uint64(b & 0x1f), Received: uint64(b >> 5), Taken: uint64(b >> 6)}
			if in.Sequence > 0 {
				in.Data = []byte{b & 0x1f}
			}
			if b&0x80 != 0 && fl.hasRoom(now) {
				fl.put(frame{Data: []byte("x")})
			}
			if fl.take(in, now) != nil {
				return
			}
			now = now.Add(time.Duration(b) * time.Millisecond)
			if b&1 != 0 {
				if m, ok := fl.read(now); ok {
					if given++; int(m[0]) != given {
						t.Fatalf("message %d came where %d was due", m[0], given)
					}
				}
			}
			out, next := fl.due(now)
			if len(fl.early)+len(fl.ready) > DuplexWindow || len(fl.waiting) > DuplexWindow || len(out) > DuplexWindow+againBurst+2 || next <= 0 {
				t.Fatalf("out of bounds: %d early, %d ready, %d waiting, %d out, next in %s", len(fl.early), len(fl.ready), len(fl.waiting), len(out), next)
			}
		}
	})
}
