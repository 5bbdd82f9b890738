package gateway

import (
	"context"
	"crypto/tls"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// fakeLedger takes answers to challenges, and has them in the zone that facts give to
// the process, as the next block would.
type fakeLedger struct {
	w *world

	mu   sync.Mutex
	said []answered
}

type answered struct {
	contract    canon.Hash
	host, value string
}

// Answer implements Challenges.
func (l *fakeLedger) Answer(_ context.Context, id canon.Hash, host, value string) error {
	l.mu.Lock()
	l.said = append(l.said, answered{id, host, value})
	l.mu.Unlock()
	l.w.set(func(f *fakeFacts) {
		next := *f.zone
		next.Serial++
		next.TXT = []control.ZoneRecord{}
		if value != "" {
			next.TXT = append(next.TXT, control.ZoneRecord{Name: contract.ChallengeLabel + host, Texts: []string{value}})
		}
		f.zone = &next
	})
	return nil
}

func (l *fakeLedger) all() []answered {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.said)
}

func gridZone() *control.Zone {
	return &control.Zone{Domain: "grid.example", Serial: 1, NS: []control.ZoneName{{Name: "ns1.grid.example", Addrs: []string{shared}}},
		Names: []control.ZoneName{}, TXT: []control.ZoneRecord{}}
}

// TestTheProcessSetsNoRecordButAnswersForHostsThatEndHere: the process may be in a
// stranger's hands.
func TestTheProcessSetsNoRecordButAnswersForHostsThatEndHere(t *testing.T) {
	ledger := &fakeLedger{}
	w := newWorldWith(t, func(w *world) { w.answers = ledger })
	ledger.w = w
	w.set(func(f *fakeFacts) { f.zone = gridZone() })
	mine := w.deploy("mine", 1, "web").host("shop.grid.example", plan.ModeTerminate, 8080, "web").host("app.grid.example", plan.ModePassthrough, 8443, "web").
		host("old.grid.example", plan.ModeTerminate, 8080, "web").host("www.own.example", plan.ModeTerminate, 8080, "web").up()
	theirs := w.deploy("theirs", 2, "web").host("bank.grid.example", plan.ModeTerminate, 8080, "web").up()
	w.set(func(f *fakeFacts) {
		f.says[mine.id()] = Judgement{Age: 1, Hosts: map[string]error{"old.grid.example": problem.New("name-expired", "it ended")}}
	})
	for what, c := range map[string]struct {
		contract canon.Hash
		name     string
		code     string
	}{
		"its own":                      {mine.contract, "_acme-challenge.shop.grid.example", ""},
		"another's, by its own":        {mine.contract, "_acme-challenge.bank.grid.example", CodeNotYours},
		"its own, by another's":        {theirs.contract, "_acme-challenge.shop.grid.example", CodeNotYours},
		"another's":                    {theirs.contract, "_acme-challenge.bank.grid.example", ""},
		"by a contract of nowhere":     {canon.Sum([]byte("nowhere")), "_acme-challenge.shop.grid.example", CodeNotYours},
		"passed through":               {mine.contract, "_acme-challenge.app.grid.example", CodeNotYours},
		"not served":                   {mine.contract, "_acme-challenge.old.grid.example", CodeNotYours},
		"not under the grid's domain":  {mine.contract, "_acme-challenge.www.own.example", CodeNotYours},
		"published by nobody":          {mine.contract, "_acme-challenge.none.grid.example", CodeNotYours},
		"the domain's":                 {mine.contract, "_acme-challenge.grid.example", CodeNotYours},
		"the host's own":               {mine.contract, "shop.grid.example", CodeNotYours},
		"another record of the host":   {mine.contract, "_dmarc.shop.grid.example", CodeNotYours},
		"below":                        {mine.contract, "_acme-challenge.www.shop.grid.example", CodeNotYours},
		"twice":                        {mine.contract, "_acme-challenge._acme-challenge.shop.grid.example", CodeNotYours},
		"upper case":                   {mine.contract, "_acme-challenge.SHOP.grid.example", CodeNotYours},
		"a dot at its end":             {mine.contract, "_acme-challenge.shop.grid.example.", CodeNotYours},
		"nothing":                      {mine.contract, "", CodeNotYours},
		"the label alone":              {mine.contract, contract.ChallengeLabel, CodeNotYours},
		"something like its own after": {mine.contract, "_acme-challenge.evil-shop.grid.example", CodeNotYours},
	} {
		for _, absent := range []bool{false, true} {
			before := len(ledger.all())
			err := broker{w.kind}.Record(limited(t), control.RecordRequest{Contract: c.contract, Name: c.name, Text: "x", Absent: absent})
			if problem.Code(err) != c.code || c.code == "" && err != nil {
				t.Errorf("%s: %v, want code %q", what, err, c.code)
			}
			said := ledger.all()[before:]
			if c.code != "" && len(said) > 0 {
				t.Errorf("%s: the ledger was told %v", what, said)
			}
			if c.code == "" && (len(said) != 1 || said[0].contract != c.contract || contract.ChallengeLabel+said[0].host != c.name || (said[0].value == "") != absent) {
				t.Errorf("%s: the ledger was told %v", what, said)
			}
		}
	}
	w.set(func(f *fakeFacts) { f.zone = nil })
	if err := (broker{w.kind}).Record(limited(t), control.RecordRequest{Contract: mine.contract, Name: "_acme-challenge.shop.grid.example", Text: "x"}); problem.Code(err) != CodeNotYours {
		t.Errorf("without a domain: %v", err)
	}
}

// TestAHostThatNobodyReachesIsProvenThroughTheLedger goes all the way with a real
// authority that finds no address of the host: the process asks the daemon, the
// ledger has the answer, the process' own name server tells it to the authority.
func TestAHostThatNobodyReachesIsProvenThroughTheLedger(t *testing.T) {
	ledger := &fakeLedger{}
	w := newWorldWith(t, func(w *world) {
		w.answers = ledger
		var err error
		w.store, err = NewShared(filepath.Join(w.dir, "data"), [32]byte{1}, canon.Sum([]byte("slot")), nil, discard())
		must(t, err)
	})
	ledger.w = w
	authority := w.pebble()
	w.set(func(f *fakeFacts) {
		f.pool.ACME, f.pool.Roots, f.zone = authority.Directory, [][]byte{authority.Root}, gridZone()
	})
	d := w.deploy("shop", 1, "web").host("shop.grid.example", plan.ModeTerminate, 8080, "web").up()
	w.await("the ledger has an answer", func() bool { return len(ledger.all()) > 0 })
	var leaf string
	w.await("the host has a certificate", func() bool {
		raw, err := w.dial(shared + ":443")
		if err != nil {
			return false
		}
		c := tls.Client(raw, &tls.Config{ServerName: "shop.grid.example", InsecureSkipVerify: true})
		if err := c.Handshake(); err != nil {
			return false
		}
		leaf = c.ConnectionState().PeerCertificates[0].DNSNames[0]
		return true
	})
	if leaf != "shop.grid.example" {
		t.Errorf("the certificate is of %s", leaf)
	}
	w.await("the answer is taken back", func() bool { return len(ledger.all()) == 2 })
	said := ledger.all()
	for i, a := range said {
		if a.contract != d.contract || a.host != "shop.grid.example" || (i == 1) != (a.value == "") || i == 0 && len(a.value) != 43 {
			t.Errorf("the ledger was told %+v", said)
		}
	}
	if z := w.facts.Zone(); len(z.TXT) > 0 {
		t.Errorf("records are left: %v", z.TXT)
	}
}
