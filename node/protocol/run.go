package protocol

import (
	"fmt"
	"path"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// Limits of what people ask of a running workload. A client keeps below them, a
// node refuses more.
const (
	MaxName     = 63      // bytes of a workload's name
	MaxExecArgs = 128     // arguments, and variables
	MaxExecText = 6 << 10 // bytes of all arguments, variables and the directory: they travel in a request's parameters
	MaxPath     = 1024    // bytes of a path inside a workload
	MaxWindow   = 1 << 16 // rows or columns of a terminal
	MaxSignal   = 64
	// MaxData bounds the bytes of one frame, so that it fits one message of the bus.
	MaxData = 60 << 10
)

// ExecParams run a program inside the workload that the request names; likewise
// below. Frames follow both ways.
type ExecParams struct {
	Args    []string `cbor:"args"`    // at least one
	Env     []string `cbor:"env"`     // NAME=value, beside the workload's own
	WorkDir string   `cbor:"workdir"` // absolute, inside the workload; "": the workload's own
	User    *User    `cbor:"user"`    // nil: the workload's own
	TTY     bool     `cbor:"tty"`
	Rows    uint64   `cbor:"rows"` // of the terminal; 0 without
	Cols    uint64   `cbor:"cols"`
}

// User is who a program runs as, inside a workload.
type User struct {
	UID uint32 `cbor:"uid"`
	GID uint32 `cbor:"gid"`
}

// ConsoleParams attach to the serial console of a machine. Frames follow both ways.
type ConsoleParams struct {
	Rows uint64 `cbor:"rows"`
	Cols uint64 `cbor:"cols"`
}

// FilesParams copy files out of a workload, as a tar stream in FrameStdout, or into
// it, from one in FrameStdin that FrameClose ends. FrameExit 0 says that all was
// copied.
type FilesParams struct {
	Path string `cbor:"path"` // absolute and plain, inside the workload
}

// What an UpFrame is.
const (
	FrameStdin  = "stdin"  // Data for the program
	FrameResize = "resize" // of the terminal: Rows and Cols
	FrameSignal = "signal" // Signal for the program
	FrameClose  = "close"  // nothing comes any more for the program to read
)

// UpFrame goes from a person to a workload. Only the fields of its kind are set.
type UpFrame struct {
	Kind   string `cbor:"kind"`
	Data   []byte `cbor:"data"` // at most MaxData
	Rows   uint64 `cbor:"rows"`
	Cols   uint64 `cbor:"cols"`
	Signal uint64 `cbor:"signal"`
}

// What a DownFrame is.
const (
	FrameStdout = "stdout" // Data; of a terminal, both streams
	FrameStderr = "stderr"
	FrameExit   = "exit" // the last one: Code, and Detail if it could not run
)

// DownFrame comes from a workload. Only the fields of its kind are set.
type DownFrame struct {
	Kind string `cbor:"kind"`
	Data []byte `cbor:"data"` // at most MaxData
	// Code is how the program ended: its exit code, or 128 and the signal's number.
	Code   int64  `cbor:"code"`
	Detail string `cbor:"detail"` // one line, at most MaxText bytes
}

// RestartParams end a workload gracefully and start it again, whatever its restart
// policy says. The answer comes when it has been told to, not when it runs again.
type RestartParams struct {
	Grace uint64 `cbor:"grace"` // milliseconds before it is killed; 0: as the plan says
}

// SignalParams send one signal to the first process of a workload.
type SignalParams struct {
	Signal uint64 `cbor:"signal"` // 1 to MaxSignal
}

// Done answers what has no other answer: RestartParams and SignalParams.
type Done struct{}

// DecodeExecParams reads and checks the parameters of a program to run;
// "request-invalid", likewise below.
func DecodeExecParams(b []byte) (ExecParams, error) { return params(b, ExecParams.check) }

// DecodeConsoleParams reads and checks the parameters of a console.
func DecodeConsoleParams(b []byte) (ConsoleParams, error) { return params(b, ConsoleParams.check) }

// DecodeFilesParams reads and checks the parameters of a copy.
func DecodeFilesParams(b []byte) (FilesParams, error) { return params(b, FilesParams.check) }

// DecodeRestartParams reads and checks the parameters of a restart.
func DecodeRestartParams(b []byte) (RestartParams, error) { return params(b, RestartParams.check) }

// DecodeSignalParams reads and checks the parameters of a signal.
func DecodeSignalParams(b []byte) (SignalParams, error) { return params(b, SignalParams.check) }

// DecodeUpFrame reads and checks a frame of a person's.
func DecodeUpFrame(b []byte) (UpFrame, error) { return params(b, UpFrame.check) }

// DecodeDownFrame reads and checks a frame of a node, which may lie; "reply-invalid".
func DecodeDownFrame(b []byte) (DownFrame, error) { return reply(b, DownFrame.check) }

// maxEncoded bounds what is decoded here: a frame full of data and what is around it.
const maxEncoded = MaxData + 4<<10

func params[T any](b []byte, check func(T) error) (T, error) {
	return decode(b, "request-invalid", "read the parameters", check)
}

func reply[T any](b []byte, check func(T) error) (T, error) {
	return decode(b, "reply-invalid", "read the node's answer", check)
}

func decode[T any](b []byte, code, what string, check func(T) error) (v T, err error) {
	if err = canon.UnmarshalLimit(b, max(maxEncoded, MaxReport), &v); err == nil {
		err = check(v)
	}
	if err != nil {
		var none T
		return none, problem.New(code, "%s: %w", what, err)
	}
	return v, nil
}

func (p ExecParams) check() error {
	size := len(p.WorkDir)
	for _, text := range append(append([]string{}, p.Args...), p.Env...) {
		if size += len(text); strings.ContainsRune(text, 0) {
			return fmt.Errorf("an argument or a variable holds a zero byte")
		}
	}
	for _, v := range p.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return fmt.Errorf("variable %.40q is not NAME=value", v)
		}
	}
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return fmt.Errorf("no program is named")
	case len(p.Args) > MaxExecArgs || len(p.Env) > MaxExecArgs:
		return fmt.Errorf("%d arguments and %d variables, at most %d each are allowed", len(p.Args), len(p.Env), MaxExecArgs)
	case size > MaxExecText:
		return fmt.Errorf("arguments and variables have %d bytes, at most %d are allowed", size, MaxExecText)
	case !p.TTY && (p.Rows != 0 || p.Cols != 0):
		return fmt.Errorf("a window size without a terminal")
	}
	if p.WorkDir != "" {
		if err := plainPath(p.WorkDir); err != nil {
			return err
		}
	}
	return window(p.Rows, p.Cols)
}

