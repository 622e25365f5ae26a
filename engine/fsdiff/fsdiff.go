// Package fsdiff holds file system changes as values.
//
//	op/file ──Mem──▶ ┌────────┐ ──▶ layer (tar, unpack, overlay lower)
//	unpacked ─Dir──▶ │  Diff  │
//	layer            └────────┘ ──▶ View ──▶ contenthash, op/file, frontend reads
//
// A Diff is what one layer changes; a View is a stack of them, read as one
// root file system without a mount. Nothing here writes to disk, and nothing
// here knows digests, blobs or LLB.
package fsdiff

import (
	"errors"
	"io"
	"io/fs"
	"time"
)

// An Entry is one object in a Diff or a View. Entries are immutable once they
// are in a Diff: they are shared between goroutines and between Diffs.
type Entry struct {
	Path     string      // clean, slash separated, relative; "" is the root
	Mode     fs.FileMode // type and permission bits, as os.Lstat gives them
	UID, GID uint32
	Size     int64 // bytes; 0 unless Mode is regular
	ModTime  time.Time
	Linkname string // target of a symbolic link

	Devmajor, Devminor uint32 // of a device node

	// Xattrs by full name ("user.x", "security.capability"). Those in
	// "trusted.overlay." and "user.overlay." never appear here.
	Xattrs map[string][]byte

	// Whiteout says that the path of the lower layers is gone; no other field
	// but Path is meaningful. Only in a Diff, never out of a View.
	Whiteout bool

	// Opaque, on a directory, says that the contents of the directory in the
	// lower layers are gone. Only in a Diff.
	Opaque bool

	// Inode, when not 0, is equal for the entries of one Diff that are hard
	// links of one another. The Diffs made here choose it so that two of them
	// in one View do not share a number by chance.
	Inode uint64

	// Content has the bytes of a regular file; nil means no bytes.
	Content Content
}

// ErrChanged says that a host file is no longer the one the walk saw.
var ErrChanged = errors.New("file changed while the build was reading it")

// IsRegular says whether e is a regular file. A whiteout is not.
func (e *Entry) IsRegular() bool { return !e.Whiteout && e.Mode.IsRegular() }

// IsDir says whether e is a directory. A whiteout is not.
func (e *Entry) IsDir() bool { return !e.Whiteout && e.Mode.IsDir() }

// IsSymlink says whether e is a symbolic link. A whiteout is not.
func (e *Entry) IsSymlink() bool { return !e.Whiteout && e.Mode&fs.ModeSymlink != 0 }

// Content is the bytes of a regular file.
type Content interface {
	// Open reads the bytes from the start. The caller closes. A host file
	// that changed since the entry was made is an ErrChanged, here or at the
	// end of the read. When the bytes lie in a file the reader is an *os.File
	// or has a File() *os.File method, so that io.Copy can use
	// copy_file_range.
	Open() (io.ReadCloser, error)
}

// A Diff is a set of changes to a root file system. All methods may be called
// from several goroutines at once.
type Diff interface {
	// Lookup returns the entry at path, without following symbolic links. The
	// error is fs.ErrNotExist when the Diff says nothing about path (and, on a
	// miss, the caller asks about the parents to learn of whiteouts).
	Lookup(path string) (*Entry, error)

	// ReadDir returns the entries directly below the directory dir, sorted by
	// name, whiteouts included; none when the Diff has no such directory.
	ReadDir(dir string) ([]*Entry, error)
}
