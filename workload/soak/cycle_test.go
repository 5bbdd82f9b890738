//go:build !invm

package soak

import (
	"testing"

	"github.com/zero-os/zos/spec/plan"
)

func TestASeedIsTheSameRunForEver(t *testing.T) {
	for n := range 200 {
		if a, b := Draw(7, plan.IsolationNamespace, n), Draw(7, plan.IsolationNamespace, n); a != b {
			t.Fatalf("%v, then %v", a, b)
		}
	}
	if Draw(7, plan.IsolationNamespace, 3) == Draw(8, plan.IsolationNamespace, 3) {
		t.Error("another seed gives the same cycle")
	}
	const want = "cycle 0: "
	if got := Draw(1, plan.IsolationNamespace, 0).String(); got[:len(want)] != want {
		t.Errorf("%q", got)
	}
}

// A round has every fault at every moment at which it makes sense, once, and a thousand
// cycles have every program.
func TestEveryFaultStrikesAtEveryMoment(t *testing.T) {
	for _, isolation := range []string{plan.IsolationNamespace, plan.IsolationMicroVM} {
		all := Strikes(isolation)
		seen := map[Strike]int{}
		for n := range all {
			seen[Draw(3, isolation, len(all)+n).Strike]++
		}
		for _, s := range all {
			if seen[s] != 1 {
				t.Errorf("%s: %v comes %d times in a round", isolation, s, seen[s])
			}
		}
	}
	programs, networks := map[Program]int{}, 0
	for n := range 1000 {
		c := Draw(3, plan.IsolationNamespace, n)
		programs[c.Program]++
		if c.Network {
			networks++
		}
		if c.Moment == Ready && c.Health == "" || c.Moment == Waiting && c.Program != Crash {
			t.Errorf("%v never comes to its moment", c)
		}
	}
	for _, p := range []Program{Serve, Stubborn, Crash, Exit, Hog, Fill} {
		if programs[p] < 10 {
			t.Errorf("%s comes %d times", p, programs[p])
		}
	}
	if networks < 100 {
		t.Errorf("%d of 1000 have a network", networks)
	}
}
