package main

import (
	"context"
	"errors"
	"io"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/source/image"
	"github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/local"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
	cacheregistry "github.com/mayfly-build/mayfly/remotecache/registry"
)

// kinds are the values of type= that name a backend.
var kinds = []string{"registry", "local"}

// A cacheOpener opens the caches that flags name. What they share is here.
type cacheOpener struct {
	w      world
	client *registry.Client
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
	backend remotecache.Backend // as the service has it
	ref     string              // to write
	refs    []string            // to read, best first
	origin  layer.Origin        // of the blobs

	manifest func() (ocispec.Descriptor, bool) // of what was saved; nil when there is none
	denied   error                             // why it may not be written
	replaces bool                              // an export is not to merge
}

// load loads the indexes of all refs that have one. The error is
// remotecache.ErrNotFound when none has.
func (s *store) load(ctx context.Context) ([]*remotecache.Index, layer.Origin, error) {
	var out []*remotecache.Index
	for _, ref := range s.refs {
		idx, err := s.backend.LoadIndex(ctx, ref)
		if errors.Is(err, remotecache.ErrNotFound) && (len(out) > 0 || len(s.refs) > 1) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		out = append(out, idx)
	}
	if len(out) == 0 {
		return nil, nil, remotecache.ErrNotFound
	}
	return out, s.origin, nil
}

// open makes the store that the attributes describe. Their errors are in a.
func (c *cacheOpener) open(a *attrs, kind string, u use) (*store, error) {
	switch kind {
	case "registry":
		return c.registry(a, u)
	case "local":
		return c.local(a, u)
	}
	return nil, nil // a has the error
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
	return &store{
		name: "registry " + ref, backend: b, ref: b.Ref(), refs: []string{b.Ref()},
		origin: image.NewOrigin(c.client, ref, true), manifest: b.Manifest,
	}, nil
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
	return &store{
		name: "local " + cfg.Dir, backend: b, ref: tag, refs: []string{tag},
		origin: backendOrigin{remotecache.Verify(b)}, manifest: b.Manifest, replaces: cfg.Reset,
	}, nil
}

// A backendOrigin reads layers from a cache backend.
type backendOrigin struct{ b remotecache.Backend }

func (o backendOrigin) Open(ctx context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	return o.b.Open(ctx, desc, off)
}
func (o backendOrigin) Repository() string { return "" }
func (o backendOrigin) IsCache() bool      { return true }

// insecureHosts returns the hosts that cache flags call insecure.
func insecureHosts(o buildOptions) (hosts []string) {
	for _, text := range append(append([]string{}, o.cacheFrom...), o.cacheTo...) {
		a, _, err := parseAttrs("cache", text)
		if err != nil || a == nil || !a.boolean("registry.insecure", false) {
			continue
		}
		if ref, err := registry.ParseRef(a.str("ref", "")); err == nil {
			hosts = append(hosts, ref.Host)
		}
	}
	for _, text := range o.outputs {
		a, _, err := parseAttrs("output", text)
		if err != nil || a == nil || !a.boolean("registry.insecure", false) {
			continue
		}
		for _, name := range append(strings.Split(a.str("name", ""), ","), o.tags...) {
			if ref, err := registry.ParseRef(name); err == nil && name != "" {
				hosts = append(hosts, ref.Host)
			}
		}
	}
	return hosts
}
