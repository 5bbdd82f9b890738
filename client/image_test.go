package client

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// TestATagIsItsPublishersWordAlone plays hubs that answer with something else
// than the publisher's own tag for this image.
func TestATagIsItsPublishersWordAlone(t *testing.T) {
	c := &Client{context: &Context{Genesis: []byte("a grid")}, log: slog.New(slog.DiscardHandler)}
	red, mallory := signer(t), signer(t)
	publisher, digest := canon.Sum([]byte("red")), canon.Sum([]byte("image"))
	account := contract.NewAccount(c.Grid(), "red", red.Public())
	later := uint64(time.Now().Add(time.Hour).Unix())
	tag := func(by sign.Signer, grid canon.Hash, name, tag string, expiry uint64) contract.Signed {
		t.Helper()
		s, err := contract.Sign(t.Context(), contract.NewTag(grid, publisher, name, tag, digest, 1, expiry), contract.KindTag, by)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := tag(red, c.Grid(), "web", "1", later)
	altered := contract.Signed{Statement: append([]byte{}, good.Statement...), Signatures: good.Signatures}
	altered.Statement[len(altered.Statement)-1] ^= 1
	for name, row := range map[string]struct {
		tag  contract.Signed
		code string
	}{
		"the publisher's":    {good, ""},
		"someone else's":     {tag(mallory, c.Grid(), "web", "1", later), "signature-invalid"},
		"of another image":   {tag(red, c.Grid(), "db", "1", later), "signature-invalid"},
		"of another version": {tag(red, c.Grid(), "web", "2", later), "signature-invalid"},
		"of another grid":    {tag(red, canon.Hash{1}, "web", "1", later), "wrong-grid"},
		"expired":            {tag(red, c.Grid(), "web", "1", 1), "tag-expired"},
		"without signature":  {contract.Signed{Statement: good.Statement}, "signature-invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.checkTag(row.tag, account, publisher, "web", "1")
			if problem.Code(err) != row.code || err != nil != (row.code != "") {
				t.Fatalf("got %v, want the code %q", err, row.code)
			}
			if err == nil && got.Digest != digest {
				t.Fatalf("the tag names %s", got.Digest)
			}
		})
	}
	t.Run("altered", func(t *testing.T) {
		if _, err := c.checkTag(altered, account, publisher, "web", "1"); err == nil {
			t.Fatal("an altered tag was accepted")
		}
	})
}

func TestAnUnknownImageSaysHowToPublishIt(t *testing.T) {
	const publish = "publish it with: zos flist build --from DIR --tag red/shop:1"
	for _, c := range []struct {
		known []string
		fix   string
	}{
		{nil, publish},
		{[]string{"red/hello:1"}, "known: red/hello:1; or " + publish},
		{[]string{"red/hello:1", "red/shpo:1"}, "did you mean \"red/shpo:1\"? Or " + publish},
		{strings.Fields(strings.Repeat("red/hello:1 ", 9)), publish},
	} {
		if got := imageFix("red/shop:1", c.known); got != c.fix {
			t.Errorf("of %q: %q, want %q", c.known, got, c.fix)
		}
	}
}

func signer(t *testing.T) sign.Signer {
	t.Helper()
	_, s, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return s
}
