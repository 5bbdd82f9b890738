package firststage

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// farmGrid is a grid with one farm, to make archives and releases of.
type farmGrid struct {
	t       testing.TB
	genesis []byte
	id      canon.Hash
	farmer  sign.Signer
	release []sign.Signer // 2 of these 3
	farm    contract.Signed
}

func newFarmGrid(t testing.TB) *farmGrid {
	t.Helper()
	g := &farmGrid{t: t, farmer: newKey(t)}
	genesis := contract.Genesis{
		V: contract.Version, Kind: contract.KindGenesis, Name: "test", Created: 1700000000,
		Nonce:            []byte("0123456789abcdef"),
		Validators:       []contract.Validator{{Name: "v1", Key: make([]byte, 32), Power: 1}},
		ReleaseThreshold: 2,
	}
	for range 3 {
		k := newKey(t)
		g.release = append(g.release, k)
		genesis.ReleaseKeys = append(genesis.ReleaseKeys, k.Public())
	}
	var err error
	if g.genesis, err = contract.EncodeGenesis(genesis); err != nil {
		t.Fatal(err)
	}
	g.id = canon.Sum(g.genesis)
	g.farm = g.sign(contract.Farm{Header: g.head(contract.KindFarm), Name: "farm", Key: g.farmer.Public()}, contract.KindFarm, g.farmer)
	return g
}

func newKey(t testing.TB) sign.Signer {
	t.Helper()
	_, s, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (g *farmGrid) head(kind string) contract.Header {
	return contract.Header{V: contract.Version, Kind: kind, Grid: g.id}
}

func (g *farmGrid) sign(s contract.Statement, kind string, signers ...sign.Signer) contract.Signed {
	g.t.Helper()
	signed, err := contract.Sign(context.Background(), s, kind, signers...)
	if err != nil {
		g.t.Fatal(err)
	}
	return signed
}

func (g *farmGrid) slot(farm canon.Hash, signers ...sign.Signer) contract.Signed {
	return g.sign(contract.Slot{Header: g.head(contract.KindSlot), Farm: farm, Name: "n1", Hint: "mac:52:54:00:00:00:01", Identity: "disk"}, contract.KindSlot, signers...)
}

func (g *farmGrid) archive(farm contract.Signed, slots ...contract.Signed) []byte {
	g.t.Helper()
	b, err := canon.Marshal(boot.Archive{V: contract.Version, Genesis: g.genesis, Farm: farm, Slots: slots, ReleaseFloor: 1, Built: 1700000000})
	if err != nil {
		g.t.Fatal(err)
	}
	return b
}

func TestArchiveIsBelievedOnlyAsSignedByItsFarm(t *testing.T) {
	g := newFarmGrid(t)
	good := g.archive(g.farm, g.slot(g.farm.ID(), g.farmer))
	opened, err := OpenArchive(good)
	if err != nil {
		t.Fatal(err)
	}
	if opened.ID != g.id || opened.FarmID != g.farm.ID() || len(opened.Slots) != 1 || opened.Slots[0].Name != "n1" {
		t.Errorf("opened %+v", opened)
	}
	other := newFarmGrid(t)
	stranger := newKey(t)
	broken := g.slot(g.farm.ID(), g.farmer)
	broken.Signatures[0].Sig = slices.Clone(broken.Signatures[0].Sig)
	broken.Signatures[0].Sig[len(broken.Signatures[0].Sig)-1] ^= 1
	for name, b := range map[string][]byte{
		"nothing":                       nil,
		"not CBOR":                      []byte("hello"),
		"cut off":                       good[:len(good)-1],
		"longer":                        append(slices.Clone(good), 0),
		"slot signed by a stranger":     g.archive(g.farm, g.slot(g.farm.ID(), stranger)),
		"slot signed by both":           g.archive(g.farm, g.slot(g.farm.ID(), g.farmer, stranger)),
		"slot not signed":               g.archive(g.farm, g.slot(g.farm.ID())),
		"slot of another farm":          g.archive(g.farm, g.slot(canon.Sum([]byte("x")), g.farmer)),
		"slot of another grid":          g.archive(g.farm, other.slot(g.farm.ID(), g.farmer)),
		"slot with a broken signature":  g.archive(g.farm, broken),
		"farm signed by a stranger":     g.archive(g.sign(contract.Farm{Header: g.head(contract.KindFarm), Name: "farm", Key: g.farmer.Public()}, contract.KindFarm, stranger)),
		"farm of another grid":          g.archive(other.farm),
		"a slot where the farm belongs": g.archive(g.slot(g.farm.ID(), g.farmer)),
	} {
		if _, err := OpenArchive(b); problem.Code(err) == "" {
			t.Errorf("%s: error %v, want one with a code", name, err)
		}
	}
}

func FuzzOpenArchive(f *testing.F) {
	g := newFarmGrid(f)
	f.Add(g.archive(g.farm, g.slot(g.farm.ID(), g.farmer)))
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := OpenArchive(b); err == nil && got.ID != canon.Sum(got.Genesis) {
			t.Error("the grid's id is not the hash of its genesis")
		}
	})
}

