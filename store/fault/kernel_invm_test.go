//go:build invm

package fault_test

import (
	"os"
	"testing"

	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/storetest"
)

func TestVerityKeepsWhatWasChangedBelowFromBeingServed(t *testing.T) {
	must(t, storetest.CheckVerity(t.Context(), t.TempDir(), t.TempDir(), func(step string) { t.Log(step) }))
}

func TestVerityIsRequiredOfLazyMounts(t *testing.T) {
	tr := tree(t, map[string]string{"f": "f", "g": "g"})
	hub := newHub(t, tr)
	n := newNode(t, store.Options{RequireVerity: true}, store.FetchOptions{Hubs: []string{hub.URL}})
	at := n.mount(tr, "m")
	all, err := store.Mounts(n.root)
	must(t, err)
	if len(all) != 1 || !all[0].Verity {
		t.Fatalf("%+v", all)
	}
	// An object that somebody put there without fs-verity is fetched again, not used.
	path := n.store.ObjectPath(tr.File("f").Digest)
	must(t, os.MkdirAll(path[:len(path)-63], 0o755))
	must(t, os.WriteFile(path, []byte("f"), 0o444))
	n.want(at+"/f", "f")
	if hub.Asked("/objects/") != 1 {
		t.Fatal("an object without fs-verity was used")
	}
}
