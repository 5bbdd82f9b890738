package client

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/zero-os/zos/problem"
)

// Pack writes the file or tree at src as a tar stream whose names begin with name;
// name "." writes the content of a directory. Links stay links; what is neither
// file, directory nor link is left out.
func Pack(w io.Writer, src, name string) error {
	if info, err := os.Stat(src); err == nil && info.IsDir() {
		src += string(filepath.Separator) // a link to a directory that was named is followed
	}
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(src, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		if rel == "." && name == "." {
			return nil
		}
		return packEntry(tw, p, path.Join(name, filepath.ToSlash(rel)), e)
	})
	return errors.Join(err, tw.Close())
}

func packEntry(tw *tar.Writer, p, name string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = os.Readlink(p); err != nil {
			return err
		}
	case !info.Mode().IsRegular() && !info.IsDir():
		return nil
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	// Who owns it here means nothing there: it belongs to the workload's user.
	h.Name, h.Uid, h.Gid, h.Uname, h.Gname = name, 0, 0, "", ""
	if info.IsDir() {
		h.Name += "/"
	}
	if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	if n, err := io.Copy(tw, io.LimitReader(f, h.Size)); err != nil || n != h.Size {
		return fmt.Errorf("read %s: %d of %d bytes, %w", p, n, h.Size, err)
	}
	return nil
}

// maxUnpacked bounds the entries of one archive.
const maxUnpacked = 1 << 20

// Unpack writes an archive that nobody vouches for below the directory root. The
// first part of the names becomes name; "" leaves it out. Nothing is written
// outside of root, whatever names and links the archive holds: everything is opened
// through root, and nothing through a link. Links that lead out of root, and what is
// no file, directory or link, or a file with holes, are left out and named in skipped,
// 100 of them at most. Owners and set-id bits are not taken over. Errors have the code
// "archive-unsafe" or are the file system's.
func Unpack(r io.Reader, root *os.Root, name string) (skipped []string, err error) {
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return skipped, nil
		}
		if err != nil {
			return skipped, problem.New("archive-unsafe", "unpack: %w", err)
		}
		if n == maxUnpacked {
			return skipped, problem.New("archive-unsafe", "unpack: more than %d entries", maxUnpacked)
		}
		at, err := inside(h.Name, name)
		if err != nil {
			return skipped, err
		}
		if err := unpackEntry(root, at, h, tr); errors.Is(err, errLeftOut) {
			if len(skipped) < 100 {
				skipped = append(skipped, h.Name)
			}
		} else if err != nil {
			return skipped, fmt.Errorf("unpack %.200q: %w", h.Name, err)
		}
	}
}

var errLeftOut = errors.New("left out")

// inside is where an entry goes below the root.
func inside(entry, name string) (string, error) {
	clean := path.Clean(entry)
	if path.IsAbs(entry) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsRune(entry, 0) {
		return "", problem.New("archive-unsafe", "unpack: the archive names %.200q, which is outside of it", entry)
	}
	if clean == "." {
		return path.Join(".", name), nil
	}
	_, rest, _ := strings.Cut(clean, "/")
	return path.Join(".", name, rest), nil
}

func unpackEntry(root *os.Root, at string, h *tar.Header, r io.Reader) error {
	mode := fs.FileMode(h.Mode) & 0o777
	if h.Typeflag == tar.TypeDir && at == "." {
		return nil // it is there already
	}
	if at == "." {
		return problem.New("archive-unsafe", "the archive is no directory")
	}
	if err := makeParents(root, path.Dir(at)); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(at, mode|0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if info, err := root.Lstat(at); err != nil || !info.IsDir() {
			return problem.New("archive-unsafe", "%s is there and no directory", at)
		}
		return nil
	case tar.TypeReg:
		if holes(h) {
			return errLeftOut
		}
		// A link that is there is replaced, not followed; so is a file, whose other
		// names must keep their content.
		if err := removeFile(root, at); err != nil {
			return err
		}
		f, err := root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	case tar.TypeSymlink:
		if !staysInside(path.Dir(at), h.Linkname) {
			return errLeftOut
		}
		if err := removeFile(root, at); err != nil {
			return err
		}
		return root.Symlink(h.Linkname, at)
	}
	return errLeftOut
}

// holes tells whether a file is written with holes: some bytes that a node sends would
// fill a disk. Nodes send no such files.
func holes(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// staysInside tells whether a link in a directory below the root leads to a place
// below it. ".." counts only where it stands first: behind a name, which may be a
// link, it would mean another place than it says.
func staysInside(dir, target string) bool {
	if target == "" || path.IsAbs(target) || strings.ContainsRune(target, 0) {
		return false
	}
	depth := 0
	if dir != "." {
		depth = strings.Count(dir, "/") + 1
	}
	named := false
	for part := range strings.SplitSeq(target, "/") {
		switch {
		case part == "" || part == ".":
		case part != "..":
			named = true
		case named || depth == 0:
			return false
		default:
			depth--
		}
	}
	return true
}

// makeParents makes the directories above an entry; none of them may be a link,
// whoever made it.
func makeParents(root *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	at := ""
	for part := range strings.SplitSeq(dir, "/") {
		at = path.Join(at, part)
		if err := root.Mkdir(at, 0o755); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if info, err := root.Lstat(at); err != nil || !info.IsDir() {
			return problem.New("archive-unsafe", "%s is there and no directory", at)
		}
	}
	return nil
}

// removeFile makes room for a file; a directory is not removed.
func removeFile(root *os.Root, at string) error {
	info, err := root.Lstat(at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return problem.New("archive-unsafe", "%s is a directory here", at)
	}
	return root.Remove(at)
}
