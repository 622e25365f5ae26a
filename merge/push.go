package merge

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/internal/registry"
)

// Push stores the index in the repositories of the tags, with all it names, and
// then moves the tags to it. Until everything is stored no tag moves: whoever
// pulls meanwhile gets the old image or the new one. An image that a repository
// lacks is copied from one that has it.
//
// The tags are references as registry.ParseRef reads them.
func (x *Index) Push(ctx context.Context, client *registry.Client, tags []string) error {
	targets := repositories(tags)
	for _, to := range targets {
		for _, m := range x.Manifests {
			if slices.Contains(m.repos, to) {
				continue
			}
			if err := m.copy(ctx, client, to); err != nil {
				return err
			}
		}
		if err := client.PutManifest(ctx, to+"@"+x.Descriptor.Digest.String(), x.Descriptor, x.Data); err != nil {
			return err
		}
	}
	for _, tag := range tags {
		if err := client.PutManifest(ctx, tag, x.Descriptor, x.Data); err != nil {
			return err
		}
	}
	return nil
}

// copy makes a repository hold the manifest and its blobs.
func (m Manifest) copy(ctx context.Context, client *registry.Client, to string) error {
	from := nearest(m.repos, to)
	d := m.Descriptor
	data, err := client.Manifest(ctx, from, d.Digest)
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", m.Source, to, err)
	}
	var doc ocispec.Manifest
	if err := json.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("copy %s to %s: manifest %s: %w", m.Source, to, d.Digest, err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, blob := range append([]ocispec.Descriptor{doc.Config}, doc.Layers...) {
		if len(blob.URLs) > 0 {
			continue // of a layer that registries do not hold
		}
		g.Go(func() error {
			return client.PutBlob(gctx, to, blob, func() (io.ReadCloser, error) { return client.Blob(gctx, from, blob, 0) }, from)
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("copy %s to %s: %w", m.Source, to, err)
	}
	return client.PutManifest(ctx, to+"@"+d.Digest.String(), d, data)
}

// nearest returns the repository to copy from: one of the same registry, if
// there is one.
func nearest(repos []string, to string) string {
	want, err := registry.ParseRef(to)
	if err != nil {
		return repos[0]
	}
	for _, repo := range repos {
		if r, err := registry.ParseRef(repo); err == nil && r.Host == want.Host {
			return repo
		}
	}
	return repos[0]
}
