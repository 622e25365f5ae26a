package fsdiff

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fill sets the fields of e that a stat tells.
func (e *Entry) fill(st *unix.Stat_t) {
	e.Mode = fileMode(st.Mode)
	e.UID, e.GID = st.Uid, st.Gid
	e.ModTime = time.Unix(st.Mtim.Unix())
	switch {
	case e.Mode.IsRegular():
		e.Size = st.Size
		if st.Nlink > 1 {
			// The device is mixed in since a View may join two file systems.
			e.Inode = st.Ino ^ uint64(st.Dev)<<40
		}
	case e.Mode&fs.ModeDevice != 0:
		e.Devmajor, e.Devminor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
}

func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	}
	if m&unix.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if m&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if m&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

func fstatat(dir int, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err != unix.EINTR {
			return st, err
		}
	}
}

func readlinkat(dir int, name string) (string, error) {
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// dirPath is a path that names the open directory dir, so that calls without
// an *at form stay inside it.
func (r *rootDir) dirPath(dir int, rel string) string {
	if r.procFDBase {
		return "/proc/self/fd/" + strconv.Itoa(dir)
	}
	return strings.TrimSuffix(r.path+"/"+rel, "/")
}

// xattrs returns the extended attributes of path, which is not followed, and
// whether an overlay marker says that the directory is opaque.
func xattrs(path string) (attrs map[string][]byte, opaque bool, err error) {
	var small [256]byte
	buf := small[:]
	n, err := unix.Llistxattr(path, buf)
	for err == unix.ERANGE {
		if n, err = unix.Llistxattr(path, nil); err != nil {
			break
		}
		buf = make([]byte, n+64)
		n, err = unix.Llistxattr(path, buf)
	}
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return nil, false, nil // the file system has none, or none for us
	}
	if err != nil {
		return nil, false, fmt.Errorf("list extended attributes: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		v, err := getxattr(path, name)
		if err != nil {
			continue // listed but not ours to read, as of another namespace
		}
		if overlay, ok := overlayAttr(name); ok {
			opaque = opaque || overlay == "opaque" && string(v) == "y"
			continue
		}
		if attrs == nil {
			attrs = map[string][]byte{}
		}
		attrs[name] = v
	}
	return attrs, opaque, nil
}

// overlayAttr returns the name that overlayfs gave one of its own attributes,
// which it keeps in trusted.* or, mounted in a user namespace, in user.*.
func overlayAttr(name string) (string, bool) {
	if s, ok := strings.CutPrefix(name, "trusted.overlay."); ok {
		return s, true
	}
	return strings.CutPrefix(name, "user.overlay.")
}

func getxattr(path, name string) ([]byte, error) {
	for size := 128; ; {
		buf := make([]byte, size)
		n, err := unix.Lgetxattr(path, name, buf)
		if err == nil {
			return buf[:n], nil
		}
		if err != unix.ERANGE {
			return nil, err
		}
		if size, err = unix.Lgetxattr(path, name, nil); err != nil {
			return nil, err
		}
		size += 64
	}
}
