package engine

import (
	"errors"
	"testing"

	dbm "github.com/cometbft/cometbft-db"
)

func TestAClosedDatabaseIsEmptyAndNoPanic(t *testing.T) {
	inner, err := dbm.NewGoLevelDB("x", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := &lingerDB{DB: inner}
	if err := d.SetSync([]byte("k"), []byte("v")); err != nil {
		t.Fatal(err)
	}
	if v, err := d.Get([]byte("k")); err != nil || string(v) != "v" {
		t.Fatalf("before: %q, %v", v, err)
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := d.Get([]byte("k")); err != nil || v != nil {
		t.Errorf("after: %q, %v", v, err)
	}
	if ok, err := d.Has([]byte("k")); err != nil || ok {
		t.Errorf("after: %v, %v", ok, err)
	}
	for name, err := range map[string]error{"Set": d.Set([]byte("k"), []byte("w")), "SetSync": d.SetSync([]byte("k"), []byte("w")),
		"Delete": d.Delete([]byte("k")), "DeleteSync": d.DeleteSync([]byte("k"))} {
		if !errors.Is(err, errClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
