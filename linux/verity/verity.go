package verity

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
)

// BlockSize is the size in bytes of the blocks that are hashed.
const BlockSize = 4096

// ErrUnsupported says that the file system or the kernel has no fs-verity.
var ErrUnsupported = errors.New("fs-verity is not supported here")

// enableWait bounds how long Enable waits for the last writer to go away.
const enableWait = 2 * time.Second

// Enable turns fs-verity on for the file at path. Nobody may have it open for
// writing. It is no error if it is on already. The file can't be changed after
// that, only removed.
func Enable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enable fs-verity: %w", err)
	}
	defer f.Close()
	arg := unix.FsverityEnableArg{
		Version:        1,
		Hash_algorithm: unix.FS_VERITY_HASH_ALG_SHA256,
		Block_size:     BlockSize,
	}
	// A child that this process is forking at this moment has a copy of every
	// descriptor until it executes, the just closed writer's included: ETXTBSY
	// then goes away by itself.
	for wait, waited := time.Millisecond, time.Duration(0); ; wait *= 2 {
		err = ioctl(f, unix.FS_IOC_ENABLE_VERITY, unsafe.Pointer(&arg))
		if !errors.Is(err, unix.ETXTBSY) || waited >= enableWait {
			break
		}
		time.Sleep(wait)
		waited += wait
	}
	switch {
	case err == nil, errors.Is(err, unix.EEXIST):
		return nil
	case unsupported(err):
		return ErrUnsupported
	}
	return fmt.Errorf("enable fs-verity on %s: %w", path, err)
}

// Measure returns the digest that the kernel enforces for the file at path. The
// error is ErrUnsupported where there is no fs-verity, and wraps unix.ENODATA
// for a file without it.
func Measure(path string) (canon.Hash, error) {
	f, err := os.Open(path)
	if err != nil {
		return canon.Hash{}, fmt.Errorf("measure fs-verity: %w", err)
	}
	defer f.Close()
	// struct fsverity_digest: algorithm, size, then the digest.
	var arg struct {
		algorithm, size uint16
		digest          canon.Hash
	}
	arg.size = canon.HashSize
	if err := ioctl(f, unix.FS_IOC_MEASURE_VERITY, unsafe.Pointer(&arg)); err != nil {
		if unsupported(err) {
			return canon.Hash{}, ErrUnsupported
		}
		return canon.Hash{}, fmt.Errorf("measure fs-verity of %s: %w", path, err)
	}
	if arg.algorithm != unix.FS_VERITY_HASH_ALG_SHA256 || arg.size != canon.HashSize {
		return canon.Hash{}, fmt.Errorf("measure fs-verity of %s: algorithm %d with %d bytes, want SHA-256", path, arg.algorithm, arg.size)
	}
	return arg.digest, nil
}

// Supported tells whether files in dir can have fs-verity, by trying it on a
// file that it makes and removes there: neither the kernel's version nor the
// file system's name is an answer.
func Supported(dir string) (bool, error) {
	f, err := os.CreateTemp(dir, "verity-probe-*")
	if err != nil {
		return false, fmt.Errorf("probe fs-verity: %w", err)
	}
	defer os.Remove(f.Name())
	_, werr := f.Write([]byte("probe"))
	if err := errors.Join(werr, f.Close()); err != nil {
		return false, fmt.Errorf("probe fs-verity: %w", err)
	}
	err = Enable(f.Name())
	if errors.Is(err, ErrUnsupported) {
		return false, nil
	}
	return err == nil, err
}

// EINVAL is the answer of a file system whose blocks are smaller than the tree's,
// such as ext4 made by default on a disk below 512 MB.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL)
}

// ioctl repeats a call that a signal interrupted: hashing a large file takes long enough for one.
func ioctl(f *os.File, req uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}
