package layertar

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// make makes n, which is not a directory, over any non-directory that is
// there. Regular files become empty.
func (t *tree) make(n node) error {
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
		return t.file(n, nil)
	case unix.S_IFLNK:
		if err := t.replacing(n.path, func() error { return unix.Symlinkat(n.target, t.root, n.path) }); err != nil {
			return err
		}
	case unix.S_IFBLK, unix.S_IFCHR:
		if t.userns {
			return nil // not allowed there, and containerd leaves them out too
		}
		fallthrough
	default:
		if err := t.replacing(n.path, func() error { return unix.Mknodat(t.root, n.path, n.mode, int(n.rdev)) }); err != nil {
			return err
		}
	}
	if err := t.setAttrs(&n); err != nil {
		return err
	}
	return t.setTimes(n.path, n.atime, n.mtime)
}

// link makes p a hard link of target, a non-directory of this tree.
func (t *tree) link(target, p string) error {
	return t.replacing(p, func() error { return unix.Linkat(t.root, target, t.root, p, 0) })
}

// replacing runs create, and once more after it has removed what was in the
// way.
func (t *tree) replacing(p string, create func() error) error {
	err := create()
	if errors.Is(err, unix.EEXIST) {
		if err := unix.Unlinkat(t.root, p, 0); err != nil {
			return err
		}
		err = create()
	}
	return err
}

// file makes a regular file; fill, when not nil, writes its bytes to the
// descriptor.
func (t *tree) file(n node, fill func(fd int) error) error {
	var fd int
	err := t.replacing(n.path, func() (err error) {
		fd, err = unix.Openat(t.root, n.path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, n.mode&0o777)
		return err
	})
	if err != nil {
		return err
	}
	if fill != nil {
		err = fill(fd)
	}
	if err == nil {
		err = t.setFileAttrs(fd, &n)
	}
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	return err
}

// setFileAttrs sets what n says of an open regular file, in an order in which
// nothing undoes anything: a write or a chown takes capabilities and the
// set-user-ID bit away, and a write changes the time.
func (t *tree) setFileAttrs(fd int, n *node) error {
	// Mostly the file is already what it should be, and asking costs a tenth.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != n.uid || st.Gid != n.gid {
		if err := unix.Fchown(fd, int(n.uid), int(n.gid)); err != nil {
			return fmt.Errorf("set owner %d:%d: %w", n.uid, n.gid, err)
		}
	}
	for name, value := range n.xattrs {
		if err := ignorable(n, name, unix.Fsetxattr(fd, name, value, 0)); err != nil {
			return err
		}
	}
	if st.Mode&0o7777 != n.mode&0o7777 { // a chown keeps what was there: no special bits yet
		if err := unix.Fchmod(fd, n.mode&0o7777); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	ts := timespecs(n.atime, n.mtime)
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("set times: %w", errno)
	}
	return nil
}

// setAttrs is setFileAttrs for anything, but without the times.
func (t *tree) setAttrs(n *node) error {
	if err := unix.Fchownat(t.root, at(n.path), int(n.uid), int(n.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner %d:%d of %q: %w", n.uid, n.gid, n.path, err)
	}
	for name, value := range n.xattrs {
		if err := ignorable(n, name, unix.Lsetxattr(t.abs(n.path), name, value, 0)); err != nil {
			return err
		}
	}
	if n.mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	if err := unix.Fchmodat(t.root, at(n.path), n.mode&0o7777, 0); err != nil {
		return fmt.Errorf("set mode of %q: %w", n.path, err)
	}
	return nil
}

func (t *tree) setTimes(p string, atime, mtime time.Time) error {
	ts := timespecs(atime, mtime)
	return unix.UtimesNanoAt(t.root, at(p), ts[:], unix.AT_SYMLINK_NOFOLLOW)
}

// at is p for a system call with the root's descriptor.
func at(p string) string {
	if p == "" {
		return "."
	}
	return p
}

// ignorable drops the errors of attributes that the file system does not know
// and of user attributes on what cannot have them, as containerd does.
func ignorable(n *node, name string, err error) error {
	regular := n.mode&unix.S_IFMT == unix.S_IFREG || n.mode&unix.S_IFMT == unix.S_IFDIR
	if err == nil || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) && strings.HasPrefix(name, "user.") && !regular {
		return nil
	}
	return fmt.Errorf("set attribute %s of %q: %w", name, n.path, err)
}

// ours says whether an attribute is one that a layer must not set: overlayfs
// would read it as its own.
func ours(name string) bool {
	return strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "user.overlay.")
}

// timespecs returns what utimensat takes. The access time is at least the time
// of the last change.
func timespecs(atime, mtime time.Time) [2]unix.Timespec {
	if atime.Before(mtime) {
		atime = mtime
	}
	return [2]unix.Timespec{timespec(atime), timespec(mtime)}
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// parentOf returns the directory of p, "" being the root.
func parentOf(p string) string {
	if d := path.Dir(p); d != "." {
		return d
	}
	return ""
}
