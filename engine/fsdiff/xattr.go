package fsdiff

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An attrReader reads extended attributes of the entries of open directories.
// listxattrat (Linux 6.13) does so with the descriptor of the directory; before
// it /proc/self/fd has to name the directory, at nearly three times the cost,
// which with 50,000 files is most of the walk.
type attrReader struct {
	root     string // path of the root directory
	noProc   bool   // /proc is not mounted: paths from root have to do
	noListAt atomic.Bool
}

// list returns the names of name's attributes, each with a zero byte at its
// end. name is not followed.
func (r *attrReader) list(dir int, path, name string, buf []byte) (n int, err error) {
	if !r.noListAt.Load() {
		if n, err = listxattrat(dir, name, buf); !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
			return n, err
		}
		r.noListAt.Store(true)
	}
	return unix.Llistxattr(r.name(dir, path, name), buf)
}

func listxattrat(dir int, name string, buf []byte) (int, error) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dir), uintptr(unsafe.Pointer(p)),
		unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0)
	runtime.KeepAlive(p)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// name is a path for the calls that have no form with a descriptor.
func (r *attrReader) name(dir int, path, name string) string {
	if r.noProc {
		return r.root + "/" + path
	}
	return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
}

// read returns the attributes of the entry name of the open directory dir,
// which is path below the root, and whether an overlay marker says that it is
// opaque.
func (r *attrReader) read(dir int, path, name string) (attrs map[string][]byte, opaque bool, err error) {
	var small [256]byte
	buf := small[:]
	n, err := r.list(dir, path, name, buf)
	for errors.Is(err, unix.ERANGE) {
		if n, err = r.list(dir, path, name, nil); err != nil {
			break
		}
		buf = make([]byte, n+64)
		n, err = r.list(dir, path, name, buf)
	}
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return nil, false, nil // the file system has none, or none for us
	}
	if err != nil {
		return nil, false, fmt.Errorf("list extended attributes: %w", err)
	}
	if n == 0 {
		return nil, false, nil
	}
	for key := range strings.SplitSeq(string(buf[:n-1]), "\x00") {
		v, err := getxattr(r.name(dir, path, name), key)
		if err != nil {
			continue // listed but not ours to read, as of another namespace
		}
		if overlay, ok := overlayAttr(key); ok {
			opaque = opaque || overlay == "opaque" && string(v) == "y"
			continue
		}
		if attrs == nil {
			attrs = map[string][]byte{}
		}
		attrs[key] = v
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
