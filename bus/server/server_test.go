package server_test

import (
	"errors"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/bus/server"
	"github.com/zero-os/zos/canon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const tokenA, tokenB = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"

var slot, other = canon.Sum([]byte("slot")), canon.Sum([]byte("other"))

// plain is a server with a listener before it that speaks in the clear.
type plain struct {
	*server.Server
	url string
}

func (p plain) URL() string { return p.url }

func serve(t *testing.T) plain {
	t.Helper()
	s, err := server.New(t.Context(), server.Config{MaxClients: 5})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.ServeConn(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return plain{s, "nats://" + ln.Addr().String()}
}

func dial(t *testing.T, url, user, token string) (*nats.Conn, chan error, error) {
	t.Helper()
	errs := make(chan error, 16)
	nc, err := nats.Connect(url, nats.UserInfo(user, token), nats.NoReconnect(), nats.Timeout(5*time.Second),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err }))
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, errs, err
}

// TestRolesLimitSubjects tries everything as every role.
func TestRolesLimitSubjects(t *testing.T) {
	s := serve(t)
	req, hello, hb := bus.RequestSubject(slot), bus.HelloSubject(slot), bus.HeartbeatSubject(slot)
	join := bus.JoinSubject(slot)
	for _, tc := range []struct {
		role                   string
		publish, subscribe     []string // allowed
		noPublish, noSubscribe []string
	}{
		{
			"people",
			[]string{req, hello, bus.RequestSubject(other)},
			[]string{hb, "heartbeat.*", "inbox." + tokenA + ".1", "inbox." + tokenA + ".>"},
			[]string{hb, join, "inbox." + tokenB + ".1", "$SYS.REQ.SERVER.PING"},
			[]string{req, "request.*", hello, join, "inbox." + tokenB + ".1", "inbox.>", "inbox.*.>", ">", "*", "$SYS.>", "_INBOX.>"},
		}, {
			"node." + slot.String(),
			[]string{hb, join, "inbox." + tokenB + ".1"},
			[]string{req, hello, "inbox." + tokenA + ".>"},
			[]string{req, hello, bus.HeartbeatSubject(other)},
			[]string{bus.RequestSubject(other), "request.*", "request.>", hb, join, "inbox." + tokenB + ".>", "inbox.>", ">"},
		}, {
			"agent." + slot.String(),
			[]string{hello, "inbox." + tokenB + ".1"},
			[]string{join, hb, "inbox." + tokenA + ".>"},
			[]string{req, hb, join},
			[]string{bus.JoinSubject(other), "join.*", req, "inbox.>", ">"},
		},
	} {
		nc, errs, err := dial(t, s.URL(), tc.role, tokenA)
		if err != nil {
			t.Fatalf("%s: %v", tc.role, err)
		}
		verdict := func(what, subject string, do func() error, allowed bool) {
			t.Helper()
			if err := do(); err != nil {
				t.Fatalf("%s %s %s: %v", tc.role, what, subject, err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatalf("%s %s %s: %v", tc.role, what, subject, err)
			}
			// The server's complaint came before the answer to Flush, but is
			// handed over by another goroutine.
			wait := 20 * time.Millisecond
			if !allowed {
				wait = 5 * time.Second
			}
			select {
			case err := <-errs:
				if allowed || !errors.Is(err, nats.ErrPermissionViolation) {
					t.Errorf("%s %s %s: %v, want allowed %v", tc.role, what, subject, err, allowed)
				}
			case <-time.After(wait):
				if !allowed {
					t.Errorf("%s may %s %s", tc.role, what, subject)
				}
			}
		}
		sub := func(subject string) func() error {
			return func() error {
				s, err := nc.SubscribeSync(subject)
				if err == nil {
					t.Cleanup(func() { s.Unsubscribe() })
				}
				return err
			}
		}
		for _, x := range tc.publish {
			verdict("publish", x, func() error { return nc.Publish(x, nil) }, true)
		}
		for _, x := range tc.noPublish {
			verdict("publish", x, func() error { return nc.Publish(x, nil) }, false)
		}
		for _, x := range tc.subscribe {
			verdict("subscribe", x, sub(x), true)
		}
		for _, x := range tc.noSubscribe {
			verdict("subscribe", x, sub(x), false)
		}
		nc.Close()
	}
}

func TestWithoutRoleOrTokenNobodyConnects(t *testing.T) {
	s := serve(t)
	for _, c := range [][2]string{
		{"", ""}, {"people", ""}, {"people", "x"}, {"people", "*"}, {"people", ">"}, {"people", strings.ToUpper(tokenA)},
		{"people", tokenA + ".>"}, {"server", ""}, {"server", tokenA}, {"admin", tokenA}, {"node", tokenA}, {"node.*", tokenA}, {"node.>", tokenA},
		{"node." + strings.ToUpper(slot.String()), tokenA}, {"agent." + slot.String() + ".x", tokenA},
	} {
		if _, _, err := dial(t, s.URL(), c[0], c[1]); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("user %q, token %q: %v", c[0], c[1], err)
		}
	}
}

func TestServerIsBounded(t *testing.T) {
	s := serve(t)
	nc, _, err := dial(t, s.URL(), "people", tokenA)
	if err != nil {
		t.Fatal(err)
	}
	if nc.MaxPayload() != server.MaxPayload {
		t.Errorf("payload of %d bytes is allowed", nc.MaxPayload())
	}
	if err := nc.Publish(bus.RequestSubject(slot), make([]byte, server.MaxPayload+1)); err == nil {
		t.Error("a message above the limit was taken")
	}
	if nc.HeadersSupported() {
		t.Error("headers are on")
	}
	for i := range 4 {
		if _, _, err := dial(t, s.URL(), "people", tokenA); err != nil {
			t.Fatalf("connection %d: %v", i+2, err)
		}
	}
	if _, _, err := dial(t, s.URL(), "people", tokenA); err == nil {
		t.Error("more connections than the limit")
	}
	if n := s.Clients(); n != 5 {
		t.Errorf("%d clients", n)
	}
}

// TestNodesCarryNoServer: what a node links does not contain the server.
func TestNodesCarryNoServer(t *testing.T) {
	deps := func(pkg string) string {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", pkg).Output()
		if err != nil {
			t.Fatalf("go list -deps %s: %v", pkg, err)
		}
		return string(out)
	}
	const engine = "github.com/nats-io/nats-server/v2/server\n"
	if !strings.Contains(deps("github.com/zero-os/zos/bus/server"), engine) {
		t.Error("control: the server's own package does not link the engine")
	}
	for _, p := range []string{"bus", "farm", "rendezvous"} {
		if strings.Contains(deps("github.com/zero-os/zos/"+p), engine) {
			t.Errorf("package %s links the server", p)
		}
	}
}
