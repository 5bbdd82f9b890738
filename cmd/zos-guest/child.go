package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/workload/control"
)

// startProgram starts the workload's first process, in namespaces of its own. Its
// output goes where the agent keeps it.
func (a *agent) startProgram(o order, group *os.File) (process, error) {
	var pipes pipes
	defer pipes.close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return process{}, fmt.Errorf("prepare streams: %w", err)
	}
	defer null.Close()
	var read [2]int
	child := []uintptr{null.Fd(), 0, 0}
	for i := range read {
		r, w, err := pipes.pipe()
		if err != nil {
			return process{}, err
		}
		read[i], child[1+i] = r, uintptr(w)
	}
	p, err := a.launch(o, child, &syscall.SysProcAttr{
		Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		UseCgroupFD: true, CgroupFD: int(group.Fd()),
	}, &pipes)
	if err != nil {
		return process{}, err
	}
	for i, stream := range []control.Type{control.FrameStdout, control.FrameStderr} {
		pipes.keep(read[i])
		a.out.read(read[i], stream)
	}
	return p, nil
}

// launch starts a stage with the standard streams, and returns when its program runs.
func (a *agent) launch(o order, streams []uintptr, attr *syscall.SysProcAttr, pipes *pipes) (process, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return process{}, fmt.Errorf("write order: %w", err)
	}
	// In memory, so that it is all there before anybody reads.
	m, err := unix.MemfdCreate("order", unix.MFD_CLOEXEC)
	if err != nil {
		return process{}, fmt.Errorf("write order: %w", err)
	}
	orders := os.NewFile(uintptr(m), "order")
	defer orders.Close()
	if _, err := orders.Write(b); err != nil {
		return process{}, fmt.Errorf("write order: %w", err)
	}
	if _, err := orders.Seek(0, io.SeekStart); err != nil {
		return process{}, fmt.Errorf("write order: %w", err)
	}
	faultR, faultW, err := pipes.pipe()
	if err != nil {
		return process{}, err
	}
	p, err := a.reaper.start(&syscall.ProcAttr{Files: append(streams, uintptr(m), uintptr(faultW)), Sys: attr})
	if err != nil {
		return process{}, fmt.Errorf("start process: %w", err)
	}
	pipes.closeWriters()
	var said strings.Builder
	buf := make([]byte, 4096)
	for said.Len() < 16<<10 {
		n, err := unix.Read(faultR, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 {
			break
		}
		said.Write(buf[:n])
	}
	if said.Len() > 0 {
		<-p.ended
		_ = unix.Close(p.pidfd)
		return process{}, errors.New(said.String())
	}
	return p, nil
}

// join starts a stage in the workload's namespaces, and in a cgroup of its own. open
// makes its standard streams, on the thread that is in them already.
func (a *agent) join(o order, sys *syscall.SysProcAttr, pipes *pipes, open func() ([]uintptr, error)) (_ process, _ visit, err error) {
	v, group, err := a.newVisit()
	if err != nil {
		return process{}, visit{}, err
	}
	defer group.Close()
	defer func() {
		if err != nil {
			v.end()
		}
	}()
	sys.UseCgroupFD, sys.CgroupFD = true, int(group.Fd())
	a.mu.Lock()
	if a.program == nil {
		a.mu.Unlock()
		_, err = a.running()
		return process{}, visit{}, err
	}
	// A copy, since the program may end while this goes on.
	target, err := unix.FcntlInt(uintptr(a.program.pidfd), unix.F_DUPFD_CLOEXEC, 0)
	a.mu.Unlock()
	if err != nil {
		return process{}, visit{}, fmt.Errorf("hold the workload: %w", err)
	}
	defer unix.Close(target)
	type result struct {
		p   process
		err error
	}
	done := make(chan result)
	go func() {
		// Never unlocked: the thread ends with this goroutine, and its namespaces with it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- result{err: fmt.Errorf("part with the agent's root: %w", err)}
			return
		}
		const all = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
		if err := unix.Setns(target, all); err != nil {
			done <- result{err: fmt.Errorf("enter the workload: %w", err)}
			return
		}
		streams, err := open()
		if err != nil {
			done <- result{err: err}
			return
		}
		p, err := a.launch(o, streams, sys, pipes)
		done <- result{p, err}
	}()
	r := <-done
	return r.p, v, r.err
}

// pipes are descriptors that are closed when a start is over, except what is kept.
type pipes struct{ readers, writers []int }

func (p *pipes) pipe() (r, w int, err error) {
	var fd [2]int
	if err := unix.Pipe2(fd[:], unix.O_CLOEXEC); err != nil {
		return 0, 0, fmt.Errorf("make pipe: %w", err)
	}
	p.readers, p.writers = append(p.readers, fd[0]), append(p.writers, fd[1])
	return fd[0], fd[1], nil
}

// keep takes a descriptor out, for whoever uses it from now on.
func (p *pipes) keep(fd int) {
	for _, all := range []*[]int{&p.readers, &p.writers} {
		for i, have := range *all {
			if have == fd {
				*all = append((*all)[:i], (*all)[i+1:]...)
				return
			}
		}
	}
}

func (p *pipes) closeWriters() {
	for _, fd := range p.writers {
		_ = unix.Close(fd)
	}
	p.writers = nil
}

func (p *pipes) close() {
	p.closeWriters()
	for _, fd := range p.readers {
		_ = unix.Close(fd)
	}
	p.readers = nil
}
