// Package local writes a root file system into a directory of this machine.
//
//	fsdiff.View ──▶ local ──▶ files, owned by whoever runs the build
//
// The result is that of BuildKit v0.33's local exporter: what is in the
// directory stays unless the tree has something else of that name, modes and
// times are the tree's, owners are not. Nothing is written outside of the
// directory, whatever links are in it or in the tree.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// Options of an export. The zero value changes nothing.
type Options struct {
	Epoch *time.Time // every file's modification time; nil keeps their own
	Sub   string     // name of a directory below dir that takes the files instead; "" is dir itself
}

// Export writes the view into dir, which is made when need be. A nil view is
// an empty root. After an error some files may be there and others not; none
// is there in part under its name.
func Export(ctx context.Context, view *fsdiff.View, dir string, opt Options) error {
	if err := export(ctx, view, dir, opt); err != nil {
		return fmt.Errorf("export to %s: %w", dir, err)
	}
	return nil
}

func export(ctx context.Context, view *fsdiff.View, dir string, opt Options) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if opt.Sub == "" {
		return fill(ctx, root, view, opt)
	}
	if fi, err := root.Lstat(opt.Sub); err == nil && !fi.IsDir() {
		if err := root.Remove(opt.Sub); err != nil {
			return err
		}
	}
	if err := root.Mkdir(opt.Sub, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	sub, err := root.OpenRoot(opt.Sub)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := fill(ctx, sub, view, opt); err != nil {
		return fmt.Errorf("%s: %w", opt.Sub, err)
	}
	made := time.Unix(0, 0) // no step made it
	if opt.Epoch != nil {
		made = *opt.Epoch
	}
	return errors.Join(root.Chmod(opt.Sub, 0o755), root.Chtimes(opt.Sub, made, made))
}

// fill writes the view into a directory that is there.
func fill(ctx context.Context, root *os.Root, view *fsdiff.View, opt Options) error {
	if view == nil {
		return nil
	}
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	top, err := openDir(int(d.Fd()), ".", 0)
	d.Close()
	if err != nil {
		return err
	}
	e := &exporter{
		view: view, opt: opt, root: root, uid: os.Getuid(), gid: os.Getgid(), first: map[uint64]*fsdiff.Entry{},
	}
	// Files are written beside the walk; a disk and a memory copy are not
	// faster with more than this.
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, min(8, runtime.NumCPU())))
	e.group = g
	err = e.dir(gctx, top, "")
	top.release()
	// The writers' error first: the walk's may be only that they ended it.
	if werr := g.Wait(); werr != nil {
		return werr
	}
	if err != nil {
		return err
	}
	if err := e.link(ctx); err != nil {
		return err
	}
	return e.finish()
}

type exporter struct {
	view  *fsdiff.View
	opt   Options
	root  *os.Root
	group *errgroup.Group

	uid, gid int // whose everything will be

	dirs  []*fsdiff.Entry          // in the order of the walk
	first map[uint64]*fsdiff.Entry // of the hard links with an inode
	links [][2]*fsdiff.Entry       // a further one, and the first
}

// dir writes what is in the directory p, whose descriptor is d.
func (e *exporter) dir(ctx context.Context, d *handle, p string) error {
	list, err := e.view.ReadDir(p)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := e.entry(ctx, d, c); err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
	}
	return nil
}

func (e *exporter) entry(ctx context.Context, d *handle, c *fsdiff.Entry) error {
	name := path.Base(c.Path)
	if name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is no file name", name)
	}
	switch {
	case c.IsDir():
		return e.subdir(ctx, d, c, name)
	case c.Mode&fs.ModeSocket != 0: // BuildKit makes a file of it
		empty := *c
		empty.Mode, empty.Size, empty.Content = c.Mode&^fs.ModeSocket, 0, nil
		c = &empty
	case !c.Mode.IsRegular():
		return e.special(d, c, name)
	}
	if c.Inode != 0 {
		if first := e.first[c.Inode]; first != nil {
			e.links = append(e.links, [2]*fsdiff.Entry{c, first})
			return nil
		}
		e.first[c.Inode] = c
	}
	d.hold()
	e.group.Go(func() error {
		defer d.release()
		if err := e.file(ctx, d, c, name); err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
		return nil
	})
	return nil
}

func (e *exporter) subdir(ctx context.Context, d *handle, c *fsdiff.Entry, name string) error {
	// Until all is in it, the directory is ours alone to enter.
	err := unix.Mkdirat(d.fd, name, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err = unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err = unix.Unlinkat(d.fd, name, 0); err == nil {
				err = unix.Mkdirat(d.fd, name, 0o700)
			}
		}
	}
	if err != nil {
		return err
	}
	sub, err := e.enter(d, name, c.Path)
	if err != nil {
		return err
	}
	defer sub.release()
	e.dirs = append(e.dirs, c)
	return e.dir(ctx, sub, c.Path)
}

// enter opens a directory to write in it. One that was there may have no
// rights for its owner; it gets its mode in the end anyway.
func (e *exporter) enter(d *handle, name, p string) (*handle, error) {
	sub, err := openDir(d.fd, name, unix.O_NOFOLLOW)
	if errors.Is(err, unix.EACCES) {
		if err := e.root.Chmod(p, 0o700); err != nil {
			return nil, err
		}
		sub, err = openDir(d.fd, name, unix.O_NOFOLLOW)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(sub.fd, &st); err == nil && st.Mode&0o700 != 0o700 && int(st.Uid) == os.Geteuid() {
		err = unix.Fchmod(sub.fd, 0o700)
	}
	if err != nil {
		sub.release()
		return nil, err
	}
	return sub, nil
}

// finish gives the directories their modes and times, the deepest first: to
// write into one changes its time, and may take a mode it will not have.
func (e *exporter) finish() error {
	for i := len(e.dirs) - 1; i >= 0; i-- {
		c := e.dirs[i]
		f, err := e.root.Open(c.Path)
		if err != nil {
			return err
		}
		err = e.dress(int(f.Fd()), c)
		f.Close()
		if err == nil {
			err = e.root.Chtimes(c.Path, e.time(c), e.time(c))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
	}
	return nil
}

// dress gives an open file its owner, which in a setgid directory is another
// group, its attributes and its mode. Attributes that the file system or our
// rights do not allow are dropped, and capabilities are, as BuildKit's own
// order of chown and write does it: they are for the image's users.
func (e *exporter) dress(fd int, c *fsdiff.Entry) error {
	if err := unix.Fchown(fd, e.uid, e.gid); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	for k, v := range c.Xattrs {
		if k == "security.capability" {
			continue
		}
		if err := unix.Fsetxattr(fd, k, v, 0); err != nil && !ignorable(err) {
			return fmt.Errorf("set %s: %w", k, err)
		}
	}
	return unix.Fchmod(fd, unixMode(c.Mode))
}

func ignorable(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL)
}

func (e *exporter) time(c *fsdiff.Entry) time.Time {
	if e.opt.Epoch != nil {
		return *e.opt.Epoch
	}
	return c.ModTime
}

// touch sets the time of something that is not open.
func (e *exporter) touch(d *handle, name string, c *fsdiff.Entry) error {
	ts, err := unix.TimeToTimespec(e.time(c))
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(d.fd, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func unixMode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for bit, mode := range map[fs.FileMode]uint32{fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX} {
		if m&bit != 0 {
			out |= mode
		}
	}
	return out
}
