package life

import (
	"reflect"
	"testing"
	"time"

	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/shim"
)

func TestPlansLiveAsTheySay(t *testing.T) {
	l := plan.DefaultLife()
	l.Restart, l.Attempts, l.Deadline, l.Signal, l.Grace = plan.RestartOnFailure, 5, 600, 2, 30
	l.Health = &plan.Health{Kind: plan.CheckHTTP, Port: 8080, Path: "/healthz", Interval: 10_000, Timeout: 2000, Retries: 3, Start: 30_000}
	want := shim.Life{
		Restart: "on-failure", Attempts: 5, Deadline: 10 * time.Minute, Signal: 2, Grace: 30 * time.Second,
		Health: &shim.Health{Probe: control.Probe{Kind: "http", Port: 8080, Path: "/healthz", Timeout: 2000}, Interval: 10 * time.Second, Retries: 3, Start: 30 * time.Second},
	}
	if got := Of(l); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	// What a plan can hold, a shim's request can: the check is made as it stands.
	if err := (control.Request{Verb: control.VerbProbe, Probe: &want.Health.Probe}).Check(); err != nil {
		t.Error(err)
	}
	for policy := range map[string]bool{plan.RestartAlways: true, plan.RestartOnFailure: true, plan.RestartNever: true} {
		if err := shim.CheckPolicy(policy); err != nil {
			t.Error(err)
		}
	}
	if got := Limits(plan.Resources{CPU: 1, Memory: 2, Disk: 3, PIDs: 4}); got != (control.Limits{CPU: 1, Memory: 2, PIDs: 4}) {
		t.Errorf("%+v", got)
	}
}
