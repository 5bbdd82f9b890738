package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	rules "github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/sign"
)

// counted is a signer that counts how often its key is used, like a person who
// has to touch it.
type counted struct {
	sign.Signer
	touches int
}

func (c *counted) Sign(ctx context.Context, namespace string, message []byte) ([]byte, error) {
	c.touches++
	return c.Signer.Sign(ctx, namespace, message)
}

func (w *world) sessionClient(t testing.TB, s *bus.Credential, urls ...string) *bus.Client {
	t.Helper()
	c, err := bus.NewClient(bus.ClientConfig{Conn: connect(t, bus.AsPeople(), urls...), Grid: grid, Bound: w.Bound, Session: s})
	must(t, err)
	c.SetLease(lease)
	return c
}

func TestSessionReadsWithoutTheAccountsKey(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	n.HandleStream(bus.MethodLogs, numbers(2*bus.Window, leave))
	key := &counted{Signer: w.member}
	made, err := bus.NewSession(ctx(t), grid, key, time.Now(), 8*time.Hour)
	must(t, err)
	b, err := made.Encode()
	must(t, err)
	s, err := bus.DecodeSession(grid, b)
	must(t, err)
	if !s.Account().Equal(w.member.Public()) || !s.Expiry().Equal(made.Expiry()) {
		t.Errorf("session of %s until %s", s.Account().Fingerprint(), s.Expiry())
	}
	c := w.sessionClient(t, s, url)
	_, err = c.Call(ctx(t), ask(bus.MethodStatus))
	must(t, err)
	if q := <-n.calls; !q.Caller.Equal(w.member.Public()) {
		t.Errorf("asked by %s", q.Caller.Fingerprint())
	}
	st, err := c.Stream(ctx(t), ask(bus.MethodLogs))
	must(t, err)
	defer st.Close()
	for range 2 * bus.Window {
		_, err := st.Next(ctx(t))
		must(t, err)
	}
	if key.touches != 1 {
		t.Errorf("the key was touched %d times", key.touches)
	}
}

func TestSessionGivesNoMoreThanItsAccountHas(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	w.start(t, slot, newKeys(t), url)
	s, err := bus.NewSession(ctx(t), grid, w.outsider, time.Now(), time.Hour)
	must(t, err)
	_, err = w.sessionClient(t, s, url).Call(ctx(t), ask(bus.MethodStatus))
	wantCode(t, err, "not-permitted")
	_, err = w.sessionClient(t, s, url).Call(ctx(t), ask("workload.exec"))
	wantCode(t, err, "not-permitted")
}

func TestSessionEnds(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	s, err := bus.NewSession(ctx(t), grid, w.member, time.Now(), time.Hour)
	must(t, err)
	c := w.sessionClient(t, s, url)
	_, err = c.Call(ctx(t), ask(bus.MethodStatus))
	must(t, err)
	n.clock.add(time.Hour)
	c.Forget(slot)
	_, err = c.Call(ctx(t), ask(bus.MethodStatus))
	wantCode(t, err, "session-expired")
	_, err = bus.NewSession(ctx(t), grid, w.member, time.Now(), 8*time.Hour+time.Second)
	wantCode(t, err, "session-invalid")
	_, err = bus.NewSession(ctx(t), grid, w.member, time.Now(), 0)
	wantCode(t, err, "session-invalid")
}

// A stream does not outlive the session that opened it.
func TestStreamEndsWithItsSession(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	n.HandleStream(bus.MethodLogs, numbers(0, stay))
	s, err := bus.NewSession(ctx(t), grid, w.member, time.Now(), 3*time.Second)
	must(t, err)
	c := w.sessionClient(t, s, url)
	st, err := c.Stream(ctx(t), ask(bus.MethodLogs))
	must(t, err)
	defer st.Close()
	began := time.Now()
	_, err = st.Next(ctx(t))
	wantCode(t, err, "lease-expired")
	if d := time.Since(began); d > lease/2+time.Second {
		t.Errorf("the stream lasted %s, its session less than 3 s", d)
	}
}