func (g *farmGrid) offer(from string, r contract.Release, signers ...sign.Signer) Offer {
	g.t.Helper()
	if len(signers) == 0 {
		signers = g.release[:2]
	}
	s, err := boot.SignRelease(context.Background(), r, g.genesis, signers...)
	if err != nil {
		g.t.Fatal(err)
	}
	b, err := s.Encode()
	if err != nil {
		g.t.Fatal(err)
	}
	return Offer{From: from, Signed: b}
}

func TestNewestAcceptableReleaseComesFirst(t *testing.T) {
	g := newFarmGrid(t)
	grid := Grid{ID: g.id, Archive: boot.Archive{Genesis: g.genesis}}
	rel := func(sequence, expiry uint64) contract.Release {
		return contract.Release{Sequence: sequence, Name: "r", OS: canon.Sum([]byte{byte(sequence)}), Expiry: expiry}
	}
	tampered := g.offer("liar", rel(9, 2000))
	tampered.Signed = slices.Clone(tampered.Signed)
	tampered.Signed[60] ^= 1
	offers := []Offer{
		g.offer("a", rel(4, 2000)),
		g.offer("b", rel(6, 2000)),
		g.offer("c", rel(6, 2000)), // the same once more
		g.offer("expired", rel(8, 999)),
		g.offer("old", rel(2, 2000)),
		g.offer("one key", rel(7, 2000), g.release[0]),
		g.offer("strangers", rel(7, 2000), newKey(t), newKey(t)),
		tampered,
		{From: "nonsense", Signed: []byte("<html>")},
		g.offer("disk", rel(5, 2000)),
	}
	accepted, refused := AcceptReleases(offers, grid, 1000, 3)
	var got []string
	for _, a := range accepted {
		got = append(got, a.From)
	}
	if want := []string{"b", "disk", "a"}; !slices.Equal(got, want) {
		t.Errorf("accepted from %q, want %q", got, want)
	}
	for _, from := range []string{"expired", "old", "one key", "strangers", "liar", "nonsense"} {
		if refused == nil || !strings.Contains(refused.Error(), "release from "+from+": ") {
			t.Errorf("nothing is said of %q: %v", from, refused)
		}
	}
}

func TestHubsAreAskedTogetherAndBounded(t *testing.T) {
	id := canon.Sum([]byte("grid"))
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	good := serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/releases/"+id.String()+"/latest" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte("release"))
	})
	endless := serve(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	offers, err := fetchReleases(ctx, &http.Client{}, []string{"http://127.0.0.1:1", endless, good + "/", serve(http.NotFound)}, id)
	if len(offers) != 1 || string(offers[0].Signed) != "release" {
		t.Errorf("offers %+v", offers)
	}
	if err == nil || !strings.Contains(err.Error(), "longer than") || !strings.Contains(err.Error(), "404") || problem.Code(err) != "hub-unreachable" {
		t.Errorf("error is %v", err)
	}
}
