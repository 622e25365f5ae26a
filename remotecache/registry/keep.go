package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	client "github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
)

var _ remotecache.Keeper = (*Backend)(nil)

// List implements remotecache.Keeper: the tags of the repository whose
// manifest is that of a cache. A registry does not list its blobs.
func (b *Backend) List(ctx context.Context) (remotecache.Contents, error) {
	tags, err := b.cfg.Client.Tags(ctx, b.repo.Name())
	if err != nil {
		return remotecache.Contents{}, fail(err)
	}
	var mu sync.Mutex
	var out remotecache.Contents
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(b.cfg.Probes)
	for _, tag := range tags {
		g.Go(func() error {
			is, err := b.isCache(gctx, tag)
			if is {
				mu.Lock()
				out.Refs = append(out.Refs, remotecache.StoredRef{Ref: tag})
				mu.Unlock()
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return remotecache.Contents{}, err
	}
	slices.SortFunc(out.Refs, func(a, b remotecache.StoredRef) int { return strings.Compare(a.Ref, b.Ref) })
	return out, nil
}

func (b *Backend) isCache(ctx context.Context, tag string) (bool, error) {
	at := b.repo
	at.Tag = tag
	_, data, err := b.cfg.Client.Resolve(ctx, at.String())
	if errors.Is(err, client.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fail(err)
	}
	p, err := manifest.Parse(data)
	return err == nil && p.Cache, nil // what is no manifest is no cache
}

// RemoveIndex implements remotecache.Keeper. What the tag names has to be a
// cache: an image is not removed.
func (b *Backend) RemoveIndex(ctx context.Context, ref string) error {
	at, err := b.at(ref)
	if err != nil {
		return err
	}
	desc, data, err := b.cfg.Client.Resolve(ctx, at.String())
	if errors.Is(err, client.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fail(err)
	}
	if p, err := manifest.Parse(data); err != nil || !p.Cache {
		return fmt.Errorf("remove cache %s: what it names is no cache", at.Familiar())
	}
	err = b.cfg.Client.DeleteManifest(ctx, at.String(), desc.Digest)
	if errors.Is(err, client.ErrNotFound) {
		return nil
	}
	return fail(err)
}

// RemoveBlob implements remotecache.Keeper: a registry collects the blobs that
// no manifest names by itself.
func (b *Backend) RemoveBlob(_ context.Context, dgst digest.Digest) error {
	return fmt.Errorf("remove blob %s: the registry collects it once no manifest names it: %w", dgst, errors.ErrUnsupported)
}
