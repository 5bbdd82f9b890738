package rollout

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

func slot(n int) canon.Hash { return canon.Sum([]byte{byte(n)}) }

// w writes a workload as "name@slot/set<after,after".
func w(text string) plan.Workload {
	out := plan.Workload{After: []string{}}
	text, after, _ := strings.Cut(text, "<")
	if after != "" {
		out.After = strings.Split(after, ",")
	}
	text, out.Set, _ = strings.Cut(text, "/")
	n := 0
	name, at, _ := strings.Cut(text, "@")
	fmt.Sscan(at, &n)
	out.Name, out.Slot = name, slot(n)
	return out
}

func planOf(u plan.Update, workloads ...string) *plan.Plan {
	p := &plan.Plan{Update: u}
	for _, text := range workloads {
		p.Workloads = append(p.Workloads, w(text))
	}
	slices.SortFunc(p.Workloads, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
	return p
}

func rolling(most uint64) plan.Update {
	return plan.Update{Strategy: plan.UpdateRolling, MaxUnavailable: most, Deadline: 60, Return: true}
}

var (
	newReady = View{Version: 2, Ready: true}
	newAway  = View{Version: 2}
	oldReady = View{Version: 1, Ready: true}
	oldAway  = View{Version: 1}
	returned = View{Version: 1, Ready: true, Returned: 2, Why: "it fell"}
)

// show writes steps as "name:version", with "!" where it may start, "<" and what it
// waits for, and "R" where it returned.
func show(steps []Step) string {
	var out []string
	for _, s := range steps {
		text := fmt.Sprintf("%s:%d", s.Name, s.Run)
		if s.Start {
			text += "!"
		}
		if len(s.Waiting) > 0 {
			text += "<" + strings.Join(s.Waiting, ",")
		}
		if s.Returned {
			text += "R"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

func TestWhoseTurnItIs(t *testing.T) {
	set := []string{"a@1/s", "b@2/s", "c@3/s"}
	type views = map[string]View
	begun := func(at int64) Memory { return Memory{Version: 2, Base: 1, Begun: []Begun{{Name: "b", Time: at}}} }
	for _, test := range []struct {
		name        string
		update      plan.Update
		base, next  []string
		here, there views
		memory      Memory
		now         int64
		want        string
	}{
		{"the first version starts at once", rolling(1), nil, set, nil, nil, Memory{}, 0, "b:2!"},
		{"what comes after waits", rolling(1), nil, []string{"a@1", "b@2<a"}, nil, nil, Memory{}, 0, "b:2<a"},
		{"what comes after one that runs and is not ready waits", rolling(1), nil, []string{"a@1", "b@2<a"}, nil, views{"a": newAway}, Memory{}, 0, "b:2<a"},
		{"what comes after one that is ready starts", rolling(1), nil, []string{"a@1", "b@2<a"}, nil, views{"a": newReady}, Memory{}, 0, "b:2!"},
		{"ready in the old version is not enough", rolling(1), []string{"a@1", "b@2<a"}, []string{"a@1", "b@2<a"}, views{"b": oldReady}, views{"a": oldReady}, Memory{}, 0, "b:1!<a"},
		{"a node sees its own", rolling(1), nil, []string{"a@2", "b@2<a"}, views{"a": newReady}, views{"a": newAway}, Memory{}, 0, "a:2! b:2!"},
		{"the second waits for the first", rolling(1), set, set, views{"b": oldReady}, views{"a": oldReady, "c": oldReady}, Memory{}, 0, "b:1!<a"},
		{"and while it is away", rolling(1), set, set, views{"b": oldReady}, views{"a": newAway, "c": oldReady}, Memory{}, 0, "b:1!<a"},
		{"its turn comes when that is ready", rolling(1), set, set, views{"b": oldReady}, views{"a": newReady}, Memory{}, 0, "b:2!"},
		{"two may be away", rolling(2), set, set, views{"b": oldReady}, views{"a": newAway}, Memory{}, 0, "b:2!"},
		{"replace waits for nobody", plan.DefaultUpdate(), set, set, views{"b": oldReady}, views{"a": oldReady}, Memory{}, 0, "b:2!"},
		{"one in no set waits for nobody", rolling(1), []string{"a@1", "b@2"}, []string{"a@1", "b@2"}, views{"b": oldReady}, nil, Memory{}, 0, "b:2!"},
		{"a new replica waits for nobody", rolling(1), []string{"a@1/s"}, set, nil, views{"a": oldReady}, Memory{}, 0, "b:2!"},
		{"what is in the plan no more goes", rolling(1), set, []string{"a@1/s"}, views{"b": oldReady}, nil, Memory{}, 0, "b:0"},
		{"what moved away stays until its turn", rolling(1), set, []string{"a@1/s", "b@3/s"}, views{"b": oldReady}, nil, Memory{}, 0, "b:1!<a"},
		{"and goes then", rolling(1), set, []string{"a@1/s", "b@3/s"}, views{"b": oldReady}, views{"a": newReady}, Memory{}, 0, "b:0"},
		{"what moved here waits for its turn", rolling(1), []string{"a@1/s", "b@3/s"}, set, nil, nil, Memory{}, 0, "b:2<a"},
		{"a turn is not taken back", rolling(1), set, set, views{"b": newAway}, views{"a": newAway}, begun(0), 5, "b:2!"},
		{"after a reboot the old one runs until its turn", rolling(1), set, set, nil, nil, Memory{}, 0, "b:1!<a"},
		{"one still older is left alone", rolling(1), set, set, views{"b": {Version: 7, Ready: true}}, nil, Memory{}, 0, "b:1<a"},
		{"and replaced if it is not well", rolling(1), set, set, views{"b": {Version: 7}}, nil, Memory{}, 0, "b:1!<a"},
		{"a node without memory finds its word on the ledger", rolling(1), set, set, nil, views{"b": newReady}, Memory{}, 0, "b:2!"},

		{"one that ends fails the update", rolling(1), set, set, views{"b": {Version: 2, Over: true}}, nil, begun(0), 5, "b:1!R"},
		{"one that isn't ready in time fails it", rolling(1), set, set, views{"b": newAway}, nil, begun(0), 60, "b:1!R"},
		{"in time it does not", rolling(1), set, set, views{"b": newAway}, nil, begun(0), 59, "b:2!"},
		{"without leave to return it stays", plan.Update{Strategy: plan.UpdateRolling, MaxUnavailable: 1, Deadline: 60}, set, set, views{"b": newAway}, nil, begun(0), 99, "b:2!"},
		{"without a version before it stays", rolling(1), nil, set, views{"b": newAway}, nil, begun(0), 99, "b:2!"},
		{"what was ready fails no update", rolling(1), set, set, views{"b": newAway}, nil, Memory{Version: 2, Base: 1, Begun: []Begun{{Name: "b", Ready: true}}}, 99, "b:2!"},
		{"another's return is everyone's", rolling(1), set, set, views{"b": oldReady}, views{"c": returned}, Memory{}, 0, "b:1!R"},
		{"one that is well waits for one that is not", rolling(1), set, set, views{"b": newReady}, views{"a": returned, "c": {Returned: 2}}, Memory{}, 0, "b:2<c"},
		{"one that is well goes back in its turn", rolling(1), set, set, views{"b": newReady}, views{"a": newReady, "c": returned}, Memory{}, 0, "b:2<a"},
		{"which comes", rolling(1), set, set, views{"b": newReady}, views{"a": returned, "c": returned}, Memory{}, 0, "b:1!R"},
		{"or when the deadline has passed", rolling(1), set, set, views{"b": newReady}, views{"a": newReady, "c": returned}, Memory{Version: 2, Base: 1, Returned: true}, 60, "b:1!R"},
		{"one that is not well goes back at once", rolling(1), set, set, views{"b": newAway}, views{"a": newReady, "c": returned}, begun(0), 1, "b:1!R"},
		{"what the update made goes", rolling(1), []string{"a@1/s"}, set, views{"b": newReady}, views{"a": returned}, Memory{}, 0, "b:0R"},
		{"a return of another version is old news", rolling(1), set, set, views{"b": oldReady}, views{"c": {Version: 1, Ready: true, Returned: 1}}, Memory{}, 0, "b:1!<a"},
		{"the memory of another version too", rolling(1), set, set, views{"b": oldReady}, nil, Memory{Version: 1, Returned: true}, 0, "b:1!<a"},
	} {
		c := Case{Slot: slot(2), Version: 2, Plan: planOf(test.update, test.next...), Here: test.here, There: test.there, Memory: test.memory, Now: test.now}
		if test.base != nil {
			c.Base, c.BasePlan = 1, planOf(test.update, test.base...)
		}
		steps, _ := Decide(c)
		if got := show(steps); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestAReturnIsNotForgotten(t *testing.T) {
	set := []string{"a@1/s", "b@2/s"}
	c := Case{Slot: slot(2), Version: 2, Plan: planOf(rolling(1), set...), Base: 1, BasePlan: planOf(rolling(1), set...),
		Here: map[string]View{"b": oldReady}, There: map[string]View{"a": returned}}
	_, m := Decide(c)
	if !m.Returned || m.Why != "it fell" {
		t.Fatalf("remembered %+v", m)
	}
	c.Memory, c.There = m, map[string]View{"a": newReady} // an old receipt
	if steps, _ := Decide(c); show(steps) != "b:1!R" {
		t.Fatalf("with an old receipt it does %s", show(steps))
	}
	c.Memory = Memory{}
	c.Here, c.There = nil, map[string]View{"b": {Version: 1, Returned: 2}, "a": newReady}
	if steps, _ := Decide(c); show(steps) != "b:1!R" {
		t.Fatalf("without memory, but with its own word, it does %s", show(steps))
	}
}

func TestAGatewayStaysInTheNewVersion(t *testing.T) {
	base, next := planOf(rolling(1), "a@1", "d@2", "g@2"), planOf(rolling(1), "a@1", "g@2")
	for _, p := range []*plan.Plan{base, next} {
		for i := range p.Workloads {
			if name := p.Workloads[i].Name; name == "g" {
				p.Workloads[i].Kind = plan.KindGateway
			} else if name == "d" {
				p.Workloads[i].Kind = plan.KindDevice
			}
		}
	}
	c := Case{Slot: slot(2), Version: 2, Plan: next, Base: 1, BasePlan: base, There: map[string]View{"a": returned}, Here: map[string]View{"g": newReady}}
	if steps, _ := Decide(c); show(steps) != "d:0 g:2!" {
		t.Fatalf("it does %s", show(steps))
	}
}

func TestAnUpdateIsOverWhenAllAreReady(t *testing.T) {
	set := []string{"a@1/s", "b@2/s"}
	c := Case{Slot: slot(2), Version: 2, Plan: planOf(rolling(1), set...), Base: 1, BasePlan: planOf(rolling(1), set...)}
	for _, test := range []struct {
		here, there View
		returned    bool
		want        bool
	}{
		{newReady, newReady, false, true}, {newReady, newAway, false, false}, {newReady, oldReady, false, false}, {oldReady, newReady, false, false},
		{oldReady, returned, true, true}, {oldReady, newReady, true, false}, {newReady, returned, true, false}, {oldAway, returned, true, false},
	} {
		c.Here, c.There, c.Memory = map[string]View{"b": test.here}, map[string]View{"a": test.there}, Memory{Version: 2, Base: 1, Returned: test.returned}
		if got := Done(c); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

func TestTheOrderOfASetFollowsWhatItComesAfter(t *testing.T) {
	p := planOf(rolling(1), "a@1/s<m", "b@2/s", "c@3/s", "m@1<b")
	if got := fmt.Sprint(order(p, "s")); got != "[b c a]" {
		t.Fatalf("order %s", got)
	}
}

// A version that asks for little, and never gets ready, must not keep what the one
// before had: the ledger has promised that to others.
func TestWhatOthersWerePromisedIsGivenUp(t *testing.T) {
	set := []string{"a@1/s", "b@2/s", "c@2/s", "d@2/s"}
	base, next := planOf(rolling(1), set...), planOf(rolling(1), set[:3]...)
	for i := range base.Workloads {
		base.Workloads[i].Resources = plan.Resources{CPU: 4000, Memory: 8 << 30, Disk: 1 << 30}
	}
	for i := range next.Workloads {
		next.Workloads[i].Resources = plan.Resources{CPU: 4000, Memory: 8 << 30, Disk: 1 << 30}
	}
	next.Workloads[1].Resources.Memory = 1 << 30 // b
	if got, want := Excess(next, base, slot(2)), (plan.Resources{CPU: 4000, Memory: 15 << 30, Disk: 1 << 30}); got != want {
		t.Errorf("excess %+v, want %+v", got, want)
	}
	if got := Excess(next, nil, slot(2)); got != (plan.Resources{}) {
		t.Errorf("excess of nothing: %+v", got)
	}
	back := Memory{Version: 2, Base: 1, Returned: true}
	for _, test := range []struct {
		name    string
		crowded bool
		memory  Memory
		want    string
	}{
		{"with room they wait for their turn", false, Memory{}, "b:1!<a c:1!<a,b d:0"},
		{"without it only what holds no more does", true, Memory{}, "b:2! c:1!<a,b d:0"},
		{"with room they go back", false, back, "b:1!R c:1!R d:1!R"},
		{"without it only what holds no more does, back", true, back, "b:2! c:1!R d:0"},
	} {
		c := Case{
			Slot: slot(2), Version: 2, Plan: next, Base: 1, BasePlan: base, Memory: test.memory, Crowded: test.crowded,
			Here: map[string]View{"b": oldReady, "c": oldReady, "d": oldReady}, There: map[string]View{"a": newAway},
		}
		for range 2 { // it comes to the same again
			steps, m := Decide(c)
			if got := show(steps); got != test.want {
				t.Errorf("%s: %s, want %s", test.name, got, test.want)
			}
			if test.memory.Returned {
				c.Memory = m
			}
		}
	}
}
