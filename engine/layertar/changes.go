package layertar

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// A kind is what happened to a path.
type kind int

const (
	put       kind = iota // added or changed
	deleted               // gone from the base
	unchanged             // as in the base, but it may be what a changed entry is a hard link of
)

// A differ lists what a Diff changes of base, in the order in which BuildKit's
// overlay differ does: that of a walk over the Diff with the names of each
// directory sorted. Entries that are in the Diff but equal those of the base
// are left out. An opaque directory is compared with the base name by name.
type differ struct {
	ctx  context.Context
	diff fsdiff.Diff
	base *fsdiff.View // nil: the empty root
	emit func(k kind, path string, e *fsdiff.Entry) error
}

// walk lists the changes in dir; inBase says that base has that directory.
func (x *differ) walk(dir string, inBase bool) error {
	list, err := x.diff.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if x.ctx.Err() != nil {
			return context.Cause(x.ctx)
		}
		var below *fsdiff.Entry
		if inBase {
			below, err = x.base.Lookup(e.Path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if e.Whiteout {
			if below != nil {
				if err := x.emit(deleted, e.Path, nil); err != nil {
					return err
				}
			}
			continue
		}
		same := false
		if below != nil {
			if same, err = fsdiff.Same(below, e); err != nil {
				return err
			}
		}
		if !same {
			if err := x.emit(put, e.Path, e); err != nil {
				return err
			}
		}
		if !e.IsDir() {
			continue
		}
		baseDir := below != nil && below.IsDir()
		if e.Opaque && below != nil {
			err = x.compare(e.Path, baseDir)
		} else {
			err = x.walk(e.Path, baseDir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// compare lists the changes in dir, which is opaque or below an opaque
// directory: names that only base has were deleted.
func (x *differ) compare(dir string, inBase bool) error {
	upper, err := x.diff.ReadDir(dir)
	if err != nil {
		return err
	}
	var lower []*fsdiff.Entry
	if inBase {
		if lower, err = x.base.ReadDir(dir); err != nil {
			return err
		}
	}
	for len(upper) > 0 || len(lower) > 0 {
		if x.ctx.Err() != nil {
			return context.Cause(x.ctx)
		}
		if len(upper) > 0 && upper[0].Whiteout {
			upper = upper[1:] // hidden by the opaque directory anyway
			continue
		}
		order := -1
		if len(lower) > 0 {
			order = 1
			if len(upper) > 0 {
				order = strings.Compare(upper[0].Path, lower[0].Path)
			}
		}
		switch {
		case order > 0:
			if err := x.emit(deleted, lower[0].Path, nil); err != nil {
				return err
			}
			lower = lower[1:]
		case order < 0:
			if err := x.compareOne(upper[0], nil); err != nil {
				return err
			}
			upper = upper[1:]
		default:
			if err := x.compareOne(upper[0], lower[0]); err != nil {
				return err
			}
			upper, lower = upper[1:], lower[1:]
		}
	}
	return nil
}

func (x *differ) compareOne(e, below *fsdiff.Entry) error {
	k := put
	if below != nil {
		same, err := fsdiff.Same(below, e)
		if err != nil {
			return err
		}
		if same {
			k = unchanged
		}
	}
	if k == put || e.Inode != 0 {
		if err := x.emit(k, e.Path, e); err != nil {
			return err
		}
	}
	if !e.IsDir() {
		return nil
	}
	return x.compare(e.Path, below != nil && below.IsDir())
}
