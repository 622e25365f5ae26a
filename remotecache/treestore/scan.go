package treestore

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A scanned is an object of a directory as the file system has it.
type scanned struct {
	node
	path string
	stat stat
}

// A stat is what says whether a file is the one that was read.
type stat struct {
	ino, dev     uint64
	size, blocks int64
	mtime, ctime stamp
	atime        stamp
	links        uint64
}

func statOf(st *unix.Stat_t) stat {
	return stat{
		ino: st.Ino, dev: uint64(st.Dev), size: st.Size, blocks: st.Blocks, links: uint64(st.Nlink),
		mtime: stampOf(st.Mtim), ctime: stampOf(st.Ctim), atime: stampOf(st.Atim),
	}
}

// sameFile reports whether nothing was done to a file between two stats.
func (s stat) sameFile(t stat) bool {
	return s.ino == t.ino && s.size == t.size && s.mtime == t.mtime && s.ctime == t.ctime
}

// A scan is one walk through a directory. Directories are read side by side
// while goroutines are free, and one below the other when none is.
type scan struct {
	ctx    context.Context
	root   *root
	dev    uint64 // other file systems are not entered
	xattrs bool
	devs   bool // devices are part of a directory
	group  *errgroup.Group
}

// A listing is what is in one directory: entries and, for those that are
// directories, their listings.
type listing struct {
	entries []scanned
	below   []*listing // nil for what is no directory
}

// scanTree returns what is in a directory, in the order of a tree's nodes.
// Links are not resolved, and files not read. What vanishes meanwhile is left
// out, and so are sockets and, unless this is root's process, devices.
func scanTree(ctx context.Context, r *root, xattrs bool, parallel int) ([]scanned, error) {
	s := &scan{root: r, xattrs: xattrs, devs: os.Geteuid() == 0}
	s.group, s.ctx = errgroup.WithContext(ctx)
	s.group.SetLimit(parallel)
	fd, err := r.open("", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	top := scanned{}
	if _, err := s.entry(fd, ".", &top); err != nil {
		return nil, err
	}
	s.dev = top.stat.dev
	l := &listing{}
	err = s.dir("", l)
	if werr := s.group.Wait(); err == nil {
		err = werr
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	return l.flatten([]scanned{top}, 0), nil
}

func (l *listing) flatten(out []scanned, parent int) []scanned {
	for i := range l.entries {
		e := l.entries[i]
		e.parent = parent
		out = append(out, e)
		if l.below[i] != nil {
			out = l.below[i].flatten(out, len(out)-1)
		}
	}
	return out
}

func (s *scan) dir(path string, l *listing) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	fd, err := s.root.open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) {
		fd, err = s.root.open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if vanished(err) {
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil && !vanished(err) {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		e := scanned{path: join(path, name)}
		ok, err := s.entry(int(f.Fd()), name, &e)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		e.name = name
		l.entries = append(l.entries, e)
		l.below = append(l.below, nil)
	}
	for i := range l.entries {
		if !l.entries[i].isDir() {
			continue
		}
		sub := &listing{}
		l.below[i] = sub
		visit := func() error { return s.dir(l.entries[i].path, sub) }
		if !s.group.TryGo(visit) {
			if err := visit(); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry reads the entry name of the open directory dir. ok is false when it is
// not part of the tree.
func (s *scan) entry(dir int, name string, e *scanned) (ok bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if vanished(err) {
			return false, nil
		}
		return false, &os.PathError{Op: "stat", Path: s.root.path + "/" + e.path, Err: err}
	}
	e.stat = statOf(&st)
	e.mode, e.uid, e.gid, e.mtime = uint32(st.Mode), st.Uid, st.Gid, e.stat.mtime
	switch e.kind() {
	case unix.S_IFSOCK:
		return false, nil
	case unix.S_IFCHR, unix.S_IFBLK:
		e.dev = [2]uint32{unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))}
		return s.devs, nil
	case unix.S_IFREG:
		e.size = st.Size
	case unix.S_IFDIR:
		if s.dev != 0 && e.stat.dev != s.dev {
			return false, nil // something is mounted there
		}
	case unix.S_IFLNK:
		buf := make([]byte, maxTarget+1)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil || n == 0 || n > maxTarget {
			return false, nil // no longer a link, or one that cannot be made
		}
		e.target = strings.Clone(string(buf[:n]))
	}
	if s.xattrs && (e.kind() == unix.S_IFREG || e.kind() == unix.S_IFDIR) {
		if e.xattrs, err = xattrsOf(dir, name); err != nil && !vanished(err) {
			return false, &os.PathError{Op: "read extended attributes of", Path: s.root.path + "/" + e.path, Err: err}
		}
	}
	return true, nil
}

// usedAt returns when a file was last written or read, as far as the file
// system tells, in seconds since 1970. reads says that access times count.
func (s stat) usedAt(reads bool, now time.Time) int64 {
	at := s.ctime.sec
	if reads {
		at = max(at, s.atime.sec)
	}
	return min(at, now.Unix())
}

// readsCount reports whether a file system notes when its files are read, at
// least the first time after they were written.
func readsCount(r *root) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(r.fd(), &st) == nil && st.Flags&unix.ST_NOATIME == 0
}
