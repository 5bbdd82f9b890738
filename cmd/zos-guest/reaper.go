package main

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// reaper collects every process that ends, as process 1 must, and tells those who
// wait for one.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan unix.WaitStatus
}

func newReaper() *reaper {
	r := &reaper{waiting: map[int]chan unix.WaitStatus{}}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	go func() {
		for range ended {
			r.collect()
		}
	}()
	return r
}

func (r *reaper) collect() {
	for {
		// Under the lock, so that a child which ends before start has written it down waits.
		r.mu.Lock()
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == nil && pid > 0 {
			if c, ok := r.waiting[pid]; ok {
				delete(r.waiting, pid)
				c <- ws
			}
		}
		r.mu.Unlock()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}

// process is a child of the agent.
type process struct {
	pid   int
	pidfd int // until it is closed by whoever started it
	ended <-chan unix.WaitStatus
}

// start runs the stage with attr. The calling thread's namespaces are the child's.
func (r *reaper) start(attr *syscall.ProcAttr) (process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"zos-guest", stageArg}, attr)
	if err != nil {
		return process{}, err
	}
	c := make(chan unix.WaitStatus, 1)
	r.waiting[pid] = c
	// It can't have been reaped, so the number is its own.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		return process{}, err
	}
	unix.CloseOnExec(fd)
	return process{pid: pid, pidfd: fd, ended: c}, nil
}

// signal sends one to the process and nobody else, whatever its number is by now.
func (p process) signal(s unix.Signal) error { return unix.PidfdSendSignal(p.pidfd, s, nil, 0) }

// exitCode counts as shells do.
func exitCode(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
