package qemu

import (
	"os/exec"
	"runtime"
	"syscall"
)

// child is a process that dies when this one does.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed after the process was reaped
	err  error         // of cmd.Wait, valid once done is closed
}

// spawn starts cmd so that the kernel kills it when this process ends, however
// it ends, SIGKILL included.
//
// PR_SET_PDEATHSIG fires when the *thread* that forked ends, and the Go runtime
// may end a thread whenever a goroutine locked to it returns. So the goroutine
// that forks locks itself to its thread and stays there until the child is
// reaped: one thread per child, blocked in wait4.
func spawn(cmd *exec.Cmd) (*child, error) {
	c := &child{cmd: cmd, done: make(chan struct{})}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// A session of its own: Ctrl-C at a terminal goes to us alone, and we decide
	// in which order things end.
	cmd.SysProcAttr.Setsid = true
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		c.err = cmd.Wait()
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// kill ends the process and waits until it is reaped.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // fails when it has ended already
	<-c.done
}
