package light_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/ledger/wire"
)

// lies are the ways to alter one JSON value.
var lies = map[string]func(any) any{
	"altered": func(v any) any {
		switch v := v.(type) {
		case string:
			return alterText(v)
		case json.Number:
			n, _ := strconv.ParseInt(v.String(), 10, 64)
			return n + 1
		case bool:
			return !v
		case nil:
			return "x"
		case []any:
			if len(v) == 0 {
				return []any{map[string]any{}}
			}
			return append(v, v[0])
		case map[string]any:
			return map[string]any{}
		}
		return v
	},
	"removed": func(any) any { return errRemove },
	"null":    func(any) any { return nil },
}

// alterText changes a number, a time, hex or base64 so that it stays one.
func alterText(s string) string {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return strconv.FormatInt(n+1, 10)
	}
	if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return at.Add(time.Nanosecond).Format(time.RFC3339Nano)
	}
	if b, err := hex.DecodeString(s); err == nil && len(b) > 0 {
		b[len(b)/2] ^= 1
		return strings.ToUpper(hex.EncodeToString(b))
	}
	if b, err := base64.StdEncoding.DecodeString(s); err == nil && len(b) > 0 {
		b[len(b)/2] ^= 1
		return base64.StdEncoding.EncodeToString(b)
	}
	return s + "x"
}

// mustFail are the places whose alteration every client has to notice, if no
// endpoint tells the truth.
var mustFail = []string{
	"abci_query /result/response/value altered",
	"abci_query /result/response/value removed",
	"abci_query /result/response/height altered",
	"commit /result/signed_header/header/app_hash altered",
	"commit /result/signed_header/header/height altered",
	"commit /result/signed_header/header/time altered",
	"commit /result/signed_header/header/chain_id altered",
	"commit /result/signed_header/header/validators_hash altered",
	"commit /result/signed_header/header/next_validators_hash altered",
	"commit /result/signed_header/header/data_hash altered",
	"commit /result/signed_header/header/last_results_hash altered",
	"commit /result/signed_header/header/last_block_id/hash altered",
	"commit /result/signed_header/header/proposer_address altered",
	"commit /result/signed_header/commit/height altered",
	"commit /result/signed_header/commit/round altered",
	"commit /result/signed_header/commit/block_id/hash altered",
	"commit /result/signed_header/commit/block_id/parts/hash altered",
	"commit /result/signed_header/commit/signatures/0/signature altered",
	"commit /result/signed_header/commit/signatures/0/timestamp altered",
	"commit /result/signed_header/commit/signatures/0/validator_address altered",
	"commit /result/signed_header/commit/signatures removed",
	"validators /result/validators/0/pub_key/value altered",
	"validators /result/validators/0/voting_power altered",
	"validators /result/validators/0/address altered",
	"validators /result/validators removed",
}

// TestNoAlteredFieldIsBelieved alters every field of every response, one at a
// time and in several ways, once at the primary alone and once at every
// endpoint. What a client then answers is the truth or an error.
func TestNoAlteredFieldIsBelieved(t *testing.T) {
	c := newChain(t, 1)
	// What is there to alter?
	var mu sync.Mutex
	places := map[string]bool{} // "method place"
	watch := func(method, _ string, response []byte) []byte {
		v, err := parse(response)
		if err != nil {
			t.Errorf("response of %s is not JSON", method)
			return response
		}
		all := map[string]any{}
		leaves(v, "", all)
		mu.Lock()
		defer mu.Unlock()
		for at := range all {
			places[method+" "+at] = true
		}
		return response
	}
	watched := c.open(t, []string{between(t, c.validator.URL(), watch), between(t, c.followers[0].URL(), watch)})
	if err := truth(t, within(t, 20*time.Second), watched); err != nil {
		t.Fatalf("without lies: %v", err)
	}
	if len(places) < 50 {
		t.Fatalf("only %d places to alter were seen", len(places))
	}
	missing := map[string]bool{}
	for _, m := range mustFail {
		missing[m] = true
	}
	type outcome struct {
		name string
		err  error
	}
	jobs := make(chan string)
	outcomes := make(chan outcome, 1024)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for name := range jobs {
				f := strings.Fields(name)
				method, place, how := f[0], f[1], f[2]
				lie := func(m, _ string, response []byte) []byte {
					if m != method {
						return response
					}
					return alter(response, place, lies[how])
				}
				liar, liar2 := between(t, c.validator.URL(), lie), between(t, c.followers[0].URL(), lie)
				// At the primary alone: any answer must be true.
				_ = truth(t, within(t, 15*time.Second), c.open(t, []string{liar, c.followers[0].URL()}))
				outcomes <- outcome{name, truth(t, within(t, 15*time.Second), c.open(t, []string{liar, liar2}))}
			}
		})
	}
	begin := time.Now()
	go func() {
		for _, place := range slices.Sorted(maps.Keys(places)) {
			for how := range lies {
				jobs <- place + " " + how
			}
		}
		close(jobs)
		wg.Wait()
		close(outcomes)
	}()
	n, noticed := 0, 0
	for o := range outcomes {
		n++
		if o.err != nil {
			noticed++
		}
		if missing[o.name] {
			delete(missing, o.name)
			if o.err == nil {
				t.Errorf("%s: nobody noticed", o.name)
			}
		}
	}
	for m := range missing {
		t.Errorf("%s: there was no such place in any response", m)
	}
	t.Logf("%d alterations, %d were noticed, the others changed nothing that matters; %s", n, noticed, time.Since(begin).Round(time.Second))
}

