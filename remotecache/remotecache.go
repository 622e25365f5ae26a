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
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	// ErrNotFound says that a blob or index is not there (any more). Services
	// evict at any time: it is a miss, no fault.
	ErrNotFound = errors.New("not in the cache")

	// ErrCorrupt says that what is there is not what it should be: bytes that
	// do not match their digest, an index that is none.
	ErrCorrupt = errors.New("corrupt")

	// ErrUntrusted says that an Index is not signed by whom its reader trusts:
	// it is not used.
	ErrUntrusted = errors.New("the cache index is not trusted")

	// ErrConflict says that an Index was not saved because another job saved
	// one since the Index it was made from was loaded: load, merge, save again.
	ErrConflict = errors.New("the cache index has changed")

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
	// Index has been validated, is the caller's to change, and has a Version.
	LoadIndex(ctx context.Context, ref string) (*Index, error)

	// SaveIndex replaces the Index of ref: a reader sees the old one or the
	// new one, whole. It does so whatever is there when idx.Version is "", and
	// otherwise only while ref still has that Version (or, with Absent, has
	// none): then the error is ErrConflict, and nothing was changed. Where a
	// service has no conditional writes, the backend looks just before it
	// writes, and two jobs that do so at the same moment are not told apart.
	//
	// Every blob of idx.Blobs has been Put before; where a backend finds that
	// one has vanished since, the error is ErrNotFound, and the blobs are to be
	// looked for with Missing again.
	SaveIndex(ctx context.Context, ref string, idx *Index) error
}

// A Contents is what a backend holds, as far as it can tell.
type Contents struct {
	Refs  []StoredRef
	Blobs []StoredBlob
}

// A StoredRef is a ref that has an Index.
type StoredRef struct {
	Ref   string
	Saved time.Time // zero when the service does not tell
}

// A StoredBlob is a blob as the service holds it.
type StoredBlob struct {
	Digest digest.Digest
	Size   int64     // bytes
	Used   time.Time // last written, touched or read, as far as the service tells; zero when it does not
}

// A Keeper is a Backend whose contents can be listed and removed. Backend
// packages implement it where the service allows; all methods may be called
// at once.
type Keeper interface {
	Backend

	// List returns all that is there. Where a service cannot list its blobs
	// (a registry), Blobs is nil.
	List(ctx context.Context) (Contents, error)

	// RemoveIndex forgets the Index of ref; its blobs stay. It is no error
	// when there is none.
	RemoveIndex(ctx context.Context, ref string) error

	// RemoveBlob forgets a blob, whether or not an Index names it. It is no
	// error when it is not there. Where a service removes blobs only by its
	// own means the error is ErrUnsupported of package errors.
	RemoveBlob(ctx context.Context, dgst digest.Digest) error
}

// A Guard is a Backend that can tell before any work that it may not be
// written to.
type Guard interface {
	// Writable returns nil, or why the cache may only be read, as an error
	// that wraps ErrReadOnly. It may look at credentials but sends nothing.
	Writable() error
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
