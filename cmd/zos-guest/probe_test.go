package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload/control"
)

// A panic of process 1 would be the guest's end.
func TestNothingIsAskedOfAGuestThatWasNotToldWhatToRun(t *testing.T) {
	for _, r := range []control.Request{
		{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"sh"}}}, {Verb: control.VerbSignal, Signal: 15}, {Verb: control.VerbAttach},
		{Verb: control.VerbProbe, Probe: &control.Probe{Kind: "exec", Args: []string{"sh"}, Timeout: 1000}},
		{Verb: control.VerbProbe, Probe: &control.Probe{Kind: "tcp", Port: 80, Timeout: 1000}},
		{Verb: control.VerbGet, Path: "/etc"}, {Verb: control.VerbPut, Path: "/etc"},
	} {
		if err := (&agent{}).handle(limit(t), nil, r); problem.Code(err) != "not-running" {
			t.Errorf("%s: %v", r.Verb, err)
		}
	}
}

func TestAnAnswerByHTTPDecidesTheCheck(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/ready?now=1" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	port := uint16(s.Listener.Addr().(*net.TCPAddr).Port)
	for path, healthy := range map[string]bool{"/ready?now=1": true, "/ready": false} {
		if err := (&agent{boot: &control.Boot{}}).probeNet(limit(t), control.Probe{Kind: "http", Port: port, Path: path}); (err == nil) != healthy {
			t.Errorf("%s: %v", path, err)
		}
	}
	s.Close()
	if (&agent{boot: &control.Boot{}}).probeNet(limit(t), control.Probe{Kind: "http", Port: port, Path: "/ready?now=1"}) == nil {
		t.Error("nobody answers, and it is healthy")
	}
}
