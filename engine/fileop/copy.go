package fileop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/moby/buildkit/solver/pb"
	mode "github.com/tonistiigi/dchapes-mode"
)

// parentMode is the mode of directories that are made on the way to a
// destination.
const parentMode = 0o755

// A copying is one copy action.
type copying struct {
	ctx     context.Context
	src     *fsdiff.View
	dst     *tree
	who     *owner
	tempDir func() (string, error)

	a       *pb.FileActionCopy
	at      *time.Time
	modeSet *mode.Set // of ModeStr
	files   *unpackDir
}

func (c *copying) run(a *pb.FileActionCopy) error {
	c.a, c.at = a, timestamp(a.Timestamp)
	if a.ModeStr != "" {
		set, err := mode.ParseWithUmask(a.ModeStr, 0)
		if err != nil {
			return fmt.Errorf("copy: mode %q: %w", a.ModeStr, err)
		}
		c.modeSet = &set
	}
	src, dest := cleanKeepSlash(a.Src), cleanKeepSlash(a.Dest)
	if !a.CreateDestPath {
		p, err := c.dst.resolve(a.Dest, true)
		if err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		if n, err := c.dst.lstat(parentOf(p)); err != nil {
			return fmt.Errorf("copy: %w", pathError("stat", parentOf(p), err))
		} else if n == nil {
			return fmt.Errorf("copy to %q: %w", a.Dest, notFound(parentOf(p)))
		}
	}
	sources := []string{src}
	if a.AllowWildcard {
		var err error
		if sources, err = resolveWildcards(c.src, src, a.FollowSymlink); err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		if len(sources) == 0 && !a.AllowEmptyWildcard {
			return fmt.Errorf("copy: %w", notFound(clean(src)))
		}
	}
	for _, s := range sources {
		if a.AttemptUnpackDockerCompatibility {
			done, err := c.unpack(s, dest)
			if err != nil {
				return fmt.Errorf("unpack %q: %w", path.Join("/", s), err)
			}
			if done {
				continue
			}
		}
		if err := c.one(s, dest); err != nil {
			return fmt.Errorf("copy: %w", err)
		}
	}
	return nil
}

// one copies the source src, in which no wildcard is left.
func (c *copying) one(src, dest string) error {
	onTheWay := fs.FileMode(parentMode)
	if c.a.ModeStr == "" && c.a.Mode != -1 {
		onTheWay = fs.FileMode(c.a.Mode) & fs.ModePerm
	}
	ensure := dest
	if dir, name := path.Split(dest); name != "" && name != "." {
		ensure = dir
	}
	p, err := c.dst.resolve(ensure, true)
	if err != nil {
		return err
	}
	made, err := c.dst.mkdirAll(p, onTheWay, c.who, c.at)
	if err != nil {
		return err
	}
	defer func() { setTimes(made, c.at) }()

	target, err := c.dst.resolve(dest, true)
	if err != nil {
		return err
	}
	from, err := c.src.Resolve(clean(src), c.a.FollowSymlink)
	if err != nil {
		return err
	}
	e, err := c.src.Lookup(from)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound(clean(src))
	}
	if err != nil {
		return err
	}
	there, err := c.dst.lstat(target)
	if err != nil {
		return pathError("stat", target, err)
	}
	holder := parentOf(target)
	switch contents := c.a.DirCopyContents && e.IsDir(); {
	case !contents && there != nil && (e.IsDir() || there.isDir()):
		holder = target
		target = clean(path.Join(target, path.Base(src)))
		if target == holder { // the root, or "/.", has no name to go by
			holder = parentOf(target)
		}
	case contents && there == nil:
		holder = target
	}
	also, err := c.dst.mkdirAll(holder, onTheWay, c.who, c.at)
	if err != nil {
		return err
	}
	made = append(made, also...)

	t := &treeCopy{copying: c, links: map[uint64]*inode{}}
	if err := t.patterns(); err != nil {
		return err
	}
	if target == "" {
		return t.copy(e, "", nil, "", verdict{in: true})
	}
	dir, err := c.dst.lstat(parentOf(target))
	if err != nil {
		return pathError("stat", target, err)
	}
	return t.copy(e, "", &destDir{node: dir, made: true}, path.Base(target), verdict{in: true})
}
