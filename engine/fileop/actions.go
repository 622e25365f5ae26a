package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/moby/buildkit/solver/pb"
)

func mkdir(t *tree, a *pb.FileActionMkDir, who *owner) error {
	p, err := t.resolve(a.Path, true)
	if err != nil {
		return err
	}
	mode, at := fs.FileMode(a.Mode)&fs.ModePerm, timestamp(a.Timestamp)
	if a.MakeParents {
		_, err := t.mkdirAll(p, mode, who, at)
		return err
	}
	switch n, err := t.lstat(p); {
	case err != nil:
		return pathError("mkdir", p, err)
	case n != nil:
		return nil // whatever it is: BuildKit takes any "file exists" for success
	}
	dir, err := t.dirOf("mkdir", p)
	if err != nil {
		return err
	}
	t.mkdirIn(dir, path.Base(p), mode, who, at)
	return nil
}

// dirOf returns the directory that p is or will be in.
func (t *tree) dirOf(op, p string) (*node, error) {
	dir, err := t.lstat(parentOf(p))
	switch {
	case err != nil:
		return nil, pathError(op, p, err)
	case dir == nil:
		return nil, pathError(op, p, fs.ErrNotExist)
	case !dir.isDir():
		return nil, pathError(op, p, syscall.ENOTDIR)
	}
	return dir, nil
}

func (t *tree) mkdirIn(dir *node, name string, mode fs.FileMode, who *owner, at *time.Time) *node {
	n := t.put(dir, name, &inode{Entry: fsdiff.Entry{Mode: fs.ModeDir | mode&modeBits, ModTime: t.now}})
	if who != nil {
		n.ino.chown(who.uid, who.gid)
	}
	if at != nil {
		n.ino.ModTime = *at
	}
	return n
}

// mkdirAll makes the directory p, whose links are resolved, and those missing
// above it. It returns what it made, the topmost first. The times of all but
// the last are then those of the making.
func (t *tree) mkdirAll(p string, mode fs.FileMode, who *owner, at *time.Time) ([]*node, error) {
	var made []*node
	dir := t.root
	for done, rest := "", p; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		done = join(done, name)
		n, err := t.child(dir, name)
		if err != nil {
			return nil, pathError("mkdir", parentOf(done), err)
		}
		if n == nil {
			n = t.mkdirIn(dir, name, mode, who, at)
			made = append(made, n)
		}
		dir = n
	}
	if !dir.isDir() {
		return nil, pathError("mkdir", p, syscall.ENOTDIR)
	}
	return made, nil
}

// setTimes gives directories that were made on the way their time again,
// which things made in them took from them.
func setTimes(dirs []*node, at *time.Time) {
	if at == nil {
		return
	}
	for _, d := range dirs {
		d.ino.ModTime = *at
	}
}

func mkfile(t *tree, a *pb.FileActionMkFile, who *owner) error {
	p, err := t.resolve(a.Path, true)
	if err != nil {
		return err
	}
	if p == "" {
		return pathError("mkfile", p, syscall.EISDIR)
	}
	dir, err := t.dirOf("mkfile", p)
	if err != nil {
		return err
	}
	old, err := t.child(dir, path.Base(p))
	if err != nil {
		return pathError("mkfile", p, err)
	}
	if old != nil {
		if old.isDir() {
			return pathError("mkfile", p, syscall.EISDIR)
		}
		t.unlink(old)
	}
	e := fsdiff.Entry{Mode: fs.FileMode(a.Mode) & fs.ModePerm, Size: int64(len(a.Data)), ModTime: t.now}
	if len(a.Data) > 0 {
		e.Content = fsdiff.Bytes(slices.Clone(a.Data))
	}
	n := t.put(dir, path.Base(p), &inode{Entry: e})
	n.ino.settle(who, timestamp(a.Timestamp))
	return nil
}

// settle sets owner and time of a new inode where they are given.
func (i *inode) settle(who *owner, at *time.Time) {
	if who != nil {
		i.UID, i.GID = who.uid, who.gid
	}
	if at != nil {
		i.ModTime = *at
	}
}

func symlink(t *tree, a *pb.FileActionSymlink, who *owner) error {
	p, err := t.resolve(a.Newpath, true)
	if err != nil {
		return err
	}
	switch n, err := t.lstat(p); {
	case err != nil:
		return pathError("symlink", p, err)
	case n != nil:
		return pathError("symlink", p, fs.ErrExist)
	}
	dir, err := t.dirOf("symlink", p)
	if err != nil {
		return err
	}
	n := t.put(dir, path.Base(p), &inode{Entry: fsdiff.Entry{
		Mode: fs.ModeSymlink | fs.ModePerm, Linkname: a.Oldpath, ModTime: t.now,
	}})
	n.ino.settle(who, timestamp(a.Timestamp))
	return nil
}

func remove(t *tree, a *pb.FileActionRm) error {
	paths := []string{a.Path}
	if a.AllowWildcard {
		var err error
		if paths, err = resolveWildcards(t, cleanKeepSlash(a.Path), false); err != nil {
			return err
		}
	}
	for _, p := range paths {
		if err := removePath(t, p, a.AllowNotFound); err != nil {
			return err
		}
	}
	return nil
}

func removePath(t *tree, p string, allowNotFound bool) error {
	dir, name := path.Split(path.Join("/", p))
	if name == "" {
		return errors.New("rm: the root cannot be removed")
	}
	d, err := t.resolve(dir, true)
	if err != nil {
		return err
	}
	p = join(d, name)
	if !allowNotFound {
		// A link that leads nowhere counts as not there.
		target, err := t.resolve(p, true)
		if err != nil {
			return fmt.Errorf("rm: %w", err)
		}
		if n, err := t.lstat(target); err == nil && n == nil {
			return fmt.Errorf("rm: %w", notFound(p))
		}
	}
	switch n, err := t.lstat(p); {
	case err != nil:
		return pathError("rm", p, err)
	case n != nil:
		t.unlink(n)
	}
	return nil
}
