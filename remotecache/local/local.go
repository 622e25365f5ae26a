// Package local keeps a cache in a directory, as an OCI image layout.
//
//	remotecache ──blobs, Index──▶ Backend ──▶ blobs/sha256/<hex>, index.json
//
// A ref is a tag in index.json; what it names is a manifest (see
// remotecache/manifest). The directory is what buildctl's and buildx's
// type=local reads and writes, and may be used by them and by any number of
// jobs at the same time: blobs appear under their names whole, and changes of
// index.json are made under the lock that BuildKit's clients take.
package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
)

// Config says where the cache is.
type Config struct {
	Dir  string        // made by the first Put; required
	Ref  string        // tag in index.json, or digest of a manifest; "" means latest
	Form manifest.Form // of the manifests written

	// Reset makes SaveIndex remove the blobs that no manifest of index.json
	// leads to. It is not for a directory that others save to at the same
	// time: what they have not named in index.json yet is removed as well.
	Reset bool
}

// A Backend is the cache in one directory.
type Backend struct {
	cfg Config

	mu    sync.Mutex
	saved ocispec.Descriptor
}

var _ remotecache.Backend = (*Backend)(nil)

// New returns the cache that cfg names. The directory need not exist.
func New(cfg Config) (*Backend, error) {
	if cfg.Dir == "" {
		return nil, errors.New("the local cache needs a directory: src=<dir> to read, dest=<dir> to write")
	}
	if cfg.Ref == "" {
		cfg.Ref = "latest"
	}
	return &Backend{cfg: cfg}, nil
}

// Ref returns the ref that Config.Ref names.
func (b *Backend) Ref() string { return b.cfg.Ref }

// Manifest returns the descriptor of the manifest that was saved last, false
// when none was.
func (b *Backend) Manifest() (ocispec.Descriptor, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.saved, b.saved.Digest != ""
}

// path returns where a blob is. The digest becomes part of it, hence the
// check.
func (b *Backend) path(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("%w: blob %q: %w", remotecache.ErrCorrupt, d, err)
	}
	return filepath.Join(b.cfg.Dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

// has reports whether the blob is there with the right size. One of another
// size is the remains of a crash under another program, and is put anew.
func (b *Backend) has(blob ocispec.Descriptor) (bool, error) {
	path, err := b.path(blob.Digest)
	if err != nil {
		return false, err
	}
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && fi.Size() == blob.Size, err
}

// Missing implements remotecache.Backend.
func (b *Backend) Missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var out []ocispec.Descriptor
	for _, blob := range blobs {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		ok, err := b.has(blob)
		if err != nil {
			return nil, err
		}
		if !ok {
			out = append(out, blob)
		}
	}
	return out, nil
}

// Open implements remotecache.Backend.
func (b *Backend) Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	path, err := b.path(blob.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open blob %s in %s: %w", blob.Digest, b.cfg.Dir, remotecache.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Put implements remotecache.Backend. It checks size and digest.
func (b *Backend) Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	ok, err := b.has(blob)
	if ok || err != nil {
		return err
	}
	if err := b.put(ctx, blob, src); err != nil {
		return fmt.Errorf("put blob %s in %s: %w", blob.Digest, b.cfg.Dir, err)
	}
	return nil
}

func (b *Backend) put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	path, err := b.path(blob.Digest)
	if err != nil {
		return err
	}
	if err := readOnly(os.MkdirAll(filepath.Dir(path), 0o755)); err != nil {
		return err
	}
	verifier := blob.Digest.Verifier()
	return b.create(path, func(w io.Writer) error {
		r := &ctxReader{ctx, io.NewSectionReader(src, 0, blob.Size)}
		n, err := io.CopyBuffer(io.MultiWriter(w, verifier), r, make([]byte, 256<<10))
		if err != nil {
			return err
		}
		if n != blob.Size {
			return fmt.Errorf("the source ends at byte %d of %d: %w", n, blob.Size, remotecache.ErrCorrupt)
		}
		if !verifier.Verified() {
			return fmt.Errorf("the source has another digest: %w", remotecache.ErrCorrupt)
		}
		return nil
	})
}

