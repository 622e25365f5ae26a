// Package registry keeps a cache in a repository of an OCI registry.
//
//	remotecache ──blobs, Index──▶ Backend ──▶ internal/registry ──▶ registry
//
// A ref is a tag; what it names is a manifest (see remotecache/manifest). Read
// it may be, besides, an image with an inline cache, or an index of such
// images. Blobs that an imported manifest names are taken to be there, so that
// the export after it asks nothing about them; a registry that lost one says
// so when the manifest is pushed.
package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/internal/hint"
	client "github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/inline"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
)

// Config says where the cache is.
type Config struct {
	Client *client.Client // speaks to the registry; required
	Ref    string         // "ghcr.io/acme/app:cache"; the tag is latest unless given
	Form   manifest.Form  // of the manifests written
	Probes int            // questions after blobs in flight; 0 means 16
}

// A Backend is the cache in one repository.
type Backend struct {
	cfg  Config
	repo client.Ref // without tag and digest
	ref  string

	mu    sync.Mutex
	saved ocispec.Descriptor
}

var _ remotecache.Backend = (*Backend)(nil)

// New returns the cache that cfg names. Nothing is sent.
func New(cfg Config) (*Backend, error) {
	if cfg.Ref == "" {
		return nil, errors.New("the registry cache needs ref=<repository>[:<tag>]")
	}
	r, err := client.ParseRef(cfg.Ref)
	if err != nil {
		return nil, err
	}
	if cfg.Probes <= 0 {
		cfg.Probes = 16
	}
	b := &Backend{cfg: cfg, ref: r.Tag, repo: client.Ref{Host: r.Host, Repo: r.Repo}}
	if r.Digest != "" {
		b.ref = r.Digest.String()
	}
	return b, nil
}

// Ref returns the ref that Config.Ref names in the repository: a tag, or a
// digest, which can be loaded but not saved.
func (b *Backend) Ref() string { return b.ref }

// Repository returns the repository that holds the blobs: "ghcr.io/acme/app".
func (b *Backend) Repository() string { return b.repo.Name() }

// Manifest returns the descriptor of the manifest that was saved last, false
// when none was.
func (b *Backend) Manifest() (ocispec.Descriptor, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.saved, b.saved.Digest != ""
}

// at returns the full reference of a ref.
func (b *Backend) at(ref string) (client.Ref, error) {
	r := b.repo
	if d := digest.Digest(ref); strings.Contains(ref, ":") {
		if err := d.Validate(); err != nil {
			return r, fmt.Errorf("cache ref %q: %w", ref, err)
		}
		r.Digest = d
		return r, nil
	}
	if err := remotecache.CheckRef(ref); err != nil {
		return r, err
	}
	r.Tag = ref
	return r, nil
}

// fail gives an error of the client the meaning it has for a cache. The client
// has tried as often as makes sense.
func fail(err error) error {
	if errors.Is(err, client.ErrNotFound) {
		err = &missing{err}
	}
	return remotecache.Tried(err)
}

// failWriting is fail for what was to be written: who may not is one who reads
// only.
func failWriting(err error) error {
	if e, ok := errors.AsType[*client.Error](err); ok && e.Status == http.StatusForbidden {
		err = fmt.Errorf("%w: %w", remotecache.ErrReadOnly, err)
	}
	return fail(err)
}

// missing is a registry's answer that something is not there.
type missing struct{ error }

func (m *missing) Unwrap() []error { return []error{m.error, remotecache.ErrNotFound} }

