package control

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Bounds of a Request, beside MaxRequest.
const (
	maxArgs = 4096
	maxPath = 4096 // bytes
	maxSize = 4096 // rows or columns of a terminal
)

// Check tells whether the request is one that its verb can have. What it lets pass
// holds no zero bytes and only absolute, plain paths.
func (r Request) Check() error {
	var err error
	switch r.Verb {
	case VerbStatus, VerbConsole, VerbReload, VerbClock, VerbRestart, VerbAttach:
	case VerbExec:
		err = r.Exec.check()
	case VerbProbe:
		err = r.Probe.check()
	case VerbGet, VerbPut:
		err = checkPath(r.Path)
	case VerbSignal, VerbStop:
		if r.Signal < 1 || r.Signal > 64 {
			err = fmt.Errorf("signal %d, want 1 to 64", r.Signal)
		}
	case VerbResize:
		if r.Limits == nil {
			err = errors.New("no limits")
		}
	case VerbBoot:
		if r.Boot == nil {
			err = errors.New("nothing to boot")
		}
	default:
		return fmt.Errorf("unknown verb %.40q", r.Verb)
	}
	if err == nil && (r.Grace < 0 || r.Grace > 3_600_000) {
		err = fmt.Errorf("grace of %d ms, want at most an hour", r.Grace)
	}
	if err != nil {
		return fmt.Errorf("request for %s: %w", r.Verb, err)
	}
	return nil
}

func (e *Exec) check() error {
	switch {
	case e == nil || len(e.Args) == 0 || e.Args[0] == "":
		return errors.New("no program")
	case len(e.Args) > maxArgs || len(e.Env) > maxArgs:
		return fmt.Errorf("more than %d arguments or variables", maxArgs)
	case e.WorkDir != "" && checkPath(e.WorkDir) != nil:
		return checkPath(e.WorkDir)
	case e.Rows < 0 || e.Rows > maxSize || e.Cols < 0 || e.Cols > maxSize:
		return fmt.Errorf("terminal of %d by %d", e.Rows, e.Cols)
	case e.User != nil && (e.User.UID > 65535 || e.User.GID > 65535):
		return fmt.Errorf("user %d, group %d: want less than 65536", e.User.UID, e.User.GID)
	}
	for _, s := range e.Args {
		if strings.ContainsRune(s, 0) {
			return errors.New("an argument with a zero byte")
		}
	}
	for _, s := range e.Env {
		if strings.ContainsRune(s, 0) || strings.IndexByte(s, '=') < 1 {
			return fmt.Errorf("variable %.40q: want NAME=value", s)
		}
	}
	return nil
}

func (p *Probe) check() error {
	switch {
	case p == nil:
		return errors.New("no health check")
	case p.Timeout < 1 || p.Timeout > 600_000:
		return fmt.Errorf("timeout of %d ms, want 1 to 600000", p.Timeout)
	case p.Kind == "exec":
		return (&Exec{Args: p.Args}).check()
	case (p.Kind == "tcp" || p.Kind == "http") && p.Port == 0:
		return errors.New("port 0")
	case p.Kind == "http" && (!strings.HasPrefix(p.Path, "/") || strings.ContainsFunc(p.Path, func(c rune) bool { return c <= ' ' || c > '~' })):
		return fmt.Errorf("path %.80q", p.Path)
	case p.Kind != "tcp" && p.Kind != "http":
		return fmt.Errorf("health check by %.40q", p.Kind)
	}
	return nil
}

func checkPath(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || len(p) > maxPath || strings.ContainsRune(p, 0) {
		return fmt.Errorf("%.80q is not an absolute, plain path", p)
	}
	return nil
}
