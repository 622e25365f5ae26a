package fsdiff

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Bytes returns Content that is held in memory. The caller no longer changes b.
func Bytes(b []byte) Content { return &byteContent{b} }

type byteContent struct{ b []byte }

func (c *byteContent) Open() (io.ReadCloser, error) {
	return bytesReader{bytes.NewReader(c.b)}, nil
}

type bytesReader struct{ *bytes.Reader }

func (bytesReader) Close() error { return nil }

// A FileID tells one state of one file on disk from all others, as far as a
// stat can.
type FileID struct {
	Dev, Ino     uint64
	Size         int64 // bytes
	Mtime, Ctime int64 // nanoseconds since 1970
}

// File is Content that lies in a file of this machine.
type File struct {
	root *rootDir
	path string // below root
	id   FileID
}

// ID returns what the file was when its entry was made. It is what a cache of
// digests can be keyed by.
func (f *File) ID() FileID { return f.id }

// Name returns the file's path on this machine, for messages.
func (f *File) Name() string { return filepath.Join(f.root.path, filepath.FromSlash(f.path)) }

// Open implements Content. The reader is an *OpenFile.
func (f *File) Open() (io.ReadCloser, error) {
	fd, err := f.open()
	if err != nil {
		return nil, err
	}
	o := &OpenFile{f: os.NewFile(uintptr(fd), f.Name()), of: f}
	if err := o.check(); err != nil {
		o.f.Close()
		return nil, err
	}
	return o, nil
}

func (f *File) open() (int, error) {
	// O_NONBLOCK: what has become a pipe since must not hang the build.
	fd, err := f.root.open(f.path, unix.O_RDONLY|unix.O_NONBLOCK)
	if absent(err) {
		return -1, fmt.Errorf("read %s: %w", f.Name(), errors.Join(ErrChanged, err))
	}
	if err != nil {
		return -1, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return fd, nil
}

// WriteTo writes all bytes to w through buf. It is Open, Read and Close with
// fewer system calls, for the many small files of a context.
func (f *File) WriteTo(w io.Writer, buf []byte) error {
	fd, err := f.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for left := f.id.Size; left > 0; {
		n, err := unix.Read(fd, buf[:min(int64(len(buf)), left)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("read %s: %w", f.Name(), err)
		case n == 0:
			return fmt.Errorf("read %s: %w", f.Name(), ErrChanged)
		}
		left -= int64(n)
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
	return f.check(fd)
}

// A FileDir makes Content of files that lie in one directory, at the cost of
// one descriptor for all.
type FileDir struct{ root *rootDir }

// OpenFileDir returns the FileDir of the directory path.
func OpenFileDir(path string) (*FileDir, error) {
	root, err := openRoot(path)
	if err != nil {
		return nil, err
	}
	return &FileDir{root}, nil
}

// File returns the Content of a file of the directory as it is now, and fails
// when it is not a regular file.
func (d *FileDir) File(name string) (*File, error) {
	f := &File{root: d.root, path: name}
	st, err := fstatat(int(d.root.f.Fd()), name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if !fileMode(st.Mode).IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file", f.Name())
	}
	f.id = fileID(&st)
	return f, nil
}

// FileAt returns Content for the file at path as it is now, and fails when it
// is not a regular file.
func FileAt(path string) (*File, error) {
	d, err := OpenFileDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return d.File(filepath.Base(path))
}

func fileID(st *unix.Stat_t) FileID {
	return FileID{
		Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size,
		Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}
}

// An OpenFile reads a File. At the end of the bytes, and when it is closed, it
// fails with ErrChanged if the file was written to meanwhile.
type OpenFile struct {
	f  *os.File
	of *File
}

// Read implements io.Reader.
func (o *OpenFile) Read(p []byte) (int, error) {
	n, err := o.f.Read(p)
	if errors.Is(err, io.EOF) {
		if changed := o.check(); changed != nil {
			err = changed
		}
	}
	return n, err
}

// File returns the open file, for copy_file_range; whoever reads from it
// learns from Close whether the bytes were the right ones.
func (o *OpenFile) File() *os.File { return o.f }

// Close implements io.Closer.
func (o *OpenFile) Close() error {
	return errors.Join(o.check(), o.f.Close())
}

func (o *OpenFile) check() error { return o.of.check(int(o.f.Fd())) }

// check says whether the open file is still the one that f is about.
func (f *File) check(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if now := fileID(&st); now.Ino != f.id.Ino || now.Size != f.id.Size || now.Mtime != f.id.Mtime {
		return fmt.Errorf("read %s: %w", f.Name(), ErrChanged)
	}
	return nil
}
