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
		if err := unix.Fchownat(d.fd, tmp, e.uid, e.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
		if c.Mode&fs.ModeSymlink == 0 {
			if err := chmod(d.fd, tmp, unixMode(c.Mode)); err != nil {
				return err
			}
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
	return nil
}

// chmod sets the mode of something that should not be opened, and of nothing
// that a link in its place points to.
func chmod(dir int, name string, mode uint32) error {
	err := unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EPERM) {
		return err
	}
	// Linux before 6.6, or a sandbox that does not know the call.
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

// link makes the further hard links of files that are there by now.
func (e *exporter) link(ctx context.Context) error {
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
		if unlinkable(err) {
			err = e.file(ctx, h, c, path.Base(c.Path))
		}
		dir.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
	}
	return nil
}

// unlinkable says whether the file system, or a mount between the two, has no
// further hard link for a file.
func unlinkable(err error) bool {
	return errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP)
}
