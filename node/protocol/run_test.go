package protocol

import (
	"bytes"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// bodies is a good value of every body that is decoded with bounds.
func bodies() map[string]struct {
	value  any
	decode func([]byte) (any, error)
	code   string
} {
	type entry = struct {
		value  any
		decode func([]byte) (any, error)
		code   string
	}
	const ask, told = "request-invalid", "reply-invalid"
	return map[string]entry{
		"exec":                            {ExecParams{Args: []string{"/bin/sh", "-l"}, Env: []string{"A=b=c"}, WorkDir: "/srv", User: &User{1, 2}, TTY: true, Rows: 24, Cols: 80}, anything(DecodeExecParams), ask},
		"exec of the workload's own user": {ExecParams{Args: []string{"ls"}}, anything(DecodeExecParams), ask},
		"console":                         {ConsoleParams{Rows: 24, Cols: 80}, anything(DecodeConsoleParams), ask},
		"files":                           {FilesParams{Path: "/srv/www"}, anything(DecodeFilesParams), ask},
		"restart":                         {RestartParams{Grace: 500}, anything(DecodeRestartParams), ask},
		"signal":                          {SignalParams{Signal: 1}, anything(DecodeSignalParams), ask},
		"stdin":                           {UpFrame{Kind: FrameStdin, Data: []byte("ls\n")}, anything(DecodeUpFrame), ask},
		"resize":                          {UpFrame{Kind: FrameResize, Rows: 10, Cols: 20}, anything(DecodeUpFrame), ask},
		"a signal":                        {UpFrame{Kind: FrameSignal, Signal: 2}, anything(DecodeUpFrame), ask},
		"close":                           {UpFrame{Kind: FrameClose}, anything(DecodeUpFrame), ask},
		"stdout":                          {DownFrame{Kind: FrameStdout, Data: make([]byte, MaxData)}, anything(DecodeDownFrame), told},
		"stderr":                          {DownFrame{Kind: FrameStderr, Data: []byte("no")}, anything(DecodeDownFrame), told},
		"exit":                            {DownFrame{Kind: FrameExit, Code: 127, Detail: "no such program"}, anything(DecodeDownFrame), told},
		"events":                          {EventsParams{Workload: "web", Since: 5, Follow: true}, anything(DecodeEventsParams), ask},
		"events of all":                   {EventsParams{}, anything(DecodeEventsParams), ask},
		"metrics":                         {MetricsParams{Workload: "web"}, anything(DecodeMetricsParams), ask},
		"an event": {EventChunk{Events: []Event{{Workload: "web", Sequence: 3, Time: 4, Kind: "exec", Who: "SHA256:x", Argv: []string{"ls"}}}},
			anything(DecodeEventChunk), told},
		"stats": {Metrics{Workloads: []Stats{{Name: "web", Kind: "container", State: "running", PressureCPU: 1234}}}, anything(DecodeMetrics), told},
		"node":  {NodeMetrics{CPUs: 2, States: []States{{"failed", 1}, {"running", 3}}}, anything(DecodeNodeMetrics), told},
	}
}

func anything[T any](f func([]byte) (T, error)) func([]byte) (any, error) {
	return func(b []byte) (any, error) { return f(b) }
}

func TestWhatIsAskedOfAWorkloadTravelsWhole(t *testing.T) {
	for what, e := range bodies() {
		b, err := canon.Marshal(e.value)
		if err != nil {
			t.Fatal(err)
		}
		got, err := e.decode(b)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if again, err := canon.Marshal(got); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: %v: %+v", what, err, got)
		}
	}
}