// Whoever steals a session's statement has not its key, and who has a key of his
// own has no session of the account.
func TestSessionsAreNotMadeByOthers(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	mine := signer(t)
	forge := func(by sign.Signer, change func(*bus.Session)) []byte {
		now := uint64(time.Now().Unix())
		st := bus.Session{
			Header:  rules.Header{V: bus.Version, Kind: bus.KindSession, Grid: grid},
			Account: w.member.Public(), Key: mine.Public(), Scope: bus.ScopeRead, Issued: now, Expiry: now + 3600,
		}
		change(&st)
		s, err := rules.Sign(ctx(t), st, bus.KindSession, by)
		must(t, err)
		b, err := canon.Marshal(map[string]any{"v": uint64(1), "session": map[string]any{
			"statement": s.Statement, "signatures": []any{map[string]any{"key": s.Signatures[0].Key, "sig": s.Signatures[0].Sig}},
		}, "seed": make([]byte, 32)})
		must(t, err)
		return b
	}
	// What can't even be decoded by an honest client.
	for name, b := range map[string][]byte{
		"signed by another":  forge(mine, func(*bus.Session) {}),
		"for another key":    forge(w.member, func(*bus.Session) {}),
		"of another grid":    forge(w.member, func(s *bus.Session) { s.Grid = canon.Sum(nil) }),
		"no session at all":  nil,
		"shortened":          forge(w.member, func(*bus.Session) {})[:50],
		"a very late expiry": forge(w.member, func(s *bus.Session) { s.Expiry = 1 << 50 }),
	} {
		if _, err := bus.DecodeSession(grid, b); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			wantCode(t, err, "session-invalid")
		}
	}
	// What a dishonest one sends anyway.
	to, err := w.Bound(ctx(t), slot)
	must(t, err)
	hb, err := w.client(t, w.member, url).Hello(ctx(t), slot)
	must(t, err)
	nc, _ := raw(t, url, "people")
	for _, tc := range []struct {
		by     sign.Signer
		change func(*bus.Session)
		code   string
	}{
		{mine, func(*bus.Session) {}, "session-invalid"},
		{w.member, func(s *bus.Session) { s.Key = w.outsider.Public() }, "session-invalid"},
		{w.member, func(s *bus.Session) { s.Scope = "write" }, "session-invalid"},
		{w.member, func(s *bus.Session) { s.Expiry = s.Issued + bus.MaxSession + 1 }, "session-invalid"},
		{w.member, func(s *bus.Session) { s.Expiry = s.Issued }, "session-invalid"},
		{w.member, func(s *bus.Session) { s.Issued += 600; s.Expiry += 600 }, "session-invalid"},
		{w.member, func(s *bus.Session) { s.Issued -= 7200; s.Expiry -= 7200 }, "session-expired"},
		{w.member, func(s *bus.Session) { s.Grid = canon.Sum(nil) }, "wrong-grid"},
		{w.member, func(*bus.Session) {}, ""},
	} {
		before := n.Refused()[tc.code]
		now := uint64(time.Now().Unix())
		st := bus.Session{
			Header:  rules.Header{V: bus.Version, Kind: bus.KindSession, Grid: grid},
			Account: w.member.Public(), Key: mine.Public(), Scope: bus.ScopeRead, Issued: now, Expiry: now + 3600,
		}
		tc.change(&st)
		session, err := rules.Sign(ctx(t), st, bus.KindSession, tc.by)
		must(t, err)
		id := sign.FromSeed([32]byte{}).Public() // any bytes
		req, err := rules.Sign(ctx(t), bus.Request{
			Header: rules.Header{V: bus.Version, Kind: rules.KindRequest, Grid: grid},
			Slot:   slot, Epoch: 1, BootNonce: hb.BootNonce, Instance: hb.Instance, ID: id[len(id)-16:],
			Method: bus.MethodStatus, Contract: contract, ReplyTo: replyKey(t), Expiry: hb.Time + 60,
		}, rules.KindRequest, mine)
		must(t, err)
		b, err := bus.SealSessionCall(to, grid, slot, req, session)
		must(t, err)
		must(t, nc.Publish(bus.RequestSubject(slot), b))
		if tc.code == "" {
			select {
			case <-n.calls:
			case <-ctx(t).Done():
				t.Error("control: a proper session does not work")
			}
			continue
		}
		refusedSoon(t, n, tc.code, before+1)
		if len(n.calls) != 0 {
			t.Fatalf("%s: the handler ran", tc.code)
		}
	}
}
