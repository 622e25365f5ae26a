// Package tar writes a root file system as one tar.
//
//	layer ──fsdiff.View──▶ tar ──▶ file, stdout
//
// Order and headers are those of BuildKit v0.33's tar exporter, so that the
// same root file system gives the same bytes. Files are read ahead of the
// writer by layertar, which also writes layers.
package tar

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layertar"
)

// Options of Export; the zero value leaves everything as it is.
type Options struct {
	Epoch *time.Time // modification time of every entry; nil: its own
}

// A Root is a root file system of several.
type Root struct {
	Dir   string       // what its files are in, one name; "" is the top of the tar
	View  *fsdiff.View // nil is empty
	Epoch *time.Time   // instead of the one of Options
}

// Export writes view, whose root directory has no header, to w, which it does
// not close. A nil view is an empty tar. Times are rounded to seconds.
func Export(ctx context.Context, w io.Writer, view *fsdiff.View, opt Options) error {
	return ExportAll(ctx, w, []Root{{View: view}}, opt)
}

// ExportAll writes several roots as Export writes one, sorted by directory.
func ExportAll(ctx context.Context, w io.Writer, roots []Root, opt Options) error {
	roots = slices.SortedFunc(slices.Values(roots), func(a, b Root) int { return strings.Compare(a.Dir, b.Dir) })
	_, err := layertar.Pack(ctx, w, func(ctx context.Context, add func(*tar.Header, *fsdiff.Entry) error) error {
		for _, r := range roots {
			if r.Epoch == nil {
				r.Epoch = opt.Epoch
			}
			if err := r.write(ctx, add); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write tar of the root file system: %w", err)
	}
	return nil
}

func (r Root) write(ctx context.Context, add func(*tar.Header, *fsdiff.Entry) error) error {
	x := &exporter{epoch: r.Epoch, first: map[uint64]string{}}
	if r.Dir != "" {
		x.prefix = r.Dir + "/"
		// The time of a directory that no step made is the epoch.
		top := &fsdiff.Entry{Mode: fs.ModeDir | 0o755, ModTime: time.Unix(0, 0).UTC()}
		if err := add(x.header(top), top); err != nil {
			return err
		}
	}
	if r.View == nil {
		return nil
	}
	return r.View.Walk("", func(e *fsdiff.Entry) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if e.Path == "" {
			return nil
		}
		return add(x.header(e), e)
	})
}

type exporter struct {
	prefix string // of every name; "", or ends with a slash
	epoch  *time.Time
	first  map[uint64]string // inode → the name that has the bytes
}

func (x *exporter) header(e *fsdiff.Entry) *tar.Header {
	h := &tar.Header{
		Typeflag: tar.TypeReg,
		Name:     x.prefix + e.Path,
		Mode:     mode(e.Mode),
		Uid:      int(e.UID),
		Gid:      int(e.GID),
		ModTime:  e.ModTime,
	}
	if x.epoch != nil {
		h.ModTime = *x.epoch
	}
	switch t := e.Mode.Type(); {
	case t == fs.ModeDir:
		h.Typeflag = tar.TypeDir
		h.Name = strings.TrimSuffix(h.Name, "/") + "/"
	case t == fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Linkname
	case t == fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	case t&fs.ModeDevice != 0:
		h.Typeflag = tar.TypeBlock
		if t&fs.ModeCharDevice != 0 {
			h.Typeflag = tar.TypeChar
		}
		h.Devmajor, h.Devminor = int64(e.Devmajor), int64(e.Devminor)
	case t == 0:
		h.Size = e.Size
	} // what remains is a socket, which becomes an empty file
	if t := h.Typeflag; e.Inode != 0 && t != tar.TypeDir && t != tar.TypeSymlink {
		if first, ok := x.first[e.Inode]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			x.first[e.Inode] = h.Name
		}
	}
	if len(e.Xattrs) > 0 {
		h.PAXRecords = make(map[string]string, len(e.Xattrs))
		for k, v := range e.Xattrs {
			h.PAXRecords["SCHILY.xattr."+k] = string(v)
		}
	}
	return h
}

func mode(m fs.FileMode) int64 {
	out := int64(m.Perm())
	if m&fs.ModeSetuid != 0 {
		out |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		out |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		out |= 0o1000
	}
	return out
}
