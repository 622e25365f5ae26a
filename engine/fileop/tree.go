package fileop

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// A tree is a root file system that can be changed: a View and, above it, what
// an overlay mount would have put into its upper directory. It serves one
// goroutine. Paths are clean and relative, "" is the root.
type tree struct {
	base *fsdiff.View
	root *node
	now  time.Time
}

// A node is a name in a directory.
type node struct {
	name string
	up   *node
	ino  *inode           // nil: removed, and hides what the base has
	kids map[string]*node // of a directory: those that were looked at or made

	merged bool // a directory of the base, whose contents there are seen
	low    bool // the base has something of this name that would be seen
	dirty  bool // in the upper directory, as are then all above it
}

// An inode is a file, a directory and so on. Hard links share one.
type inode struct {
	fsdiff.Entry
	names int // nodes in the upper directory
}

func newTree(base *fsdiff.View, now time.Time) *tree {
	t := &tree{base: base, now: now}
	t.root = &node{merged: true, low: true, ino: &inode{names: 1}}
	if e, err := t.base.Lookup(""); err == nil {
		t.root.ino.Entry = *e
	}
	return t
}

func (n *node) path() string {
	if n.up == nil {
		return ""
	}
	var parts []string
	for ; n.up != nil; n = n.up {
		parts = append(parts, n.name)
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

func (n *node) isDir() bool { return n.ino.Mode.IsDir() }

// child returns what is called name in dir; nil when there is nothing. The
// error is ENOTDIR when dir is no directory.
func (t *tree) child(dir *node, name string) (*node, error) {
	if n, ok := dir.kids[name]; ok {
		if n.ino == nil {
			return nil, nil
		}
		return n, nil
	}
	if !dir.isDir() {
		return nil, syscall.ENOTDIR
	}
	if !dir.merged {
		return nil, nil
	}
	e, err := t.base.Lookup(join(dir.path(), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := &node{name: name, up: dir, ino: &inode{Entry: *e, names: 1}, low: true, merged: e.IsDir()}
	dir.add(n)
	return n, nil
}

func (n *node) add(kid *node) {
	if n.kids == nil {
		n.kids = map[string]*node{}
	}
	n.kids[kid.name] = kid
}

// lstat returns what is at p; nil when there is nothing. The error is ENOTDIR
// when something on the way is no directory.
func (t *tree) lstat(p string) (*node, error) {
	n := t.root
	for p != "" {
		var name string
		name, p, _ = strings.Cut(p, "/")
		var err error
		if n, err = t.child(n, name); err != nil || n == nil {
			return nil, err
		}
	}
	return n, nil
}

// resolve follows the links of p as fsdiff.View.Resolve does, but fails with
// ENOTDIR where p leads through something that is no directory.
func (t *tree) resolve(p string, followLast bool) (string, error) {
	return t.resolveIn("", p, followLast)
}

// resolveIn is resolve for a process whose root is the directory top.
func (t *tree) resolveIn(top, p string, followLast bool) (string, error) {
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
		next := join(cur, name)
		n, err := t.lstat(join(top, next))
		if err != nil {
			return "", &fs.PathError{Op: "lstat", Path: "/" + join(top, next), Err: err}
		}
		last := strings.Trim(rest, "/") == ""
		if n == nil || !n.ino.IsSymlink() || last && !followLast {
			cur = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("resolve %q: %w", p, fsdiff.ErrTooManyLinks)
		}
		if path.IsAbs(n.ino.Linkname) {
			cur = ""
		}
		rest = n.ino.Linkname + "/" + rest
	}
	return join(top, cur), nil
}

// maxLinks is the number of links after which BuildKit gives up.
const maxLinks = 255

// copyUp puts n into the upper directory.
func (t *tree) copyUp(n *node) {
	for ; n != nil && !n.dirty; n = n.up {
		n.dirty = true
	}
}

// touch is what happens to a directory when a name in it comes or goes.
func (t *tree) touch(dir *node) {
	t.copyUp(dir)
	dir.ino.ModTime = t.now
}

// put gives ino a name in dir, where the caller knows that there is none. A
// new inode in a setgid directory gets its group, and a directory the bit too.
func (t *tree) put(dir *node, name string, ino *inode) *node {
	n := dir.kids[name] // removed before
	if n == nil {
		n = &node{name: name, up: dir}
		dir.add(n)
	}
	n.ino, n.dirty, n.merged, n.kids = ino, true, false, nil
	ino.names++
	if ino.names == 1 && dir.ino.Mode&fs.ModeSetgid != 0 {
		ino.GID = dir.ino.GID
		if ino.Mode.IsDir() {
			ino.Mode |= fs.ModeSetgid
		}
	}
	t.touch(dir)
	return n
}

// link gives the inode of old another name.
func (t *tree) link(old *node, dir *node, name string) *node {
	t.copyUp(old)
	return t.put(dir, name, old.ino)
}

// unlink removes n and what is below it.
func (t *tree) unlink(n *node) {
	dir := n.up
	n.forget()
	if n.low && dir.merged {
		n.ino, n.kids, n.merged, n.dirty = nil, nil, false, true
	} else {
		delete(dir.kids, n.name)
	}
	t.touch(dir)
}

// forget takes the names below n, and n, off their inodes.
func (n *node) forget() {
	if n.ino == nil {
		return
	}
	n.ino.names--
	for _, k := range n.kids {
		k.forget()
	}
}

// chown sets the owner. As the kernel does, it takes the set-id bits and the
// capability from a file.
func (i *inode) chown(uid, gid uint32) {
	i.UID, i.GID = uid, gid
	if !i.Mode.IsRegular() {
		return
	}
	i.Mode &^= fs.ModeSetuid
	if i.Mode&0o010 != 0 {
		i.Mode &^= fs.ModeSetgid
	}
	if _, ok := i.Xattrs["security.capability"]; ok {
		i.addXattrs(nil)
		delete(i.Xattrs, "security.capability")
	}
}

const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

func (i *inode) chmod(m fs.FileMode) { i.Mode = i.Mode&^modeBits | m&modeBits }

// addXattrs adds attrs. The map is then the inode's own.
func (i *inode) addXattrs(attrs map[string][]byte) {
	if len(attrs)+len(i.Xattrs) == 0 {
		return
	}
	own := make(map[string][]byte, len(i.Xattrs)+len(attrs))
	for _, m := range []map[string][]byte{i.Xattrs, attrs} {
		for k, v := range m {
			own[k] = v
		}
	}
	i.Xattrs = own
}

// Lookup returns the entry at p, as a View's does.
func (t *tree) Lookup(p string) (*fsdiff.Entry, error) {
	n, err := t.lstat(p)
	if err != nil {
		return nil, err
	}
	if n == nil {
		return nil, fs.ErrNotExist
	}
	e := n.ino.Entry
	e.Path = p
	return &e, nil
}

// Resolve is resolve, as a View has it.
func (t *tree) Resolve(p string, followLast bool) (string, error) { return t.resolve(p, followLast) }

// ReadDir returns the entries of the directory p by name, as a View's does.
func (t *tree) ReadDir(p string) ([]*fsdiff.Entry, error) {
	dir, err := t.lstat(p)
	if err != nil || dir == nil {
		return nil, err
	}
	if dir.merged {
		low, err := t.base.ReadDir(p)
		if err != nil {
			return nil, err
		}
		for _, e := range low {
			if _, err := t.child(dir, path.Base(e.Path)); err != nil {
				return nil, err
			}
		}
	}
	var list []*fsdiff.Entry
	for name, n := range dir.kids {
		if n.ino != nil {
			e := n.ino.Entry
			e.Path = join(p, name)
			list = append(list, &e)
		}
	}
	slices.SortFunc(list, func(a, b *fsdiff.Entry) int { return cmp.Compare(a.Path, b.Path) })
	return list, nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	if name == "" {
		return dir
	}
	return dir + "/" + name
}

// parentOf returns the path of the directory that holds p, "" for the root.
func parentOf(p string) string {
	if d := path.Dir(p); d != "." {
		return d
	}
	return ""
}

// clean is an absolute path of LLB as a path in a tree.
func clean(p string) string { return strings.TrimPrefix(path.Join("/", p), "/") }

func notFound(p string) error { return fmt.Errorf("%q: %w", "/"+p, errdefs.ErrNotFound) }

func pathError(op, p string, err error) error {
	return &fs.PathError{Op: op, Path: "/" + p, Err: err}
}
