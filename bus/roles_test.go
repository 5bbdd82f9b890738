package bus_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/rendezvous"
)

// Who is called by nodes hears only what is for its own slot; people call no
// node as a node would.
func TestPeerSubjectsBelongToNodes(t *testing.T) {
	s := serve(t)
	a, err := rendezvous.ParseURL(s.URL())
	must(t, err)
	other := canon.Sum([]byte("other"))
	for _, tc := range []struct {
		role      bus.Role
		publish   bool
		subscribe map[string]bool
	}{
		{bus.AsNode(slot), true, map[string]bool{bus.PeerSubject(slot): true, bus.PeerSubject(other): false, "peer.*": false, "peer.>": false}},
		{bus.AsPeople(), false, map[string]bool{bus.PeerSubject(slot): false, "peer.*": false}},
		{bus.AsAgent(slot), false, map[string]bool{bus.PeerSubject(slot): false, "peer.*": false}},
	} {
		violations := make(chan error, 16)
		nc, err := nats.Connect("nats://127.0.0.1:1", nats.SetCustomDialer(dialer{a}), nats.UserInfo(tc.role.String(), token()), nats.NoReconnect(),
			nats.Timeout(5*time.Second), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violations <- err }))
		must(t, err)
		defer nc.Close()
		// What must be refused is followed by something that is refused for sure:
		// its complaint comes after all others.
		verdict := func(what string, do func() error, allowed bool) {
			t.Helper()
			must(t, do())
			must(t, nc.Publish("forbidden", nil))
			must(t, nc.Flush())
			refused := false
			for last := false; !last; {
				select {
				case err := <-violations:
					if !errors.Is(err, nats.ErrPermissionViolation) {
						t.Fatal(err)
					}
					last = strings.Contains(err.Error(), `"forbidden"`)
					refused = refused || !last
				case <-ctx(t).Done():
					t.Fatal("no complaint about what nobody may")
				}
			}
			if refused == allowed {
				t.Errorf("%s: %s: allowed %v, want %v", tc.role, what, !refused, allowed)
			}
		}
		for _, to := range []canon.Hash{slot, other} {
			verdict("publish", func() error { return nc.Publish(bus.PeerSubject(to), nil) }, tc.publish)
		}
		for subject, ok := range tc.subscribe {
			verdict("subscribe "+subject, func() error { _, err := nc.SubscribeSync(subject); return err }, ok)
		}
	}
}
