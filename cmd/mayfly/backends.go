package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/ci"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/source/image"
	"github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/gha"
	"github.com/mayfly-build/mayfly/remotecache/local"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
	cacheregistry "github.com/mayfly-build/mayfly/remotecache/registry"
	"github.com/mayfly-build/mayfly/remotecache/scope"
)

// kinds are the values of type= that name a backend.
var kinds = []string{"registry", "local", "gha", "s3", "azblob"}

// A cacheOpener opens the caches that flags name. What they share is here.
type cacheOpener struct {
	w      world
	client *registry.Client
	job    ci.Info
	build  scope.Build // what scope=auto names a cache after

	ghaUploads gha.Limiter // GitHub's limit is one for all caches of a repository
	identities *http.Client
}

// newCacheOpener returns the opener for caches of a build with the options o.
func newCacheOpener(w world, client *registry.Client, o buildOptions) *cacheOpener {
	return &cacheOpener{
		w: w, client: client.With(remotecache.StallAfter, remotecache.DefaultPolicy()),
		job:        ci.Detect(w.env, os.ReadFile),
		build:      scopeOf(o),
		ghaUploads: gha.PerMinute(ghaUploadsPerMinute),
		identities: &http.Client{Timeout: identityTimeout},
	}
}

// A use is what a cache is opened for.
type use int

const (
	reading use = iota
	writing
)

// A store is a cache that a flag names.
type store struct {
	name    string              // shown: "registry ghcr.io/acme/app:cache"
	backend remotecache.Backend // with signatures made and looked at, where that is asked for
	keeper  remotecache.Keeper  // as the service has it; nil when it cannot be listed
	ref     string              // to write
	refs    []string            // to read, best first
	origin  layer.Origin        // of the blobs

	// indexes loads all indexes of a ref that count; nil means the backend's one.
	indexes  func(ctx context.Context, ref string) ([]*remotecache.Index, error)
	manifest func() (ocispec.Descriptor, bool) // of what was saved; nil when there is none
	denied   error                             // why it may not be written
	replaces bool                              // an export is not to merge
	private  bool                              // no other job sees what is written
}

// newStore returns the store of a backend with one ref, whose blobs are read
// through it.
func newStore(name string, b remotecache.Keeper, ref string) *store {
	s := &store{
		name: name, backend: b, keeper: b, ref: ref, refs: []string{ref},
		origin: backendOrigin{remotecache.Verify(remotecache.Retry(b, remotecache.DefaultPolicy()))},
	}
	if g, ok := b.(remotecache.Guard); ok {
		s.denied = g.Writable()
	}
	return s
}

// load loads the indexes of all refs that have one. The error is
// remotecache.ErrNotFound when none has; beside indexes it says what could not
// be loaded.
func (s *store) load(ctx context.Context) ([]*remotecache.Index, layer.Origin, error) {
	var out []*remotecache.Index
	var trouble []error
	for _, ref := range s.refs {
		found, err := s.loadRef(ctx, ref)
		out = append(out, found...)
		if err != nil && !errors.Is(err, remotecache.ErrNotFound) {
			trouble = append(trouble, err)
		} else if err != nil && len(s.refs) == 1 {
			return nil, nil, err
		}
	}
	if len(out) == 0 && len(trouble) == 0 {
		return nil, nil, remotecache.ErrNotFound
	}
	return out, s.origin, errors.Join(trouble...)
}

func (s *store) loadRef(ctx context.Context, ref string) ([]*remotecache.Index, error) {
	if s.indexes != nil {
		return s.indexes(ctx, ref)
	}
	idx, err := s.backend.LoadIndex(ctx, ref)
	if err != nil {
		return nil, err
	}
	return []*remotecache.Index{idx}, nil
}

// open makes the store that the attributes describe. Their errors are in a.
func (c *cacheOpener) open(a *attrs, kind string, u use) (s *store, err error) {
	switch kind {
	case "registry":
		s, err = c.registry(a, u)
	case "local":
		s, err = c.local(a, u)
	case "gha":
		s, err = c.gha(a)
	case "s3":
		s, err = c.s3(a)
	case "azblob":
		s, err = c.azblob(a)
	default:
		return nil, nil // a has the error
	}
	if err != nil {
		return nil, err
	}
	return s, c.trust(a, s, u)
}

// formAttrs reads how manifests are written.
func formAttrs(a *attrs, u use) manifest.Form {
	if u != writing {
		return manifest.Form{}
	}
	return manifest.Form{
		Index:  !a.boolean("image-manifest", true),
		Docker: !a.boolean("oci-mediatypes", true),
	}
}

func (c *cacheOpener) registry(a *attrs, u use) (*store, error) {
	ref := a.str("ref", "")
	a.boolean("registry.insecure", false) // read before, see insecureHosts
	b, err := cacheregistry.New(cacheregistry.Config{Client: c.client, Ref: ref, Form: formAttrs(a, u)})
	if err != nil {
		return nil, err
	}
	s := newStore("registry "+ref, b, b.Ref())
	s.origin, s.manifest = image.NewOrigin(c.client, ref, true), b.Manifest
	prefix := ""
	if b.Ref() != "latest" {
		prefix = b.Ref() + "-" // the tag that was given stays to be seen
	}
	return s, c.scoped(a, s, prefix)
}

func (c *cacheOpener) local(a *attrs, u use) (*store, error) {
	key, what := "src", "read"
	if u == writing {
		key, what = "dest", "write"
	}
	cfg := local.Config{Dir: a.str(key, ""), Form: formAttrs(a, u)}
	tag := a.str("tag", "latest")
	if u == writing {
		cfg.Reset = a.boolean("reset", false)
	} else {
		tag = a.str("digest", tag)
	}
	if cfg.Dir == "" {
		return nil, errors.New(key + " is missing: the directory to " + what)
	}
	b, err := local.New(cfg)
	if err != nil {
		return nil, err
	}
	s := newStore("local "+cfg.Dir, b, tag)
	s.manifest, s.replaces, s.private = b.Manifest, cfg.Reset, true
	prefix := ""
	if tag != "latest" {
		prefix = tag + "-"
	}
	return s, c.scoped(a, s, prefix)
}

// A backendOrigin reads layers from a cache backend.
type backendOrigin struct{ b remotecache.Backend }

func (o backendOrigin) Open(ctx context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	return o.b.Open(ctx, desc, off)
}
func (o backendOrigin) Repository() string { return "" }
func (o backendOrigin) IsCache() bool      { return true }
