package gha

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/remotecache"
)

// listBlobs returns the sizes of all blobs that the job may read.
func (b *Backend) listBlobs(ctx context.Context) (map[digest.Digest]int64, error) {
	branches := b.token.readable()
	lists := make([][]listed, len(branches))
	g, gctx := errgroup.WithContext(ctx)
	for i, branch := range branches {
		g.Go(func() (err error) {
			lists[i], err = b.rest.list(gctx, blobPrefix, branch)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	sizes := map[digest.Digest]int64{}
	// The first branch that has an entry is the one it is read from.
	for _, list := range slices.Backward(lists) {
		for _, e := range list {
			if d, ok := digestOf(e.Key); ok {
				sizes[d] = e.Size
			}
		}
	}
	return sizes, nil
}

// notListed returns the blobs that the job cannot read in their size.
func (b *Backend) notListed(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	sizes, err := b.listBlobs(ctx)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []ocispec.Descriptor
	for _, blob := range blobs {
		if size, ok := sizes[blob.Digest]; !ok || size != blob.Size {
			out = append(out, blob)
			b.absent[blobKey(blob.Digest)] = true
		}
	}
	return out, nil
}

// List implements remotecache.Keeper: what is in the branch that the job
// writes to, or else reads. It needs access to the REST API; without, the
// error is ErrUnsupported of package errors.
func (b *Backend) List(ctx context.Context) (remotecache.Contents, error) {
	var out remotecache.Contents
	if b.rest == nil {
		return out, fmt.Errorf("list the cache: %w", errNoREST)
	}
	var indexes, blobs []listed
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { indexes, err = b.rest.list(gctx, indexPrefix, b.branch()); return err })
	g.Go(func() (err error) { blobs, err = b.rest.list(gctx, blobPrefix, b.branch()); return err })
	if err := g.Wait(); err != nil {
		return out, remotecache.Tried(fmt.Errorf("list the cache: %w", err))
	}
	at := map[string]int{}
	for _, e := range indexes {
		scope, ok := b.scopeOfKey(e.Key)
		if !ok {
			continue
		}
		i, ok := at[scope]
		if !ok {
			i = len(out.Refs)
			at[scope] = i
			out.Refs = append(out.Refs, remotecache.StoredRef{Ref: Ref(scope)})
		}
		out.Refs[i].Saved = e.Created // they come oldest first
	}
	for _, e := range blobs {
		if d, ok := digestOf(e.Key); ok {
			out.Blobs = append(out.Blobs, remotecache.StoredBlob{Digest: d, Size: e.Size, Used: e.Used})
		}
	}
	return out, nil
}

// scopeOfKey returns the scope of the key of an index of our branch.
func (b *Backend) scopeOfKey(key string) (string, bool) {
	i := strings.LastIndexByte(key, '#')
	if i < 0 {
		return "", false
	}
	index := key[:i]
	if _, ok := numberOf(index, key); !ok {
		return "", false
	}
	scope, ok := strings.CutPrefix(index, indexPrefix)
	if ok {
		scope, ok = strings.CutSuffix(scope, indexSuffix(b.branch()))
	}
	return scope, ok && scope != ""
}

// RemoveIndex implements remotecache.Keeper: every number of the ref in the
// job's branch. It needs access to the REST API.
func (b *Backend) RemoveIndex(ctx context.Context, ref string) error {
	if b.rest == nil {
		return fmt.Errorf("remove cache index %q: %w", scopeOf(ref), errNoREST)
	}
	key := indexKey(scopeOf(ref), b.branch())
	entries, err := b.rest.list(ctx, key+"#", b.branch())
	if err == nil {
		// The oldest first: what is left when it breaks off is the newest.
		for _, e := range entries {
			if err = b.rest.removeID(ctx, e.ID); err != nil {
				break
			}
			b.dropURL(e.Key)
		}
	}
	if err != nil {
		return remotecache.Tried(fmt.Errorf("remove cache index %q: %w", scopeOf(ref), err))
	}
	return nil
}

// RemoveBlob implements remotecache.Keeper: the blob in the job's branch. It
// needs access to the REST API.
func (b *Backend) RemoveBlob(ctx context.Context, dgst digest.Digest) error {
	err := errNoREST
	if b.rest != nil {
		err = remotecache.Tried(b.rest.removeKey(ctx, blobKey(dgst), b.branch()))
	}
	if err != nil {
		return fmt.Errorf("remove blob %s: %w", dgst, err)
	}
	b.dropURL(blobKey(dgst))
	return nil
}

// dropURL forgets the URL of an entry that is gone.
func (b *Backend) dropURL(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.urls, key)
}
