package contract

import (
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/problem"
)

func (w *world) features(epoch, sequence uint64, classes ...string) Features {
	return NewFeatures(w.grid, Features{Slot: w.slots[0], Epoch: epoch, Sequence: sequence, Isolation: classes, Arch: "amd64", Time: w.now})
}

func TestFeaturesComeFromTheBoundKeyInRisingOrder(t *testing.T) {
	w := newWorld(t)
	slot := w.slots[0]
	w.refused(w.sign(w.features(1, 1), KindFeatures, "one"), "slot-unbound")
	w.bind(slot, 1, "one")
	w.refused(w.sign(w.features(1, 1), KindFeatures), "signature-missing")
	w.refused(w.sign(w.features(1, 1), KindFeatures, "farm"), "signature-missing")
	w.refused(w.sign(w.features(1, 1), KindFeatures, "one", "farm"), "signature-unexpected")
	w.refused(w.sign(w.features(2, 1), KindFeatures, "one"), "stale-epoch")
	w.ok(w.sign(w.features(1, 3, "namespace"), KindFeatures, "one"))
	w.refused(w.sign(w.features(1, 3, "microvm", "namespace"), KindFeatures, "one"), "stale-sequence")
	w.refused(w.sign(w.features(1, 2, "microvm", "namespace"), KindFeatures, "one"), "stale-sequence")
	w.ok(w.sign(w.features(1, 4, "namespace", "microvm"), KindFeatures, "one"))

	read := func() (Features, error) {
		bound := record[BoundRecord](w, KeyBound(slot))
		n, err := JudgeBound(w.grid, slot, w.farm, w.key("farm").Public(), bound)
		if err != nil {
			t.Fatal(err)
		}
		return JudgeFeatures(w.grid, record[FeaturesRecord](w, KeyFeatures(slot)).Signed, n)
	}
	f, err := read()
	if err != nil || !slices.Equal(f.Isolation, []string{"microvm", "namespace"}) || !f.Can("microvm") || f.Can("vm") {
		t.Errorf("features: %+v, %v", f, err)
	}
	if again := w.features(1, 9, "microvm", "namespace"); !f.Same(again) || f.Same(w.features(1, 9, "namespace")) {
		t.Error("what is the same is told by more or less than what the node can do")
	}

	// The machine behind a new key may be another one: what the old one could do
	// counts no more, and the new count begins.
	w.bind(slot, 2, "two")
	if _, err := read(); problem.Code(err) != "stale-epoch" {
		t.Errorf("features of a former epoch: %v", err)
	}
	w.refused(w.sign(w.features(2, 1, "namespace"), KindFeatures, "one"), "signature-missing")
	w.ok(w.sign(w.features(2, 1, "namespace"), KindFeatures, "two"))
	if f, err := read(); err != nil || f.Can("microvm") {
		t.Errorf("features: %+v, %v", f, err)
	}
}

func TestFeaturesOutOfTheirLimitsAreRefused(t *testing.T) {
	w := newWorld(t)
	w.bind(w.slots[0], 1, "one")
	for name, change := range map[string]func(*Features){
		"unknown class":                func(f *Features) { f.Isolation = []string{"jail"} },
		"class twice":                  func(f *Features) { f.Isolation = []string{"microvm", "microvm"} },
		"classes out of order":         func(f *Features) { f.Isolation = []string{"namespace", "microvm"} },
		"no sequence":                  func(f *Features) { f.Sequence = 0 },
		"reason":                       func(f *Features) { f.Reason = "Oops!" },
		"detail that moves the cursor": func(f *Features) { f.Detail = "\x1b[2J" },
		"detail too long":              func(f *Features) { f.Detail = strings.Repeat("x", MaxDetail+1) },
		"no architecture":              func(f *Features) { f.Arch = "" },
	} {
		f := w.features(1, 1, "microvm")
		change(&f)
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.refused(w.sign(f, KindFeatures, "one"), "features-invalid")
		})
	}
	w.t = t
	f := w.features(1, 1)
	f.Detail = NewFeatures(w.grid, Features{Detail: "no\nkvm: " + strings.Repeat("é", MaxDetail)}).Detail
	w.ok(w.sign(f, KindFeatures, "one"))
}
