package remotecache

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Memory is a Backend that lives as long as the process.
type Memory struct {
	mu      sync.Mutex
	blobs   map[digest.Digest][]byte
	indexes map[string]*Index
	saves   int // makes Versions
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory {
	return &Memory{blobs: map[digest.Digest][]byte{}, indexes: map[string]*Index{}}
}

// Missing implements Backend.
func (m *Memory) Missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []ocispec.Descriptor
	for _, b := range blobs {
		if _, ok := m.blobs[b.Digest]; !ok {
			out = append(out, b)
		}
	}
	return out, nil
}

// Open implements Backend.
func (m *Memory) Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	data, ok := m.blobs[blob.Digest]
	m.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("open blob %s: %w", blob.Digest, ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(data[min(max(off, 0), int64(len(data))):])), nil
}

// Put implements Backend. It checks size and digest.
func (m *Memory) Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := CheckSource(blob, src); err != nil {
		return err
	}
	data := make([]byte, blob.Size)
	if n, err := src.ReadAt(data, 0); int64(n) < blob.Size {
		return fmt.Errorf("put blob %s: read byte %d of %d: %w", blob.Digest, n, blob.Size, err)
	}
	if got := digest.FromBytes(data); got != blob.Digest {
		return fmt.Errorf("put blob %s: the source has digest %s: %w", blob.Digest, got, ErrCorrupt)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[blob.Digest] = data
	return nil
}

// LoadIndex implements Backend.
func (m *Memory) LoadIndex(ctx context.Context, ref string) (*Index, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	idx, ok := m.indexes[ref]
	if !ok {
		return nil, fmt.Errorf("load index %q: %w", ref, ErrNotFound)
	}
	return idx.Clone(), nil
}

// SaveIndex implements Backend.
func (m *Memory) SaveIndex(ctx context.Context, ref string, idx *Index) error {
	if err := CheckRef(ref); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := idx.Validate(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, blob := range idx.Blobs() {
		if _, ok := m.blobs[blob.Digest]; !ok {
			return fmt.Errorf("save index %q: blob %s: %w", ref, blob.Digest, ErrNotFound)
		}
	}
	now := Absent
	if old, ok := m.indexes[ref]; ok {
		now = old.Version
	}
	if idx.Version != "" && idx.Version != now {
		return fmt.Errorf("save index %q: %w", ref, ErrConflict)
	}
	m.saves++
	saved := idx.Clone()
	saved.Version = strconv.Itoa(m.saves)
	m.indexes[ref] = saved
	return nil
}

// List implements Keeper.
func (m *Memory) List(ctx context.Context) (Contents, error) {
	if err := ctx.Err(); err != nil {
		return Contents{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out Contents
	for ref := range m.indexes {
		out.Refs = append(out.Refs, StoredRef{Ref: ref})
	}
	for dgst, data := range m.blobs {
		out.Blobs = append(out.Blobs, StoredBlob{Digest: dgst, Size: int64(len(data))})
	}
	return out, nil
}

// RemoveIndex implements Keeper.
func (m *Memory) RemoveIndex(ctx context.Context, ref string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.indexes, ref)
	return ctx.Err()
}

// RemoveBlob implements Keeper.
func (m *Memory) RemoveBlob(ctx context.Context, dgst digest.Digest) error {
	m.Remove(dgst)
	return ctx.Err()
}

// Remove makes the Memory forget a blob, as a service that evicts does.
func (m *Memory) Remove(dgst digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, dgst)
}
