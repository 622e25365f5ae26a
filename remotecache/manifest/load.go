package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/inline"
)

// A Store is where manifests and configs are read.
type Store interface {
	// Manifest returns a manifest that an index names, checked against its
	// digest.
	Manifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, error)

	// Open reads a blob, as remotecache.Backend does.
	Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error)
}

const (
	maxConfig = 64 << 20 // bytes of a config in memory: an index of some 300,000 records
	maxDepth  = 3        // indexes within indexes
	fetches   = 8        // manifests and configs in flight
)

// Load returns the Index that a manifest leads to: its own config, the inline
// cache of an image, or those of all images of an index, joined. An image
// without a cache gives inline.ErrNone.
func Load(ctx context.Context, data []byte, s Store) (*remotecache.Index, error) {
	return load(ctx, data, s, maxDepth)
}

func load(ctx context.Context, data []byte, s Store, depth int) (*remotecache.Index, error) {
	p, err := Parse(data)
	switch {
	case err != nil:
		return nil, err
	case p.Cache:
		config, err := readConfig(ctx, s, p.Config)
		if err != nil {
			return nil, err
		}
		return p.Index(config)
	case p.Config.Digest != "":
		if len(p.Layers) == 0 {
			return nil, inline.ErrNone
		}
		config, err := readConfig(ctx, s, p.Config)
		if err != nil {
			return nil, err
		}
		return inline.Decode(config, p.Layers)
	case depth == 0:
		return nil, fmt.Errorf("%w: indexes within indexes, more than %d deep", remotecache.ErrCorrupt, maxDepth)
	}
	return loadAll(ctx, p.Manifests, s, depth-1)
}

// loadAll joins what the images of an index have. One without a cache, such
// as an attestation, is passed over.
func loadAll(ctx context.Context, images []ocispec.Descriptor, s Store, depth int) (*remotecache.Index, error) {
	found := make([]*remotecache.Index, len(images))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetches)
	for i, desc := range images {
		if desc.Annotations["vnd.docker.reference.type"] != "" {
			continue // says something about another manifest
		}
		g.Go(func() error {
			data, err := s.Manifest(ctx, desc)
			if err == nil {
				found[i], err = load(ctx, data, s, depth)
			}
			if errors.Is(err, inline.ErrNone) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []*remotecache.Index
	for _, idx := range found {
		if idx != nil {
			out = append(out, idx)
		}
	}
	if len(out) == 0 {
		return nil, inline.ErrNone
	}
	return remotecache.Join(out...), nil
}

func readConfig(ctx context.Context, s Store, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > maxConfig {
		return nil, fmt.Errorf("%w: config %s has %d bytes, more than %d", remotecache.ErrCorrupt, desc.Digest, desc.Size, maxConfig)
	}
	r, err := s.Open(ctx, desc, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, desc.Size+1))
	if err != nil {
		return nil, fmt.Errorf("read config %s: %w", desc.Digest, err)
	}
	if int64(len(data)) != desc.Size || desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return nil, fmt.Errorf("%w: config %s has other bytes than its digest says", remotecache.ErrCorrupt, desc.Digest)
	}
	return data, nil
}
