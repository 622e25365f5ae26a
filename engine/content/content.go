// Package content keeps blobs on local disk by digest.
//
//	source/image, layer, remotecache ──Ingest, Writer──▶ content ──Open──▶ layer, exporter
//
// A blob is a file <algorithm>/<hex> in the blobs dir of the state dir, written
// under a temporary name and renamed into place, so that any number of
// processes share one store without a lock. Nothing is synced: what is read
// back is checked by size when opened and by digest where it is used (Verify,
// ReadAll). The package knows no media types and no layers.
package content

import (
	_ "crypto/sha256" // the algorithms that a digest may name
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	// ErrNotFound says that the store does not hold the blob.
	ErrNotFound = errors.New("blob not found")

	// ErrCorrupt says that bytes are not those their digest names.
	ErrCorrupt = errors.New("blob corrupt")
)

// touchAfter is how old a blob's time of last use grows before an Open writes
// it again: as in Go's build cache, GC needs no better than an hour, and most
// opens then write nothing.
const touchAfter = time.Hour

// A Store is a directory of blobs. All methods may be called from several
// goroutines and processes at once.
type Store struct {
	dir, tmp string
	now      func() time.Time
}

// Open returns the store in dir, which is made when missing, as is tmp. tmp is
// on the file system of dir; whatever is in it with a name that starts with
// "blob-" and that no live process writes is what a killed process left.
func Open(dir, tmp string) (*Store, error) {
	for _, d := range []string{filepath.Join(dir, digest.SHA256.String()), tmp} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("open content store: %w", err)
		}
	}
	return &Store{dir: dir, tmp: tmp, now: time.Now}, nil
}

// Has says whether the store holds the blob with its right size. A
// descriptor whose Size is 0 matches any size.
func (s *Store) Has(desc ocispec.Descriptor) bool {
	name, err := s.path(desc.Digest)
	if err != nil {
		return false
	}
	fi, err := os.Stat(name)
	return err == nil && rightSize(desc, fi)
}

// Open reads a blob. The error is ErrNotFound when the store does not hold it,
// and also when the file has another size than desc.Size (a machine that lost
// power): that file is removed, so that the blob can be written again. A
// descriptor whose Size is 0 matches any size. The caller closes the Blob.
func (s *Store) Open(desc ocispec.Descriptor) (*Blob, error) {
	name, err := s.path(desc.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open blob %s: %w", desc.Digest, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", desc.Digest, err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open blob %s: %w", desc.Digest, err)
	}
	if !rightSize(desc, fi) {
		f.Close()
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open blob %s: file has %d bytes, want %d: %w", desc.Digest, fi.Size(), desc.Size, err)
		}
		return nil, fmt.Errorf("open blob %s: file had %d bytes, want %d: %w", desc.Digest, fi.Size(), desc.Size, ErrNotFound)
	}
	if now := s.now(); now.Sub(fi.ModTime()) > touchAfter {
		// A store on a read-only file system still reads; it only ages.
		_ = os.Chtimes(name, now, now)
	}
	return &Blob{file: f, size: fi.Size()}, nil
}

// ReadAll returns the bytes of a small blob (a manifest, a config, an index)
// after checking them against desc.Digest. The errors are those of Open, and
// ErrCorrupt, after which the blob is gone from the store.
func (s *Store) ReadAll(desc ocispec.Descriptor) ([]byte, error) {
	b, err := s.Open(desc)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	data, err := io.ReadAll(Verify(b, desc))
	if errors.Is(err, ErrCorrupt) {
		return nil, errors.Join(err, s.Remove(desc.Digest))
	}
	return data, err
}

// Remove removes a blob; one that the store does not hold is no error. A Blob
// that is open stays readable.
func (s *Store) Remove(d digest.Digest) error {
	name, err := s.path(d)
	if err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove blob %s: %w", d, err)
	}
	return nil
}

// Info is what Walk tells of a blob.
type Info struct {
	Digest   digest.Digest
	Size     int64     // bytes
	LastUsed time.Time // when written or opened, true to an hour
}

// Walk calls fn for every blob, in no order, until fn returns an error, which
// Walk returns. Blobs that come or go meanwhile may or may not be seen. fn may
// remove blobs.
func (s *Store) Walk(fn func(Info) error) error {
	algorithms, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("walk content store: %w", err)
	}
	for _, a := range algorithms {
		entries, err := os.ReadDir(filepath.Join(s.dir, a.Name()))
		if err != nil {
			return fmt.Errorf("walk content store: %w", err)
		}
		for _, e := range entries {
			d := digest.NewDigestFromEncoded(digest.Algorithm(a.Name()), e.Name())
			if d.Validate() != nil {
				continue // not ours
			}
			fi, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("walk content store: %w", err)
			}
			if err := fn(Info{Digest: d, Size: fi.Size(), LastUsed: fi.ModTime()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// path returns the file of a blob. A digest that does not validate, which
// could name a path outside the store, is an error.
func (s *Store) path(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("blob %q: %w", string(d), err)
	}
	return filepath.Join(s.dir, d.Algorithm().String(), d.Encoded()), nil
}

// rightSize says whether fi can be the blob desc. Files of no bytes are what a
// power cut leaves most often, so they are refused even for a descriptor
// without a size, unless its digest is that of no bytes.
func rightSize(desc ocispec.Descriptor, fi fs.FileInfo) bool {
	if !fi.Mode().IsRegular() {
		return false
	}
	if desc.Size == 0 && fi.Size() == 0 {
		return desc.Digest == desc.Digest.Algorithm().FromBytes(nil)
	}
	return desc.Size == 0 || desc.Size == fi.Size()
}
