package fsdiff

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	// O_NONBLOCK: what has become a pipe since must not hang the build.
	fd, err := f.root.open(f.path, unix.O_RDONLY|unix.O_NONBLOCK)
	if absent(err) {
		return nil, fmt.Errorf("read %s: %w", f.Name(), errors.Join(ErrChanged, fs.ErrNotExist))
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	o := &OpenFile{f: os.NewFile(uintptr(fd), f.Name()), of: f}
	if err := o.check(); err != nil {
		o.f.Close()
		return nil, err
	}
	return o, nil
}

// FileAt returns Content for the file at path as it is now, and fails when it
// is not a regular file.
func FileAt(path string) (*File, error) {
	root, err := openRoot(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	f := &File{root: root, path: filepath.Base(path)}
	st, err := fstatat(int(root.f.Fd()), f.path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if !fileMode(st.Mode).IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file", path)
	}
	f.id = fileID(&st)
	return f, nil
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
	if err == io.EOF {
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

func (o *OpenFile) check() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(o.f.Fd()), &st); err != nil {
		return fmt.Errorf("read %s: %w", o.of.Name(), err)
	}
	now, then := fileID(&st), o.of.id
	if now.Ino != then.Ino || now.Size != then.Size || now.Mtime != then.Mtime {
		return fmt.Errorf("read %s: %w", o.of.Name(), ErrChanged)
	}
	return nil
}
