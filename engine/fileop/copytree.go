package fileop

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/moby/patternmatcher"
)

// A treeCopy copies one source with all below it.
type treeCopy struct {
	*copying
	links   map[uint64]*inode // of the source's hard links, what they became
	include *patternmatcher.PatternMatcher
	exclude *patternmatcher.PatternMatcher
	seen    int
}

// A destDir is the directory that something is copied into. When patterns
// decide what is copied it may only be made once there is something for it.
type destDir struct {
	up   *destDir // nil at the top
	name string
	node *node         // nil: not there yet
	src  *fsdiff.Entry // what it is a copy of
	made bool          // there, and with the source's mode if it is to have it
}

// A verdict is what the patterns say of a path and, of a directory, of the
// paths below it.
type verdict struct {
	in, excluded     bool
	include, exclude patternmatcher.MatchInfo
}

func (t *treeCopy) patterns() (err error) {
	if len(t.a.IncludePatterns) > 0 {
		if t.include, err = patternmatcher.New(t.a.IncludePatterns); err != nil {
			return fmt.Errorf("include patterns %q: %w", t.a.IncludePatterns, err)
		}
	}
	if len(t.a.ExcludePatterns) > 0 {
		if t.exclude, err = patternmatcher.New(t.a.ExcludePatterns); err != nil {
			return fmt.Errorf("exclude patterns %q: %w", t.a.ExcludePatterns, err)
		}
	}
	return nil
}

// judge applies the patterns to the path rel below the source.
func (t *treeCopy) judge(rel string, up verdict) (v verdict, err error) {
	v.in = true
	if t.include != nil {
		if v.in, v.include, err = t.include.MatchesUsingParentResults(rel, up.include); err != nil {
			return v, fmt.Errorf("match include patterns: %w", err)
		}
	}
	if t.exclude != nil {
		if v.excluded, v.exclude, err = t.exclude.MatchesUsingParentResults(rel, up.exclude); err != nil {
			return v, fmt.Errorf("match exclude patterns: %w", err)
		}
		v.in = v.in && !v.excluded
	}
	return v, nil
}

// exceptions says whether something in an excluded directory may be in.
func (t *treeCopy) exceptions() bool { return t.exclude != nil && t.exclude.Exclusions() }

// copy copies e, whose path below the source is rel, to name in dir. dir is
// nil when the destination is the root itself.
func (t *treeCopy) copy(e *fsdiff.Entry, rel string, dir *destDir, name string, v verdict) error {
	if t.seen++; t.seen%512 == 0 {
		if err := context.Cause(t.ctx); err != nil {
			return err
		}
	}
	if !v.in && (!e.IsDir() || t.include == nil && !t.exceptions()) {
		return nil
	}
	there, err := t.target(dir, name)
	if err != nil {
		return err
	}
	if v.in && dir != nil {
		if there != nil && t.a.AlwaysReplaceExistingDestPaths && (!e.IsDir() || !there.isDir()) {
			t.dst.unlink(there)
			there = nil
		}
		if err := t.make(dir, rel != ""); err != nil {
			return err
		}
	}
	if e.IsDir() {
		return t.directory(e, rel, &destDir{up: dir, name: name, node: there, src: e}, v)
	}
	if there != nil {
		if there.isDir() {
			return fmt.Errorf("cannot replace to directory /%s with file", there.path())
		}
		t.dst.unlink(there)
	}
	t.file(e, dir.node, name)
	return nil
}

// target returns what is at the destination already.
func (t *treeCopy) target(dir *destDir, name string) (*node, error) {
	switch {
	case dir == nil:
		return t.dst.root, nil
	case dir.node == nil:
		return nil, nil
	}
	n, err := t.dst.child(dir.node, name)
	if err != nil {
		return nil, pathError("stat", join(dir.node.path(), name), err)
	}
	return n, nil
}

// make sees to it that dir and those above it are there. nested says that what
// is copied into it is not the source itself.
func (t *treeCopy) make(dir *destDir, nested bool) error {
	if dir == nil || dir.made {
		return nil
	}
	if err := t.make(dir.up, nested); err != nil {
		return err
	}
	created, err := t.directoryOnly(dir, nested)
	if err != nil {
		return err
	}
	if created {
		t.info(dir.node.ino, dir.src)
		dir.node.ino.addXattrs(dir.src.Xattrs)
	}
	return nil
}

