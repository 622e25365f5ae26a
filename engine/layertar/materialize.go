package layertar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// cloneSize is the size in bytes from which sharing the blocks of a file, or
// copying them within the kernel, is worth a system call more than reading
// and writing them.
const cloneSize = 64 << 10

// Materialize makes the overlay-format directory of d in dir, which exists and
// is empty. Files are copied several at once, within the kernel where that is
// possible. A View is a Diff too: then dir becomes its plain copy. After an
// error dir holds a part.
func Materialize(ctx context.Context, d fsdiff.Diff, dir string) error {
	t, err := newTree(ctx, dir)
	if err != nil {
		return fmt.Errorf("write layer directory: %w", err)
	}
	m := &materializer{tree: t, diff: d, files: map[uint64]string{}}
	if err := t.close(m.run()); err != nil {
		return fmt.Errorf("write layer directory: %w", err)
	}
	return nil
}

type materializer struct {
	*tree
	diff    fsdiff.Diff
	files   map[uint64]string // inode → the first path that has it
	bufs    sync.Pool         // *[]byte
	noClone atomic.Bool
}

func (m *materializer) run() error {
	root, err := m.diff.Lookup("")
	if err == nil && root.IsDir() {
		err = m.directory(root)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	return m.walk("")
}

func (m *materializer) walk(dir string) error {
	list, err := m.diff.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if m.ctx.Err() != nil {
			return context.Cause(m.ctx)
		}
		switch {
		case e.Whiteout:
			err = m.whiteout(e.Path)
		case e.IsDir():
			if err = m.directory(e); err == nil {
				err = m.walk(e.Path)
			}
		default:
			err = m.other(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *materializer) directory(e *fsdiff.Entry) error {
	if err := m.mkdir(nodeOf(e)); err != nil {
		return err
	}
	if e.Opaque {
		return m.setOpaque(e.Path)
	}
	return nil
}

func (m *materializer) other(e *fsdiff.Entry) error {
	if e.Inode != 0 {
		if first, ok := m.files[e.Inode]; ok {
			if err := m.await(first); err != nil {
				return err
			}
			return m.do(e.Path, func() error { return m.link(first, e.Path) })
		}
		m.files[e.Inode] = e.Path
	}
	if !e.IsRegular() || e.Size == 0 {
		return m.put(nodeOf(e))
	}
	return m.do(e.Path, func() error {
		return m.file(nodeOf(e), func(fd int) error { return m.copy(fd, e) })
	})
}

func (m *materializer) copy(fd int, e *fsdiff.Entry) error {
	buf, _ := m.bufs.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, cloneSize)
		buf = &b
	}
	defer m.bufs.Put(buf)
	if e.Size >= cloneSize && !m.noClone.Load() {
		done, err := cloneFile(fd, e)
		if done || err != nil {
			return err
		}
		m.noClone.Store(true)
	}
	return copyFile(fd, e, *buf)
}

// cloneFile copies e's content to the empty file fd without its bytes passing
// through this process. done is false, and nothing was written, when that
// cannot be.
func cloneFile(fd int, e *fsdiff.Entry) (done bool, err error) {
	f, ok := e.Content.(*fsdiff.File)
	if !ok || f.ID().Size != e.Size {
		return false, nil
	}
	r, err := f.Open()
	if err != nil {
		return false, err
	}
	src, ok := r.(interface{ File() *os.File })
	if !ok {
		return false, r.Close()
	}
	done, err = clone(fd, int(src.File().Fd()), e.Size)
	// Close tells whether the file changed meanwhile.
	return done, errors.Join(err, r.Close())
}

func clone(dst, src int, size int64) (done bool, err error) {
	if unix.IoctlFileClone(dst, src) == nil {
		return true, nil
	}
	for left := size; left > 0; {
		n, err := unix.CopyFileRange(src, nil, dst, nil, int(min(left, 1<<30)), 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil && left == size {
			return false, nil // another file system, or one that cannot
		}
		if err != nil {
			return false, err
		}
		if n == 0 {
			return false, io.ErrUnexpectedEOF
		}
		left -= int64(n)
	}
	return true, nil
}

// copyFile writes e's content to fd.
func copyFile(fd int, e *fsdiff.Entry, buf []byte) error {
	return copyContent(fdWriter(fd), e, buf)
}

type fdWriter int

func (fd fdWriter) Write(p []byte) (int, error) {
	if err := writeAll(int(fd), p); err != nil {
		return 0, err
	}
	return len(p), nil
}