func (p ConsoleParams) check() error { return window(p.Rows, p.Cols) }
func (p FilesParams) check() error   { return plainPath(p.Path) }
func (p SignalParams) check() error  { return signal(p.Signal) }

func (p RestartParams) check() error {
	if p.Grace > plan.MaxGrace*1000 {
		return fmt.Errorf("a grace of %d ms, at most %d are allowed", p.Grace, plan.MaxGrace*1000)
	}
	return nil
}

func (f UpFrame) check() error {
	want := UpFrame{Kind: f.Kind}
	var err error
	switch f.Kind {
	case FrameStdin:
		want.Data, err = f.Data, data(f.Data)
	case FrameResize:
		want.Rows, want.Cols, err = f.Rows, f.Cols, window(f.Rows, f.Cols)
	case FrameSignal:
		want.Signal, err = f.Signal, signal(f.Signal)
	case FrameClose:
	default:
		return fmt.Errorf("a frame of kind %.20q", f.Kind)
	}
	if err == nil && (len(want.Data) != len(f.Data) || want.Rows != f.Rows || want.Cols != f.Cols || want.Signal != f.Signal) {
		err = fmt.Errorf("a frame of kind %s has what others have", f.Kind)
	}
	return err
}

func (f DownFrame) check() error {
	switch f.Kind {
	case FrameStdout, FrameStderr:
		if f.Code != 0 || f.Detail != "" {
			return fmt.Errorf("a frame of kind %s with an exit", f.Kind)
		}
		return data(f.Data)
	case FrameExit:
		if len(f.Data) != 0 || len(f.Detail) > MaxText || f.Code < -1 || f.Code > 255 {
			return fmt.Errorf("an exit with code %d, %d bytes of text and %d of data", f.Code, len(f.Detail), len(f.Data))
		}
		return nil
	}
	return fmt.Errorf("a frame of kind %.20q", f.Kind)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func name(s string) error {
	bad := func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' }
	if s == "" || len(s) > MaxName || strings.ContainsFunc(s, bad) {
		return fmt.Errorf("workload %.80q: want [a-z0-9-], 1 to %d characters", s, MaxName)
	}
	return nil
}

func plainPath(s string) error {
	if !path.IsAbs(s) || path.Clean(s) != s || len(s) > MaxPath || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%.80q is not an absolute, plain path of at most %d bytes", s, MaxPath)
	}
	return nil
}

func window(rows, cols uint64) error {
	if rows >= MaxWindow || cols >= MaxWindow {
		return fmt.Errorf("a terminal of %d rows and %d columns", rows, cols)
	}
	return nil
}

func signal(n uint64) error {
	if n < 1 || n > MaxSignal {
		return fmt.Errorf("signal %d, want 1 to %d", n, MaxSignal)
	}
	return nil
}

func data(b []byte) error {
	if len(b) > MaxData {
		return fmt.Errorf("a frame of %d bytes, at most %d are allowed", len(b), MaxData)
	}
	return nil
}