// Missing implements remotecache.Backend: one HEAD for each blob that no
// manifest or earlier answer has told of.
func (b *Backend) Missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	has := make([]bool, len(blobs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(b.cfg.Probes)
	for i, blob := range blobs {
		g.Go(func() (err error) {
			has[i], err = b.cfg.Client.HasBlob(gctx, b.repo.Name(), blob)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fail(err)
	}
	var out []ocispec.Descriptor
	for i, blob := range blobs {
		if !has[i] {
			out = append(out, blob)
		}
	}
	return out, nil
}

// Open implements remotecache.Backend.
func (b *Backend) Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	r, err := b.cfg.Client.Blob(ctx, b.repo.Name(), blob, off)
	if err != nil {
		return nil, fail(err)
	}
	return r, nil
}

// sourceAnnotation, with a host behind it, names repositories there that hold
// the blob, with commas between them; containerd and BuildKit write it.
const sourceAnnotation = "containerd.io/distribution.source."

// Put implements remotecache.Backend. A blob that another repository of the
// registry is known to hold is linked from there.
func (b *Backend) Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	open := func() (io.ReadCloser, error) {
		if err := remotecache.CheckSource(blob, src); err != nil {
			return nil, err
		}
		return io.NopCloser(io.NewSectionReader(src, 0, blob.Size)), nil
	}
	from, _, _ := strings.Cut(blob.Annotations[sourceAnnotation+b.repo.Host], ",")
	if from != "" {
		from = b.repo.Host + "/" + from
	}
	err := b.cfg.Client.PutBlob(ctx, b.repo.Name(), blob, open, from)
	if _, ok := errors.AsType[*client.SourceError](err); ok {
		return remotecache.Tried(err) // what its registry said is no answer of ours
	}
	return failWriting(err)
}

// LoadIndex implements remotecache.Backend in two round trips: the manifest,
// its config. An index of images takes one more.
func (b *Backend) LoadIndex(ctx context.Context, ref string) (*remotecache.Index, error) {
	at, err := b.at(ref)
	if err != nil {
		return nil, err
	}
	desc, data, err := b.cfg.Client.Resolve(ctx, at.String())
	if err != nil {
		return nil, fail(err)
	}
	idx, err := manifest.Load(ctx, data, store{b})
	if err != nil {
		err = fmt.Errorf("load cache %s: %w", at.Familiar(), fail(err))
		if errors.Is(err, inline.ErrNone) {
			err = hint.With(err, "build and push the image with `--cache-to type=inline`, or name a cache with type=registry,ref=…")
		}
		return nil, err
	}
	var blobs []ocispec.Descriptor
	for _, blob := range idx.Blobs() {
		if blob.Known() {
			blobs = append(blobs, blob.Descriptor())
		}
	}
	idx.Version = desc.Digest.String()
	return idx, b.cfg.Client.Assume(b.repo.Name(), blobs...)
}

// unchanged returns ErrConflict unless a ref still has a version. A registry
// has no conditional writes: this is as late as one can look.
func (b *Backend) unchanged(ctx context.Context, at client.Ref, version string) error {
	now := remotecache.Absent
	desc, _, err := b.cfg.Client.Resolve(ctx, at.String())
	switch {
	case errors.Is(err, client.ErrNotFound):
	case err != nil:
		return fail(err)
	default:
		now = desc.Digest.String()
	}
	if now != version {
		return fmt.Errorf("save cache %s: %w", at.Familiar(), remotecache.ErrConflict)
	}
	return nil
}

// SaveIndex implements remotecache.Backend.
func (b *Backend) SaveIndex(ctx context.Context, ref string, idx *remotecache.Index) error {
	at, err := b.at(ref)
	if err != nil {
		return err
	}
	if at.Digest != "" {
		return fmt.Errorf("save cache %s: a cache is saved under a tag, not a digest", at)
	}
	enc, err := manifest.Encode(idx, b.cfg.Form)
	if err != nil {
		return fmt.Errorf("save cache %s: %w", at.Familiar(), err)
	}
	c := b.cfg.Client
	open := func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(enc.ConfigData)), nil
	}
	if err := c.PutBlob(ctx, b.repo.Name(), enc.Config, open, ""); err != nil {
		return failWriting(err)
	}
	if idx.Version != "" {
		if err := b.unchanged(ctx, at, idx.Version); err != nil {
			return err
		}
	}
	if err := c.PutManifest(ctx, at.String(), enc.Manifest, enc.ManifestData); err != nil {
		if errors.Is(err, client.ErrBlobUnknown) {
			err = &missing{err}
		}
		return failWriting(err)
	}
	b.mu.Lock()
	b.saved = enc.Manifest
	b.mu.Unlock()
	return nil
}

// store reads what a manifest leads to.
type store struct{ *Backend }

func (s store) Manifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	return s.cfg.Client.Manifest(ctx, s.repo.Name(), desc.Digest)
}
