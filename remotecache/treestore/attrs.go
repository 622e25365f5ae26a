package treestore

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rest makes what has no content, then the other names of files, and at last
// gives the directories what they lose while something is made in them.
func (l *loader) rest(ctx context.Context) error {
	for _, links := range []bool{false, true} {
		for i := 1; i < len(l.paths); i++ {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			n := &l.tree.nodes[i]
			var err error
			switch {
			case links && n.link != 0:
				if l.skips(&l.tree.nodes[n.link]) {
					continue
				}
				err = unix.Linkat(l.root.fd(), l.paths[n.link], l.root.fd(), l.paths[i], 0)
			case !links && n.link == 0 && !n.isRegular() && !n.isDir():
				err = l.special(i, n)
			}
			if err != nil {
				return l.pathError("make", i, err)
			}
		}
	}
	for i := len(l.paths) - 1; i >= 0; i-- {
		if n := &l.tree.nodes[i]; n.isDir() {
			if err := l.directory(i, n); err != nil {
				return l.pathError("set attributes of", i, err)
			}
		}
	}
	return nil
}

// skips reports whether a node is one that this process cannot make.
func (l *loader) skips(n *node) bool {
	return !l.asRoot && (n.kind() == unix.S_IFCHR || n.kind() == unix.S_IFBLK)
}

// special makes a symbolic link, pipe or device. Where it is made there is a
// directory that Load made, and nothing else.
func (l *loader) special(i int, n *node) error {
	fd, path := l.root.fd(), l.paths[i]
	if l.skips(n) {
		return nil
	}
	if n.kind() == unix.S_IFLNK {
		if err := unix.Symlinkat(n.target, fd, path); err != nil {
			return err
		}
	} else if err := unix.Mknodat(fd, path, n.mode, int(unix.Mkdev(n.dev[0], n.dev[1]))); err != nil {
		return err
	}
	if err := l.owned(unix.Fchownat(fd, path, int(n.uid), int(n.gid), unix.AT_SYMLINK_NOFOLLOW)); err != nil {
		return err
	}
	if n.kind() != unix.S_IFLNK {
		if err := unix.Fchmodat(fd, path, n.mode&0o7777, 0); err != nil {
			return err
		}
	}
	ts := n.times()
	return unix.UtimesNanoAt(fd, path, ts[:], unix.AT_SYMLINK_NOFOLLOW)
}

func (l *loader) directory(i int, n *node) error {
	fd, err := l.root.open(l.paths[i], unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return l.setAttrs(fd, n)
}

// setAttrs sets what n says of an open file or directory, in an order in which
// nothing undoes anything: a change of the owner takes capabilities and the
// set-user-ID bit away.
func (l *loader) setAttrs(fd int, n *node) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != n.uid || st.Gid != n.gid {
		if err := l.owned(unix.Fchown(fd, int(n.uid), int(n.gid))); err != nil {
			return fmt.Errorf("set owner %d:%d: %w", n.uid, n.gid, err)
		}
	}
	if uint32(st.Mode)&0o7777 != n.mode&0o7777 {
		if err := unix.Fchmod(fd, n.mode&0o7777); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	for _, x := range n.xattrs {
		if err := l.owned(unix.Fsetxattr(fd, x.name, x.value, 0)); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("set extended attribute %s: %w", x.name, err)
		}
	}
	ts := n.times()
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("set times: %w", errno)
	}
	return nil
}

// owned drops the error of giving away what only root can give away.
func (l *loader) owned(err error) error {
	if !l.asRoot && errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}

// times returns what utimensat takes. The access time is when the file was
// used: as long as it is that, nobody has read the file here.
func (n *node) times() [2]unix.Timespec {
	at, err := unix.TimeToTimespec(time.Unix(n.used, 0))
	mt, err2 := unix.TimeToTimespec(n.mtime.time())
	if err != nil || err2 != nil { // of a 32-bit clock
		return [2]unix.Timespec{}
	}
	return [2]unix.Timespec{at, mt}
}