// ctxReader ends a copy with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// create makes a file under a temporary name and renames it. The name is
// outside blobs/, where other programs take every file for a blob.
func (b *Backend) create(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(b.cfg.Dir, tmpPrefix+"*")
	if err != nil {
		return readOnly(err)
	}
	err = write(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

const tmpPrefix = ".mayfly-tmp-"

// readOnly says of an error that the directory may not be written to.
func readOnly(err error) error {
	if errors.Is(err, fs.ErrPermission) || isReadOnlyFS(err) {
		return fmt.Errorf("%w: %w", remotecache.ErrReadOnly, err)
	}
	return err
}

// LoadIndex implements remotecache.Backend.
func (b *Backend) LoadIndex(ctx context.Context, ref string) (*remotecache.Index, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	desc, err := b.resolve(ref)
	if err != nil {
		return nil, fmt.Errorf("load cache %q of %s: %w", ref, b.cfg.Dir, err)
	}
	s := store{b}
	data, err := s.Manifest(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("load cache %q of %s: %w", ref, b.cfg.Dir, err)
	}
	idx, err := manifest.Load(ctx, data, s)
	if err != nil {
		return nil, fmt.Errorf("load cache %q of %s: %w", ref, b.cfg.Dir, err)
	}
	idx.Version = desc.Digest.String()
	return idx, nil
}

// resolve returns the manifest of a ref; without a size when it is a digest.
func (b *Backend) resolve(ref string) (ocispec.Descriptor, error) {
	if strings.Contains(ref, ":") {
		return ocispec.Descriptor{Digest: digest.Digest(ref)}, digest.Digest(ref).Validate()
	}
	if err := remotecache.CheckRef(ref); err != nil {
		return ocispec.Descriptor{}, err
	}
	index, err := b.readIndex()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if m, ok := find(index, ref); ok {
		return m, nil
	}
	return ocispec.Descriptor{}, remotecache.ErrNotFound
}

// SaveIndex implements remotecache.Backend.
func (b *Backend) SaveIndex(ctx context.Context, ref string, idx *remotecache.Index) error {
	if err := b.save(ctx, ref, idx); err != nil {
		return fmt.Errorf("save cache %q in %s: %w", ref, b.cfg.Dir, err)
	}
	return nil
}

func (b *Backend) save(ctx context.Context, ref string, idx *remotecache.Index) error {
	if err := remotecache.CheckRef(ref); err != nil {
		return err
	}
	enc, err := manifest.Encode(idx, b.cfg.Form)
	if err != nil {
		return err
	}
	for _, blob := range idx.Blobs() {
		ok, err := b.has(blob.Descriptor())
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("blob %s: %w", blob.Digest, remotecache.ErrNotFound)
		}
	}
	if err := b.Put(ctx, enc.Config, strings.NewReader(string(enc.ConfigData))); err != nil {
		return err
	}
	if err := b.Put(ctx, enc.Manifest, strings.NewReader(string(enc.ManifestData))); err != nil {
		return err
	}
	if err := b.tag(ctx, ref, enc.Manifest, idx.Version); err != nil {
		return err
	}
	b.mu.Lock()
	b.saved = enc.Manifest
	b.mu.Unlock()
	return nil
}

// store reads what a manifest leads to.
type store struct{ *Backend }

func (s store) Manifest(_ context.Context, desc ocispec.Descriptor) ([]byte, error) {
	return s.manifest(desc)
}

func (b *Backend) manifest(desc ocispec.Descriptor) ([]byte, error) {
	path, err := b.path(desc.Digest)
	if err != nil {
		return nil, err
	}
	data, err := readFile(path, maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, remotecache.ErrNotFound)
	}
	if err == nil && desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		err = fmt.Errorf("manifest %s: %w", desc.Digest, remotecache.ErrCorrupt)
	}
	return data, err
}

const maxManifest = 64 << 20 // bytes of a manifest or index.json in memory

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes: %w", path, limit, remotecache.ErrCorrupt)
	}
	return data, err
}

func decodeIndex(data []byte) (*ocispec.Index, error) {
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%w: decode index.json: %w", remotecache.ErrCorrupt, err)
	}
	return &index, nil
}
