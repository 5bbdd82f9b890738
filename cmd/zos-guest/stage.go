package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/workload/control"
)

// stageArg makes this program the stage of a process.
const stageArg = "enter"

// Descriptors that a stage inherits beside the standard streams.
const (
	orderFD = 3 // the order, in JSON
	faultFD = 4 // what went wrong; closed without a word when the program runs
)

// order is what a stage is told.
type order struct {
	// New is set for the first process of the workload: its root is made. The others
	// are in its namespaces already.
	New *newRoot `json:"new,omitempty"`
	// Args is the program, or Tar what is done in its place.
	Args       []string     `json:"args,omitempty"`
	Tar        *tarJob      `json:"tar,omitempty"`
	Env        []string     `json:"env"`
	WorkDir    string       `json:"workdir"`
	User       control.User `json:"user"`
	NoNewPrivs bool         `json:"no_new_privs"`
	Privileged bool         `json:"privileged"`
	TTY        bool         `json:"tty"` // stdin is the terminal
}

// maxOrder bounds an order, in bytes; it holds no more than a request did.
const maxOrder = 2 * control.MaxRequest

// enter carries an order out. It returns only for a job that is no program.
func enter() {
	runtime.LockOSThread() // rights and namespaces are the thread's
	fault := os.NewFile(faultFD, "fault")
	unix.CloseOnExec(faultFD)
	err := carryOut()
	if err == nil {
		os.Exit(0)
	}
	_, _ = fmt.Fprintf(fault, "%v", err)
	os.Exit(127)
}

func carryOut() error {
	// Between giving up rights and becoming the program, nobody inside may trace this.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("protect the stage: %w", err)
	}
	in := os.NewFile(orderFD, "order")
	b, err := io.ReadAll(io.LimitReader(in, maxOrder))
	if err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	_ = in.Close()
	var o order
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	if o.New != nil {
		if err := o.New.make(o.Privileged); err != nil {
			return err
		}
	}
	if o.Tar != nil {
		if err := restrict(control.User{}, true, false, fileRights); err != nil {
			return err
		}
		_ = unix.Close(faultFD) // it runs
		if err := o.Tar.run(); err != nil {
			fmt.Fprint(os.Stderr, err) // which the agent reads
			os.Exit(1)
		}
		return nil
	}
	if o.TTY {
		if err := unix.Fchown(0, int(o.User.UID), ttyGroup); err != nil {
			return fmt.Errorf("give the terminal to the program: %w", err)
		}
	}
	if err := limits(); err != nil {
		return err
	}
	if err := workDir(o.WorkDir); err != nil {
		return err
	}
	// Programs open /dev/stdout and /dev/stderr again, by which pipes have owners.
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
			continue
		}
		if err := unix.Fchown(fd, int(o.User.UID), int(o.User.GID)); err != nil {
			return fmt.Errorf("give a stream to the program: %w", err)
		}
	}
	if err := restrict(o.User, o.NoNewPrivs, o.Privileged, nil); err != nil {
		return err
	}
	env := withHome(o.Env, o.User.UID)
	program, err := find(o.Args[0], env)
	if err != nil {
		return err
	}
	if err := syscall.Exec(program, o.Args, env); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	return nil
}

// limits are those of containers in namespaces, see workload/container.
func limits() error {
	for which, l := range map[int]unix.Rlimit{
		unix.RLIMIT_CORE:    {},
		unix.RLIMIT_MEMLOCK: {Cur: 8 << 20, Max: 8 << 20},
		unix.RLIMIT_NOFILE:  {Cur: 1024, Max: 524288},
	} {
		// Not by package syscall's: that remembers the number of files of this
		// program, and gives it to the next.
		if err := unix.Prlimit(0, which, &l, nil); err != nil {
			return fmt.Errorf("set limit %d: %w", which, err)
		}
	}
	return nil
}

// workDir goes to the working directory and makes it if it is missing.
func workDir(dir string) error {
	if dir == "" {
		dir = "/"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make working directory: %w", err)
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter working directory %s: %w", dir, err)
	}
	return nil
}

// withHome adds HOME from the image's /etc/passwd, as container runtimes do.
func withHome(env []string, uid uint32) []string {
	for _, v := range env {
		if strings.HasPrefix(v, "HOME=") {
			return env
		}
	}
	home := "/"
	if f, err := os.Open("/etc/passwd"); err == nil {
		b, _ := io.ReadAll(io.LimitReader(f, 1<<20)) // an image's file may be anything
		_ = f.Close()
		home = homeOf(string(b), uid)
	}
	return append(env, "HOME="+home)
}

// homeOf finds a user's directory in the text of a passwd(5).
func homeOf(passwd string, uid uint32) string {
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) >= 7 && f[2] == fmt.Sprint(uid) && filepath.IsAbs(f[5]) {
			return f[5]
		}
	}
	return "/"
}

// find looks a program up as execvp(3) does, in the PATH that it is given.
func find(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			path = p
		}
	}
	var why error = unix.ENOENT
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		p := filepath.Join(dir, name)
		err := unix.Faccessat(unix.AT_FDCWD, p, unix.X_OK, unix.AT_EACCESS)
		if fi, serr := os.Stat(p); err == nil && serr == nil && fi.Mode().IsRegular() {
			return p, nil
		}
		if errors.Is(err, unix.EACCES) {
			why = err
		}
	}
	return "", fmt.Errorf("start %s: not in PATH: %w", name, why)
}
