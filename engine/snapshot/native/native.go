// Package native makes root file systems by copying: slow, but it works on any
// file system and without any privilege to mount.
//
//	snapshot.Snapshotter ◀── Native ──▶ layertar.Materialize (Mount)
//	                           └──────▶ compare with the lowers (Commit)
package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layertar"
	"github.com/mayfly-build/mayfly/engine/snapshot"
)

// A Native is a Snapshotter. Its read-only roots can be written to; what is
// written is lost.
type Native struct {
	dir string
}

// New returns a Native that copies to cfg.Dir.
func New(cfg snapshot.Config) (*Native, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("native snapshots: %w", err)
	}
	return &Native{dir: dir}, nil
}

// Name returns "native".
func (n *Native) Name() string { return "native" }

// Mount copies what lowers are together, sharing blocks where the file system
// can.
func (n *Native) Mount(ctx context.Context, lowers []string, readonly bool) (*snapshot.Mounted, error) {
	var base *fsdiff.View
	for _, l := range lowers {
		if _, err := os.Stat(l); err != nil { // to a Diff it would be empty
			return nil, fmt.Errorf("copy a root file system: %w", err)
		}
		base = fsdiff.NewView(base, fsdiff.Dir(l))
	}
	root, err := os.MkdirTemp(n.dir, "root-")
	if err != nil {
		return nil, fmt.Errorf("copy a root file system: %w", err)
	}
	discard := func() error { return os.RemoveAll(root) }
	if base != nil {
		err = layertar.Materialize(ctx, base, root)
	}
	if err == nil {
		err = os.Chmod(root, 0o755) // as overlay's: what a layer says of the root is not kept
	}
	var c *comparison
	if err == nil && !readonly {
		c = &comparison{root: root, base: base, upper: fsdiff.Dir(root), dirs: map[string]uint64{}}
		err = c.begin()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("copy a root file system of %d layers: %w", len(lowers), err), discard())
	}
	commit := func(ctx context.Context) (string, error) {
		if readonly {
			return "", snapshot.ErrReadOnly
		}
		if err := c.reduce(ctx, "", true); err != nil {
			return "", fmt.Errorf("find what changed in a root file system: %w", err)
		}
		return root, nil
	}
	return snapshot.NewMounted(root, commit, discard), nil
}

// A comparison turns a changed copy into the directory of its changes: what is
// as in base goes, what is missing becomes a whiteout.
//
// Most files did not change, and their mtime cannot tell: it is often whole
// seconds, and anybody can set it. So the copy's directories are remembered by
// inode, with the time when the copy was complete: a file whose ctime is not
// later, in a directory that is where it was, is as it was.
type comparison struct {
	root  string
	base  *fsdiff.View
	upper fsdiff.Diff       // root, read when it no longer changes but here
	dirs  map[string]uint64 // inode of each directory of the copy
	since unix.Timespec
}

// begin is called when the copy is complete.
func (c *comparison) begin() error {
	err := filepath.WalkDir(c.root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: name, Err: err}
		}
		rel, err := filepath.Rel(c.root, name)
		c.dirs[rel] = st.Ino
		return err
	})
	if err != nil {
		return err
	}
	return c.mark()
}

// mark waits until the clock of the file system, which ticks a few hundred
// times a second, has moved on: a later change then has a later ctime.
func (c *comparison) mark() error {
	name := filepath.Join(filepath.Dir(c.root), "."+filepath.Base(c.root)+".clock")
	defer os.Remove(name)
	var first unix.Timespec
	for i := 0; ; i++ {
		if err := os.WriteFile(name, []byte{byte(i)}, 0o600); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: name, Err: err}
		}
		if i == 0 {
			first = st.Ctim
		}
		if st.Ctim != first {
			c.since = first
			return nil
		}
		if i > 5000 { // no ctime to speak of: every file is compared
			return nil
		}
		time.Sleep(500 * time.Microsecond)
	}
}

// reduce reduces the directory rel; still says that it and all above it are
// directories of the copy, in their places.
func (c *comparison) reduce(ctx context.Context, rel string, still bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	have, err := os.ReadDir(filepath.Join(c.root, rel))
	if err != nil {
		return err
	}
	below, err := c.base.ReadDir(rel)
	if err != nil {
		return err
	}
	lower := make(map[string]*fsdiff.Entry, len(below))
	for _, e := range below {
		lower[e.Path[strings.LastIndexByte(e.Path, '/')+1:]] = e
	}
	for _, d := range have {
		e := lower[d.Name()]
		delete(lower, d.Name())
		if e == nil {
			continue // new, with all below it
		}
		if err := c.one(ctx, e, still); err != nil {
			return err
		}
	}
	for _, e := range lower {
		if err := unix.Mknod(filepath.Join(c.root, e.Path), unix.S_IFCHR, 0); err != nil {
			return &fs.PathError{Op: "make whiteout", Path: filepath.Join(c.root, e.Path), Err: err}
		}
	}
	return nil
}

// one reduces what is at e.Path, where base has e.
func (c *comparison) one(ctx context.Context, e *fsdiff.Entry, still bool) error {
	name := filepath.Join(c.root, e.Path)
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		same := still && !after(st.Ctim, c.since)
		if !same {
			now, err := c.upper.Lookup(e.Path)
			if err != nil {
				return err
			}
			if now.Whiteout {
				return nil // made by the step itself
			}
			if same, err = fsdiff.Same(e, now); err != nil {
				return err
			}
		}
		if same {
			return os.Remove(name)
		}
		return nil
	}
	if !e.IsDir() {
		return nil // new, with all below it
	}
	now, err := c.upper.Lookup(e.Path) // before anything in it is removed
	if err != nil {
		return err
	}
	if err := c.reduce(ctx, e.Path, still && c.dirs[e.Path] == st.Ino); err != nil {
		return err
	}
	same, err := fsdiff.Same(e, now)
	if err != nil {
		return err
	}
	if same && os.Remove(name) == nil { // nothing was left in it
		return nil
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "set times", Path: name, Err: err}
	}
	return nil
}

func after(a, b unix.Timespec) bool {
	return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec
}
