package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// A handle is an open directory that several goroutines write to.
type handle struct {
	fd   int
	refs atomic.Int64
}

func openDir(at int, name string, flags int) (*handle, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, err
	}
	h := &handle{fd: fd}
	h.hold()
	return h, nil
}

func (h *handle) hold() { h.refs.Add(1) }

func (h *handle) release() {
	if h.refs.Add(-1) == 0 {
		unix.Close(h.fd)
	}
}

func tempName() string { return fmt.Sprintf(".mayfly-%016x", rand.Uint64()) }

// place makes something under a name nobody looks at and moves it to name, in
// the place of whatever is there.
func (e *exporter) place(d *handle, dir, name string, make func(tmp string) error) error {
	tmp := tempName()
	if err := make(tmp); err != nil {
		unix.Unlinkat(d.fd, tmp, 0)
		return err
	}
	err := unix.Renameat(d.fd, tmp, d.fd, name)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) {
		if err = e.root.RemoveAll(path.Join(dir, name)); err == nil {
			err = unix.Renameat(d.fd, tmp, d.fd, name)
		}
	}
	if err != nil {
		unix.Unlinkat(d.fd, tmp, 0)
	}
	return err
}

func (e *exporter) file(ctx context.Context, d *handle, c *fsdiff.Entry, name string) error {
	return e.place(d, path.Dir(c.Path), name, func(tmp string) error {
		fd, err := unix.Openat(d.fd, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), c.Path)
		defer f.Close()
		if err := copyContent(ctx, f, c); err != nil {
			return err
		}
		if err := e.dress(fd, c); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		return e.touch(d, tmp, c)
	})
}

// copyChunk is how much the kernel copies before ctx is looked at, in bytes.
const copyChunk = 64 << 20

// copyContent copies a file's bytes, within the kernel if they lie in a file.
func copyContent(ctx context.Context, dst *os.File, c *fsdiff.Entry) error {
	if c.Content == nil || c.Size == 0 {
		return nil
	}
	r, err := c.Content.Open()
	if err != nil {
		return err
	}
	var src io.Reader = r
	if f, ok := r.(interface{ File() *os.File }); ok {
		src = f.File()
	}
	for left := c.Size; left > 0; {
		n, err := io.CopyN(dst, src, min(left, copyChunk))
		left -= n
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		if err == io.EOF {
			err = fmt.Errorf("%d of %d bytes: %w", c.Size-left, c.Size, io.ErrUnexpectedEOF)
		}
		if err != nil {
			r.Close()
			return err
		}
	}
	return r.Close() // says whether the file changed meanwhile
}

// special makes a symbolic link, a device or a pipe.
func (e *exporter) special(d *handle, c *fsdiff.Entry, name string) error {
	return e.place(d, path.Dir(c.Path), name, func(tmp string) error {
		var err error
		if c.Mode&fs.ModeSymlink != 0 {
			err = unix.Symlinkat(c.Linkname, d.fd, tmp)
		} else {
			err = mknod(d.fd, tmp, c)
		}
		if err != nil {
			return err
		}
		return e.touch(d, tmp, c)
	})
}

func mknod(dir int, name string, c *fsdiff.Entry) error {
	kind, what := uint32(unix.S_IFBLK), "block device"
	switch {
	case c.Mode&fs.ModeNamedPipe != 0:
		kind, what = unix.S_IFIFO, "pipe"
	case c.Mode&fs.ModeCharDevice != 0:
		kind, what = unix.S_IFCHR, "character device"
	}
	err := unix.Mknodat(dir, name, kind|0o600, int(unix.Mkdev(c.Devmajor, c.Devminor)))
	if err != nil {
		return fmt.Errorf("make a %s: %w", what, err)
	}
	return unix.Fchmodat(dir, name, unixMode(c.Mode), 0)
}

// link makes the further hard links of files that are there by now.
func (e *exporter) link() error {
	for _, l := range e.links {
		c, first := l[0], l[1]
		dir, err := e.root.Open(path.Dir(c.Path))
		if err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
		h := &handle{fd: int(dir.Fd())}
		err = e.place(h, path.Dir(c.Path), path.Base(c.Path), func(tmp string) error {
			return e.root.Link(first.Path, path.Join(path.Dir(c.Path), tmp))
		})
		dir.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
	}
	return nil
}