// directoryOnly makes dir, in its parent, which is there, or gives it the
// source's mode if overwrite says so. It says whether dir is new.
func (t *treeCopy) directoryOnly(dir *destDir, overwrite bool) (created bool, err error) {
	switch {
	case dir.node == nil:
		dir.node = t.dst.put(dir.up.node, dir.name, &inode{Entry: fsdiff.Entry{
			Mode: fs.ModeDir | dir.src.Mode&modeBits, ModTime: t.dst.now,
		}})
		created = true
	case !dir.node.isDir():
		return false, fmt.Errorf("cannot copy to non-directory: /%s", dir.node.path())
	case overwrite:
		t.dst.copyUp(dir.node)
		dir.node.ino.chmod(dir.src.Mode)
	}
	dir.made = true
	return created, nil
}

// directory copies the directory e to dir, whose parent is there if v.in.
func (t *treeCopy) directory(e *fsdiff.Entry, rel string, dir *destDir, v verdict) error {
	nested, created := rel != "", false
	existed := dir.node != nil
	if v.in {
		var err error
		if created, err = t.directoryOnly(dir, nested); err != nil {
			return err
		}
	}
	if !v.excluded || t.exceptions() {
		list, err := t.src.ReadDir(e.Path)
		if err != nil {
			return err
		}
		for _, k := range list {
			name := k.Path[strings.LastIndexByte(k.Path, '/')+1:]
			kv := verdict{in: true}
			kidRel := name
			if t.include != nil || t.exclude != nil {
				kidRel = join(rel, name)
				if kv, err = t.judge(kidRel, v); err != nil {
					return err
				}
			}
			if err := t.copy(k, kidRel, dir, name, kv); err != nil {
				return err
			}
		}
	}
	switch {
	case v.in && (nested || created):
		t.dst.copyUp(dir.node)
		t.info(dir.node.ino, e)
		dir.node.ino.addXattrs(e.Xattrs)
	case !nested && existed: // the source itself: a directory that was there keeps all but its time
		t.dst.copyUp(dir.node)
		dir.node.ino.ModTime = t.time(e)
	}
	return nil
}

// file copies e, which is no directory, to name in dir, where nothing is.
func (t *treeCopy) file(e *fsdiff.Entry, dir *node, name string) {
	if e.IsRegular() && e.Inode != 0 {
		if ino := t.links[e.Inode]; ino != nil {
			t.dst.put(dir, name, ino)
			return
		}
	}
	ino := &inode{Entry: *e}
	switch kind := e.Mode & fs.ModeType; {
	case kind&fs.ModeSocket != 0: // a stub, as a context has it
		ino.Mode &= modeBits
	case kind == fs.ModeDevice:
		// BuildKit takes the bits of a socket's type from the mode of what it
		// copies, which turns a block device into a character device.
		ino.Mode |= fs.ModeCharDevice
	}
	if e.IsRegular() && e.Inode != 0 {
		t.links[e.Inode] = ino
	}
	t.dst.put(dir, name, ino)
	t.info(ino, e)
}

// info gives ino owner, mode and time of e, or those that were asked for.
func (t *treeCopy) info(ino *inode, e *fsdiff.Entry) {
	ino.UID, ino.GID = e.UID, e.GID
	if t.who != nil {
		ino.UID, ino.GID = t.who.uid, t.who.gid
	}
	if !e.IsSymlink() {
		switch {
		case t.modeSet != nil:
			ino.chmod(t.modeSet.Apply(e.Mode))
		case t.a.Mode != -1:
			ino.chmod(octalMode(t.a.Mode))
		default:
			ino.chmod(e.Mode)
		}
	}
	ino.ModTime = t.time(e)
}

func (t *treeCopy) time(e *fsdiff.Entry) time.Time {
	if t.at != nil {
		return *t.at
	}
	return e.ModTime
}

// octalMode is a mode as chmod(1) has it in digits.
func octalMode(m int32) fs.FileMode {
	mode := fs.FileMode(m) & fs.ModePerm
	if m&0o4000 != 0 {
		mode |= fs.ModeSetuid
	}
	if m&0o2000 != 0 {
		mode |= fs.ModeSetgid
	}
	if m&0o1000 != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}
