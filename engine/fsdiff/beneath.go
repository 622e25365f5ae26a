package fsdiff

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A rootDir opens paths below one directory and never leaves it: no component
// of a path may be a symbolic link. The descriptor is closed by os.File's
// cleanup when the last Diff or Content that uses it is gone.
type rootDir struct {
	path      string
	f         *os.File
	noOpenat2 atomic.Bool // the kernel or a seccomp profile refuses it
	attrs     attrReader
}

func openRoot(path string) (*rootDir, error) {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	_, noProc := os.Lstat("/proc/self/fd")
	return &rootDir{path: path, f: f, attrs: attrReader{root: path, noProc: noProc != nil}}, nil
}

// open returns a descriptor of path, "" being the root itself. The caller
// closes it.
func (r *rootDir) open(path string, flags int) (int, error) {
	defer runtime.KeepAlive(r.f)
	if path == "" {
		path = "."
	}
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	if r.noOpenat2.Load() {
		return r.openStepwise(path, flags)
	}
	how := unix.OpenHow{
		Flags:   uint64(flags),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(r.f.Fd()), path, &how)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN: // EAGAIN: raced with a rename
			continue
		case err == unix.ENOSYS || err == unix.EPERM:
			r.noOpenat2.Store(true)
			return r.openStepwise(path, flags)
		case err != nil:
			return -1, &fs.PathError{Op: "open", Path: r.path + "/" + path, Err: err}
		}
		return fd, nil
	}
}

// openStepwise is open for kernels before 5.6 and for sandboxes without
// openat2: one openat per component, none of which follows a link.
func (r *rootDir) openStepwise(path string, flags int) (int, error) {
	dir := int(r.f.Fd())
	for rest := path; ; {
		name, tail, more := strings.Cut(rest, "/")
		fl := flags
		if more {
			fl = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		}
		fd, err := -1, error(unix.EXDEV)
		if name != ".." {
			fd, err = openat(dir, name, fl)
		}
		if dir != int(r.f.Fd()) {
			unix.Close(dir)
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: r.path + "/" + path, Err: err}
		}
		if !more {
			return fd, nil
		}
		dir, rest = fd, tail
	}
}

func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// absent says whether err means that nothing is at the path: it is missing,
// or a component above it is a file or a symbolic link.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}
