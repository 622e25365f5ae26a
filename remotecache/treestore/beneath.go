package treestore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A root opens paths below one directory and never leaves it: no component of
// a path may be a symbolic link, whatever others do to the directory
// meanwhile.
type root struct {
	path      string
	f         *os.File
	noOpenat2 atomic.Bool // the kernel or a seccomp profile refuses it
}

func openRoot(path string) (*root, error) {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &root{path: path, f: f}, nil
}

func (r *root) close() { r.f.Close() }

func (r *root) fd() int { return int(r.f.Fd()) }

// open returns a descriptor of path, "" being the root itself. The caller
// closes it.
func (r *root) open(path string, flags int, mode uint32) (int, error) {
	defer runtime.KeepAlive(r.f)
	if path == "" {
		path = "."
	}
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	if flags&unix.O_CREAT == 0 {
		mode = 0 // openat2 insists
	}
	fd, err := r.openat2(path, flags, mode)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: r.path + "/" + path, Err: err}
	}
	return fd, nil
}

func (r *root) openat2(path string, flags int, mode uint32) (int, error) {
	how := unix.OpenHow{
		Flags: uint64(flags), Mode: uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for !r.noOpenat2.Load() {
		fd, err := unix.Openat2(r.fd(), path, &how)
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN): // EAGAIN: raced with a rename
			continue
		case errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) && flags&unix.O_NOATIME == 0:
			r.noOpenat2.Store(true)
			continue
		}
		return fd, err
	}
	return r.stepwise(path, flags, mode)
}

// stepwise is openat2 for kernels before 5.6 and for sandboxes without it: one
// openat per component, none of which follows a link.
func (r *root) stepwise(path string, flags int, mode uint32) (int, error) {
	dir := r.fd()
	for rest := path; ; {
		name, tail, more := strings.Cut(rest, "/")
		fl := flags
		if more {
			fl = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		}
		fd, err := -1, error(unix.EXDEV)
		if name != ".." {
			fd, err = openat(dir, name, fl, mode)
		}
		if dir != r.fd() {
			unix.Close(dir)
		}
		if err != nil || !more {
			return fd, err
		}
		dir, rest = fd, tail
	}
}

func openat(dir int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags, mode)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// read opens a regular file for reading, without leaving a trace in its access
// time where that is allowed.
func (r *root) read(path string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK // a pipe that took the file's place would block
	fd, err := r.open(path, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // somebody else's file
		fd, err = r.open(path, flags, 0)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), r.path+"/"+path), nil
}

// vanished says whether err means that nothing is at the path (any more): it
// is missing, or something above it is no directory.
func vanished(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// xattrsOf returns the extended attributes that are part of a directory, of
// the entry name of the open directory dir.
func xattrsOf(dir int, name string) ([]xattr, error) {
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
	var small [512]byte
	buf := small[:]
	n, err := unix.Llistxattr(path, buf)
	for errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 2*len(buf))
		n, err = unix.Llistxattr(path, buf)
	}
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return nil, nil // the file system has none, or none for us
	}
	if err != nil {
		return nil, err
	}
	var out []xattr
	for key := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if key == "" || !keptXattr(key) {
			continue
		}
		value := make([]byte, maxXattr)
		n, err := unix.Lgetxattr(path, key, value)
		if err != nil {
			continue // listed but not ours to read, or gone
		}
		out = append(out, xattr{key, append([]byte(nil), value[:n]...)})
	}
	return out, nil
}
