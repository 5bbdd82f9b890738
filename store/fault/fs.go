package fault

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/store"
)

// Nodes are numbered by what they are, so there is no table of them: 1 is the
// root, then the two directories, then 256 directories in each.
const (
	nodeRoot  = 1
	nodeFetch = 2
	nodeFail  = 3

	fetchBase = 0x100 // fetch/00 … fetch/ff
	failBase  = 0x200 // fail/00 … fail/ff
	nodeEnd   = 0x300
)

// dirTTL is how long the kernel may keep what it knows about a directory; they
// never change. Objects' names are never kept: TTL 0.
const dirTTL = time.Hour

type fileSystem struct {
	fuse.RawFileSystem
	ctx     context.Context // ends when the server is told to stop
	fetcher *store.Fetcher
	wait    time.Duration
	log     *slog.Logger
}

func (fs *fileSystem) String() string { return "zos-fault" }

// Lookup is the whole of it.
func (fs *fileSystem) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	parent := in.NodeId
	switch {
	case parent == nodeRoot && name == store.FetchDir:
		return entry(nodeFetch, out)
	case parent == nodeRoot && name == store.FailDir:
		return entry(nodeFail, out)
	case parent == nodeFetch || parent == nodeFail:
		n, err := strconv.ParseUint(name, 16, 8)
		if err != nil || len(name) != 2 || strings.ToLower(name) != name {
			return fuse.ENOENT
		}
		if parent == nodeFetch {
			return entry(fetchBase+n, out)
		}
		return entry(failBase+n, out)
	case parent >= fetchBase && parent < nodeEnd:
		d, ok := objectName(parent, name)
		if !ok {
			return fuse.ENOENT
		}
		if parent >= failBase {
			return fuse.EIO
		}
		return fs.fetch(cancel, in.Pid, d)
	}
	return fuse.ENOENT
}

// objectName puts an object's name together from its directory and its file name.
func objectName(parent uint64, name string) (canon.Hash, bool) {
	hex := strconv.FormatUint(parent&0xff|0x100, 16)[1:] + name
	d, err := canon.ParseHash(hex)
	return d, err == nil && d.String() == hex
}

// fetch waits for the object to be in the store. The answer is always "not
// here": whether it is in the store now is for the next layer to tell.
func (fs *fileSystem) fetch(cancel <-chan struct{}, tid uint32, d canon.Hash) fuse.Status {
	ctx, stop := context.WithTimeout(fs.ctx, fs.patience(d))
	defer stop()
	killed := make(chan struct{})
	done := make(chan struct{})
	defer close(done)
	go func() {
		if diesOf(cancel, done, tid) {
			close(killed)
			// Not by its deadline: nobody will come back for it.
			stop()
		}
	}()
	err := fs.fetcher.Object(ctx, d, store.Demand)
	select {
	case <-killed:
		return fuse.EINTR
	default:
	}
	if errors.Is(err, context.DeadlineExceeded) {
		fs.fetcher.Late(d, fs.wait)
	}
	return fuse.ENOENT
}

// patience is how long a lookup waits: a fixed time, and more for a large
// object, at a speed that any link should have. The fetching itself goes on
// after that, so the next attempt finds more of it done.
func (fs *fileSystem) patience(d canon.Hash) time.Duration {
	const slow = 4 << 20 // bytes per second
	return fs.wait + time.Duration(fs.fetcher.Size(d)/slow)*time.Second
}

// diesOf waits until the thread tid is being killed, and tells so, or until done.
//
// The kernel reports the first signal to an interrupted reader, whatever the
// signal, and nothing after it: Go's runtime interrupts its own threads all the
// time, and answering EINTR to those would make their reads fail. A thread that
// is killed has SIGKILL pending. So after the first signal the thread is looked at
// again and again.
func diesOf(cancel <-chan struct{}, done <-chan struct{}, tid uint32) bool {
	select {
	case <-done:
		return false
	case <-cancel:
	}
	for {
		if dying(tid) {
			return true
		}
		select {
		case <-done:
			return false
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// dying tells whether the thread has SIGKILL pending, as every thread of a
// process has that gets any deadly signal.
func dying(tid uint32) bool {
	if tid == 0 {
		return false // of a PID namespace above this one: nothing can be told
	}
	status, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(tid), 10) + "/status")
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	for line := range strings.Lines(string(status)) {
		hex, ok := strings.CutPrefix(line, "SigPnd:")
		if !ok {
			if hex, ok = strings.CutPrefix(line, "ShdPnd:"); !ok {
				continue
			}
		}
		set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err == nil && set&(1<<(unix.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}

func entry(node uint64, out *fuse.EntryOut) fuse.Status {
	out.NodeId = node
	out.SetEntryTimeout(dirTTL)
	out.SetAttrTimeout(dirTTL)
	directory(node, &out.Attr)
	return fuse.OK
}

func directory(node uint64, out *fuse.Attr) {
	out.Ino = node
	out.Mode = unix.S_IFDIR | 0o500
	out.Nlink = 2
}

// GetAttr knows only directories.
func (fs *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == 0 || in.NodeId >= nodeEnd {
		return fuse.ENOENT
	}
	out.SetTimeout(dirTTL)
	directory(in.NodeId, &out.Attr)
	return fuse.OK
}

// StatFs answers that there is a file system; MountFlist asks that.
func (fs *fileSystem) StatFs(<-chan struct{}, *fuse.InHeader, *fuse.StatfsOut) fuse.Status {
	return fuse.OK
}

// OpenDir allows listing; the lists are empty, since nothing is ever here.
func (fs *fileSystem) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.OK
}

// ReadDir lists nothing.
func (fs *fileSystem) ReadDir(<-chan struct{}, *fuse.ReadIn, *fuse.DirEntryList) fuse.Status {
	return fuse.OK
}

// ReadDirPlus lists nothing.
func (fs *fileSystem) ReadDirPlus(<-chan struct{}, *fuse.ReadIn, *fuse.DirEntryList) fuse.Status {
	return fuse.OK
}
