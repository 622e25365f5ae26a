// Package remotecache keeps the results of build steps where the next machine
// finds them: in a registry, a directory, a CI service's cache, a bucket.
//
//	engine/buildcache ──Builder──▶ Index ──Export──▶ ┌─────────┐ ──▶ registry, local
//	engine/buildcache ◀──Graph─── Index ◀─LoadIndex─ │ Backend │ ──▶ gha, s3, azblob
//	engine/layer      ◀──────────────────────Open──── └─────────┘
//
// In: which cache keys have which layers (an Index) and the layers' bytes.
// Out: the same, on another machine. An Index is BuildKit's cacheconfig v0, so
// either reads what the other wrote. The package knows layers by descriptor
// and keys by digest, and nothing of steps, snapshots or builds.
//
// What all backends need (export order, checks of digests, retries, limits)
// is here, as a function over Backend or a wrapper of one.
package remotecache

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	// ErrNotFound says that a blob or index is not there (any more). Services
	// evict at any time: it is a miss, no fault.
	ErrNotFound = errors.New("not in the cache")

	// ErrCorrupt says that what is there is not what it should be: bytes that
	// do not match their digest, an index that is none.
	ErrCorrupt = errors.New("corrupt")

	// ErrReadOnly says that the cache may be read but not written, such as a
	// CI service's in the job of a fork.
	ErrReadOnly = errors.New("the cache is read-only")
)

// A Backend stores blobs by digest and one Index per ref.
// All methods may be called from several goroutines at once.
//
// A blob is named by a descriptor whose Digest and Size (bytes, as stored:
// compressed) are set. Refs are 1 to 128 characters of [A-Za-z0-9._-], the
// first of them not '.' or '-'.
type Backend interface {
	// Missing returns the blobs the backend does not hold, in the order given.
	// One call may carry 10,000 blobs; batching is the backend's business.
	Missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error)

	// Open reads a blob from byte off to its end; the caller closes. The error
	// (of Open, or of the first Read) is ErrNotFound when the blob is gone,
	// which is normal: services evict at any time. From off at the blob's end
	// on there is nothing to read.
	Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error)

	// Put stores src, which has blob.Size bytes and may be read more than
	// once and in parallel. A nil error means "the blob is stored", not "this
	// call stored it". After an error the blob is whole or absent, never partial.
	Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error

	// LoadIndex returns the newest Index saved for ref, or ErrNotFound. The
	// Index has been validated and is the caller's to change.
	LoadIndex(ctx context.Context, ref string) (*Index, error)

	// SaveIndex replaces the Index of ref: a reader sees the old one or the
	// new one, whole. When two jobs save at once, one of the two remains.
	// Every blob in idx.Layers has been Put before; where a backend finds that
	// one has vanished since, the error is ErrNotFound, and the blobs are to be
	// looked for with Missing again.
	SaveIndex(ctx context.Context, ref string, idx *Index) error
}

// CheckRef returns an error unless ref is one that every Backend takes.
func CheckRef(ref string) error {
	if len(ref) < 1 || len(ref) > maxRef {
		return fmt.Errorf("cache ref %q has %d characters, not 1 to %d", ref, len(ref), maxRef)
	}
	for i, c := range ref {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case i > 0 && (c == '.' || c == '-'):
		default:
			return fmt.Errorf("cache ref %q: character %q is not allowed here", ref, c)
		}
	}
	return nil
}

const maxRef = 128 // characters of a registry's tag

// CheckSource returns an error when src has fewer bytes than blob.Size, so
// that a Backend need not begin to store it.
func CheckSource(blob ocispec.Descriptor, src io.ReaderAt) error {
	if blob.Size <= 0 {
		return nil
	}
	var last [1]byte
	n, err := src.ReadAt(last[:], blob.Size-1)
	if n == 1 {
		return nil
	}
	if err == io.EOF {
		err = fmt.Errorf("the source has less than its %d bytes: %w", blob.Size, ErrCorrupt)
	}
	return fmt.Errorf("put blob %s: %w", blob.Digest, err)
}