func TestLyingPrimaryIsNamed(t *testing.T) {
	c := newChain(t, 1)
	lie := func(method, place string) string {
		return between(t, c.validator.URL(), func(m, _ string, response []byte) []byte {
			if m == method {
				return alter(response, place, lies["altered"])
			}
			return response
		})
	}
	for place, code := range map[string]string{
		"commit /result/signed_header/header/app_hash":  light.CodeLying,
		"validators /result/validators/0/pub_key/value": light.CodeLying,
	} {
		f := strings.Fields(place)
		l := c.open(t, []string{lie(f[0], f[1]), c.followers[0].URL()})
		_, err := l.Head(within(t, 20*time.Second))
		if err == nil {
			t.Errorf("%s altered: accepted", place)
			continue
		}
		wantCode(t, err, code)
	}
	// A false signature under a true header: the other endpoint has the true one.
	l := c.open(t, []string{lie("commit", "/result/signed_header/commit/signatures/0/signature"), c.followers[0].URL()})
	if err := truth(t, within(t, 20*time.Second), l); err != nil {
		t.Errorf("signature altered at one endpoint: %v", err)
	}
	// The proof is false at every endpoint.
	f := func(url string) string {
		return between(t, url, func(m, _ string, response []byte) []byte {
			if m == "abci_query" {
				return alter(response, "/result/response/value", lies["altered"])
			}
			return response
		})
	}
	l = c.open(t, []string{f(c.validator.URL()), f(c.followers[0].URL())})
	_, _, _, err := l.Get(within(t, 20*time.Second), "node/1")
	wantCode(t, err, light.CodeProof)
	_, _, err = l.List(within(t, 20*time.Second), "node/")
	wantCode(t, err, light.CodeProof)
	// At one endpoint only: the other one's true answer is taken.
	l = c.open(t, []string{f(c.validator.URL()), c.followers[0].URL()})
	if err := truth(t, within(t, 20*time.Second), l); err != nil {
		t.Errorf("one lying and one honest endpoint: %v", err)
	}
}

// TestFalseOutcomeOfATransactionIsNotBelieved alters the proof of inclusion that
// every endpoint gives.
func TestFalseOutcomeOfATransactionIsNotBelieved(t *testing.T) {
	t.Parallel()
	c := newChain(t, 1)
	tx := forge("k")
	want, err := c.open(t, c.urls()).Submit(within(t, 20*time.Second), tx)
	if err != nil {
		t.Fatal(err)
	}
	alterations := map[string]func(*wire.Inclusion){
		"nothing": func(*wire.Inclusion) {},
		"height":  func(in *wire.Inclusion) { in.Height-- },
		"far":     func(in *wire.Inclusion) { in.Height += 1 << 40 },
		"total":   func(in *wire.Inclusion) { in.Total++ },
		"code":    func(in *wire.Inclusion) { in.Code = wire.CodeRefused },
		"outcome": func(in *wire.Inclusion) { in.Outcome[len(in.Outcome)-1] ^= 1 },
		"path":    func(in *wire.Inclusion) { in.TxPath = append(in.TxPath, make([]byte, 32)) },
	}
	for name, f := range alterations {
		lie := func(m, path string, response []byte) []byte {
			if m != "abci_query" || path != wire.PathTx {
				return response
			}
			return alter(response, "/result/response/value", func(v any) any {
				s, _ := v.(string)
				b, err := base64.StdEncoding.DecodeString(s)
				var in wire.Inclusion
				if err != nil || canon.Unmarshal(b, &in) != nil {
					return v
				}
				f(&in)
				if b, err = canon.Marshal(in); err != nil {
					return v
				}
				return base64.StdEncoding.EncodeToString(b)
			})
		}
		l := c.open(t, []string{between(t, c.validator.URL(), lie), between(t, c.followers[0].URL(), lie)})
		d := 2 * time.Second
		if name == "nothing" {
			d = 20 * time.Second
		}
		res, err := l.Submit(within(t, d), tx)
		switch {
		case name == "nothing" && (err != nil || res.Height != want.Height || string(res.Data) != string(want.Data)):
			t.Errorf("control: %+v, %v; want %+v", res, err, want)
		case name != "nothing" && err == nil:
			t.Errorf("%s altered: accepted %+v, true is %+v", name, res, want)
		case name != "nothing":
			wantCode(t, err, light.CodeProof, light.CodeUnreachable)
		}
	}
}
