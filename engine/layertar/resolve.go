package layertar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// maxLinks is how many symbolic links a path may lead through, as in
// containerd.
const maxLinks = 255

// A resolver turns the paths of a tar, which may lead through symbolic links
// that the same tar made, into real paths of the tree. Links are followed as
// if the tree were the root directory, never out of it.
type resolver struct {
	*tree
	lower func(ctx context.Context) (*fsdiff.View, error) // of the layers below
	view  *fsdiff.View                                    // what lower returned
	asked bool
}

func (r *resolver) lowerView() (*fsdiff.View, error) {
	if !r.asked {
		v, err := r.lower(r.ctx)
		if err != nil {
			return nil, fmt.Errorf("read the layers below: %w", err)
		}
		r.view, r.asked = v, true
	}
	return r.view, nil
}

// real returns where p, clean and relative, really is: its last component
// is kept as it is, and the directories above that are missing are made.
// mtime is the time of directories that no layer below has.
func (r *resolver) real(p string, mtime time.Time) (string, error) {
	dir, name := path.Split(p)
	dir, err := r.dir(strings.TrimSuffix(dir, "/"), func(p string) error { return r.makeParent(p, mtime) })
	if err != nil {
		return "", err
	}
	return path.Join(dir, name), nil
}

// dir returns where the directory p really is. Directories that are missing are
// made with missing, or are an error when that is nil.
func (r *resolver) dir(p string, missing func(p string) error) (string, error) {
	if r.dirs[p] != nil {
		return p, nil
	}
	cur, rest, links := "", p, 0
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			cur = parentOf(cur)
			continue
		}
		next := path.Join(cur, name)
		if r.dirs[next] != nil {
			cur = next
			continue
		}
		target, err := r.readlink(next)
		switch {
		case errors.Is(err, fs.ErrNotExist) && missing != nil:
			if err := missing(next); err != nil {
				return "", err
			}
			cur = next
			continue
		case err != nil:
			return "", fmt.Errorf("directory above is %q: %w", next, err)
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%q: %w", p, unix.ELOOP)
		}
		if path.IsAbs(target) {
			cur = ""
		}
		rest = target + "/" + rest
	}
	return cur, nil
}

// readlink returns the target of the symbolic link p of the tree. What is not
// a link is ENOTDIR; directories are known to the tree and not asked for.
func (r *resolver) readlink(p string) (string, error) {
	if err := r.await(p); err != nil {
		return "", err
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(r.root, p, buf)
	if err == unix.EINVAL {
		return "", unix.ENOTDIR
	}
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// makeParent makes a directory for which the tar has no header: it looks like
// the one of the layers below, or is root's with 0755.
func (r *resolver) makeParent(p string, mtime time.Time) error {
	v, err := r.lowerView()
	if err != nil {
		return err
	}
	n := node{path: p, mode: unix.S_IFDIR | 0o755, atime: mtime, mtime: mtime}
	if v != nil {
		e, err := v.Stat(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fsdiff.ErrTooManyLinks) {
			return fmt.Errorf("directory %q of the layers below: %w", p, err)
		}
		if err == nil && e.IsDir() {
			n = nodeOf(e)
			n.path = p
		}
	}
	return r.mkdir(n)
}

// nodeOf returns the node that looks like e.
func nodeOf(e *fsdiff.Entry) node {
	n := node{
		path: e.Path,
		mode: uint32(e.Mode.Perm()),
		uid:  e.UID, gid: e.GID,
		target: e.Linkname,
		atime:  e.ModTime, mtime: e.ModTime,
	}
	for _, bit := range []struct {
		mode fs.FileMode
		unix uint32
	}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}} {
		if e.Mode&bit.mode != 0 {
			n.mode |= bit.unix
		}
	}
	switch e.Mode.Type() {
	case 0:
		n.mode |= unix.S_IFREG
	case fs.ModeDir:
		n.mode |= unix.S_IFDIR
	case fs.ModeSymlink:
		n.mode |= unix.S_IFLNK
	case fs.ModeNamedPipe:
		n.mode |= unix.S_IFIFO
	case fs.ModeSocket:
		n.mode |= unix.S_IFSOCK
	case fs.ModeDevice:
		n.mode |= unix.S_IFBLK
		n.rdev = unix.Mkdev(e.Devmajor, e.Devminor)
	default:
		n.mode |= unix.S_IFCHR
		n.rdev = unix.Mkdev(e.Devmajor, e.Devminor)
	}
	for name, value := range e.Xattrs {
		if ours(name) {
			continue
		}
		if n.xattrs == nil {
			n.xattrs = map[string][]byte{}
		}
		n.xattrs[name] = value
	}
	return n
}