func TestWhatHasNoBoundsIsRefused(t *testing.T) {
	long := strings.Repeat("a", MaxExecText+1)
	for what, v := range map[string]struct {
		value  any
		decode func([]byte) (any, error)
	}{
		"exec of nothing":            {ExecParams{}, anything(DecodeExecParams)},
		"exec of an empty name":      {ExecParams{Args: []string{""}}, anything(DecodeExecParams)},
		"a week of grace":            {RestartParams{Grace: 604800000}, anything(DecodeRestartParams)},
		"events in a path":           {EventsParams{Workload: "../w"}, anything(DecodeEventsParams)},
		"a long argument":            {ExecParams{Args: []string{long}}, anything(DecodeExecParams)},
		"many arguments":             {ExecParams{Args: append([]string{"ls"}, make([]string, MaxExecArgs)...)}, anything(DecodeExecParams)},
		"a zero byte":                {ExecParams{Args: []string{"a\x00b"}}, anything(DecodeExecParams)},
		"a variable without a name":  {ExecParams{Args: []string{"ls"}, Env: []string{"=x"}}, anything(DecodeExecParams)},
		"a relative directory":       {ExecParams{Args: []string{"ls"}, WorkDir: "srv"}, anything(DecodeExecParams)},
		"a window without terminal":  {ExecParams{Args: []string{"ls"}, Rows: 1}, anything(DecodeExecParams)},
		"a huge terminal":            {ConsoleParams{Rows: MaxWindow}, anything(DecodeConsoleParams)},
		"a path upwards":             {FilesParams{Path: "/a/../../etc"}, anything(DecodeFilesParams)},
		"a relative path":            {FilesParams{Path: "etc"}, anything(DecodeFilesParams)},
		"signal 0":                   {SignalParams{}, anything(DecodeSignalParams)},
		"signal 65":                  {SignalParams{Signal: 65}, anything(DecodeSignalParams)},
		"a frame of no kind":         {UpFrame{}, anything(DecodeUpFrame)},
		"a frame of two kinds":       {UpFrame{Kind: FrameStdin, Signal: 1}, anything(DecodeUpFrame)},
		"a close with data":          {UpFrame{Kind: FrameClose, Data: []byte{1}}, anything(DecodeUpFrame)},
		"a long frame":               {UpFrame{Kind: FrameStdin, Data: make([]byte, MaxData+1)}, anything(DecodeUpFrame)},
		"a long answer":              {DownFrame{Kind: FrameStdout, Data: make([]byte, MaxData+1)}, anything(DecodeDownFrame)},
		"an exit of another machine": {DownFrame{Kind: FrameExit, Code: 1 << 40}, anything(DecodeDownFrame)},
		"an answer with an exit":     {DownFrame{Kind: FrameStdout, Code: 1}, anything(DecodeDownFrame)},
		"too many events":            {EventChunk{Events: make([]Event, MaxEvents+1)}, anything(DecodeEventChunk)},
		"a long event":               {EventChunk{Events: []Event{{Workload: "w", Detail: long}}}, anything(DecodeEventChunk)},
		"events before 1970":         {EventsParams{Since: -1}, anything(DecodeEventsParams)},
		"a name with a slash":        {Metrics{Workloads: []Stats{{Name: "a/b"}}}, anything(DecodeMetrics)},
		"a workload twice":           {Metrics{Workloads: []Stats{{Name: "a"}, {Name: "a"}}}, anything(DecodeMetrics)},
		"a state twice":              {NodeMetrics{States: []States{{"a", 1}, {"a", 2}}}, anything(DecodeNodeMetrics)},
	} {
		b, err := canon.Marshal(v.value)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := v.decode(b); problem.Code(err) != "request-invalid" && problem.Code(err) != "reply-invalid" {
			t.Errorf("%s: %v: %+v", what, err, got)
		}
	}
}

func FuzzDecodeBodies(f *testing.F) {
	all := bodies()
	for _, e := range all {
		b, err := canon.Marshal(e.value)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for what, e := range all {
			v, err := e.decode(b)
			if err != nil {
				if problem.Code(err) != e.code {
					t.Errorf("%s: %v", what, err)
				}
				continue
			}
			if again, err := canon.Marshal(v); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%s: %v: %x became %x", what, err, b, again)
			}
		}
	})
}
