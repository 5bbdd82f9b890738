package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/problem"
)

// Problems of copying files.
const (
	CodeNoFile  = "file-unknown" // no such file in the workload
	CodeBadFile = "file-refused" // nothing that can be copied, or not to there
)

// tree is a container's file system, as its first process sees it, in the hands of
// the node's root. The container's own programs may change it at any moment, so
// every name is resolved by the kernel within the root or within an open directory
// (openat2), links included; what was opened is looked at again through its
// descriptor before it is used; and nothing is touched but plain files,
// directories and links on file systems that hold a workload's data: what /proc or
// /sys shows to the node's root is not the workload's to copy.
type tree struct {
	root   int
	idBase uint32
}

// treeOf opens the file system of a process, whose files belong to the 65536 ids from
// idBase on.
func treeOf(ref process.Ref, idBase uint32) (*tree, error) {
	t, err := openTree(fmt.Sprintf("/proc/%d/root", ref.PID), idBase)
	if err == nil && !ref.Alive() { // afterwards: its number may be another process' by now
		t.close()
		return nil, notRunning("it has ended")
	}
	return t, err
}

// openTree opens the tree at root, whose files belong to the
// 65536 ids from idBase on.
func openTree(root string, idBase uint32) (*tree, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, notRunning("its files are gone")
	}
	return &tree{root: fd, idBase: idBase}, nil
}

func (t *tree) close() { unix.Close(t.root) }

// holdsData tells whether a file system of this type holds files of a workload's own.
func holdsData(magic int64) bool {
	switch magic {
	case unix.OVERLAYFS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.EXT4_SUPER_MAGIC:
		return true
	}
	return false
}

// resolve opens name, which may pass through links, within the root: O_PATH alone.
func (t *tree) resolve(name string) (int, error) {
	return t.openat(t.root, strings.TrimPrefix(name, "/"), unix.O_PATH, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS, 0)
}

// beneath opens name below dir, where nothing on the way may be a link.
func (t *tree) beneath(dir int, name string, flags uint64, mode uint64) (int, error) {
	return t.openat(dir, name, flags|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS, mode)
}

func (t *tree) openat(dir int, name string, flags uint64, resolve uint64, mode uint64) (int, error) {
	if name == "" {
		name = "."
	}
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Mode: mode, Resolve: resolve}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, name, &how)
		// A rename somewhere on the way: the kernel could not be sure.
		if (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)) && try < 128 {
			continue
		}
		return fd, err
	}
}

// look tells what an open file is, and refuses what may not be touched.
func look(fd int) (unix.Stat_t, error) {
	var st unix.Stat_t
	var sfs unix.Statfs_t
	if err := unix.Fstat(fd, &st); err != nil {
		return st, err
	}
	if err := unix.Fstatfs(fd, &sfs); err != nil {
		return st, err
	}
	if !holdsData(int64(sfs.Type)) {
		return st, problem.New(CodeBadFile, "it is on a file system of the kernel's own")
	}
	return st, nil
}

// reopen opens for use what an O_PATH descriptor means: no name is resolved again.
// It is for plain files and directories alone.
func reopen(fd int, flags int) (int, error) {
	return unix.Open("/proc/self/fd/"+strconv.Itoa(fd), flags|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
}

// inside translates an owner from the node's ids to the workload's. One that is not
// the workload's, such as the node's own root of a mounted file, is nobody.
func (t *tree) inside(id uint32) int {
	if id < t.idBase || id-t.idBase > 65535 {
		return 65534
	}
	return int(id - t.idBase)
}

// outside translates back.
func (t *tree) outside(id int) (int, error) {
	if id < 0 || id > 65535 {
		return 0, problem.New(CodeBadFile, "owner %d is none of a workload's", id)
	}
	return int(t.idBase) + id, nil
}

// wrong gives an error of the kernel's about a path its code.
func wrong(name string, err error) error {
	switch {
	case problem.Code(err) != "":
		return problem.New(problem.Code(err), "%.200q: %w", name, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return problem.New(CodeNoFile, "%.200q is not there", name)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EBUSY), errors.Is(err, unix.EISDIR), errors.Is(err, unix.EROFS), errors.Is(err, fs.ErrPermission):
		return problem.New(CodeBadFile, "%.200q: %w", name, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return problem.New(ReasonDiskFull, "%.200q: %w", name, err)
	}
	return fmt.Errorf("%.200q: %w", name, err)
}

// cleanEntry is the name of an entry of a tar stream, if it stays below where it is
// unpacked.
func cleanEntry(name string) (string, error) {
	plain := path.Clean(strings.TrimSuffix(name, "/"))
	if name == "" || path.IsAbs(name) || plain == ".." || strings.HasPrefix(plain, "../") || strings.ContainsRune(name, 0) || len(name) > 4096 {
		return "", problem.New(CodeBadFile, "entry %.200q leaves the directory that it is unpacked into", name)
	}
	return plain, nil
}

// alive tells whether a copy may go on.
func alive(ctx context.Context) error {
	if ctx.Err() != nil {
		return notRunning("it ended while files were copied")
	}
	return nil
}
