package azblob

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
)

const (
	probes = 64 // questions after blobs in flight

	// A page of a listing tells of 5,000 blobs, takes as long as some round
	// trips, and comes after the one before. It beats questions that go out
	// together from some number of them on.
	fewBlobs     = 32
	blobsPerPage = 512
)

// Missing implements remotecache.Backend. A few blobs are asked after one by
// one, all at the same time. Of many the listing is read, as long as that needs
// fewer requests; a container that holds very much more than the cache of this
// build is not read to its end. A blob of another size is missing.
func (b *Backend) Missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	out, err := b.missing(ctx, blobs)
	if err != nil {
		return nil, b.fail(ctx, reading, fmt.Sprintf("look for %d blobs", len(blobs)), err)
	}
	return out, nil
}

func (b *Backend) missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	have := make([]bool, len(blobs))
	all := false
	if len(blobs) > fewBlobs && !b.noList.Load() {
		sizes := map[digest.Digest]int64{}
		var err error
		all, err = b.list(ctx, b.cfg.BlobsPrefix, 1+len(blobs)/blobsPerPage, func(base string, it *container.BlobItem) {
			sizes[digest.Digest(base)] = deref(it.Properties.ContentLength)
		})
		switch {
		case err == nil:
		case statusOf(err) == http.StatusNotFound:
			return blobs, nil // no container
		case statusOf(err) == http.StatusForbidden:
			b.noList.Store(true)
		default:
			return nil, err
		}
		for i, blob := range blobs {
			n, ok := sizes[blob.Digest]
			have[i] = ok && n == blob.Size
		}
	}
	if !all {
		if err := b.probe(ctx, blobs, have); err != nil {
			return nil, err
		}
	}
	var out []ocispec.Descriptor
	for i, blob := range blobs {
		if !have[i] {
			out = append(out, blob)
		}
	}
	return out, nil
}

// probe asks after the blobs that nobody has yet.
func (b *Backend) probe(ctx context.Context, blobs []ocispec.Descriptor, have []bool) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(probes)
	for i, blob := range blobs {
		if have[i] {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			name, err := b.blobName(blob.Digest)
			if err != nil {
				return err
			}
			f, err := b.stat(ctx, name)
			if statusOf(err) == http.StatusNotFound {
				return nil
			}
			have[i] = err == nil && f.size == blob.Size
			return err
		})
	}
	return g.Wait()
}

// list calls found for what is stored of a kind, with the last part of its
// name. It reads up to pages pages, all when pages is 0, and reports whether
// they were all.
func (b *Backend) list(ctx context.Context, kind string, pages int, found func(base string, it *container.BlobItem)) (all bool, err error) {
	dir := b.dir(kind)
	p := b.client.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &dir})
	for n := 0; p.More(); n++ {
		if n > 0 && n == pages {
			return false, nil
		}
		page, err := p.NextPage(ctx)
		if err != nil {
			return false, err
		}
		for _, it := range page.Segment.BlobItems {
			if it.Name != nil && it.Properties != nil {
				found(strings.TrimPrefix(*it.Name, dir), it)
			}
		}
	}
	return true, nil
}

// List implements remotecache.Keeper. Used is the last access, where the
// account tracks it, and otherwise the last write.
func (b *Backend) List(ctx context.Context) (remotecache.Contents, error) {
	c := remotecache.Contents{Blobs: []remotecache.StoredBlob{}}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := b.list(gctx, b.cfg.ManifestsPrefix, 0, func(base string, it *container.BlobItem) {
			if remotecache.CheckRef(base) == nil {
				c.Refs = append(c.Refs, remotecache.StoredRef{Ref: base, Saved: deref(it.Properties.LastModified)})
			}
		})
		return err
	})
	g.Go(func() error {
		_, err := b.list(gctx, b.cfg.BlobsPrefix, 0, func(base string, it *container.BlobItem) {
			if d := digest.Digest(base); d.Validate() == nil {
				c.Blobs = append(c.Blobs, remotecache.StoredBlob{Digest: d, Size: deref(it.Properties.ContentLength), Used: used(it.Properties)})
			}
		})
		return err
	})
	if err := g.Wait(); err != nil {
		return remotecache.Contents{}, b.fail(ctx, reading, "list the cache", err)
	}
	return c, nil
}

func used(p *container.BlobProperties) time.Time {
	written, read := deref(p.LastModified), deref(p.LastAccessedOn)
	if read.After(written) {
		return read
	}
	return written
}

// RemoveIndex implements remotecache.Keeper.
func (b *Backend) RemoveIndex(ctx context.Context, ref string) error {
	name, err := b.indexName(ref)
	if err != nil {
		return err
	}
	return b.fail(ctx, writing, fmt.Sprintf("remove index %q", ref), b.remove(ctx, name))
}

// RemoveBlob implements remotecache.Keeper.
func (b *Backend) RemoveBlob(ctx context.Context, dgst digest.Digest) error {
	name, err := b.blobName(dgst)
	if err != nil {
		return err
	}
	return b.fail(ctx, writing, "remove blob "+dgst.String(), b.remove(ctx, name))
}

func (b *Backend) remove(ctx context.Context, name string) error {
	_, err := b.at(name).Delete(ctx, &blob.DeleteOptions{DeleteSnapshots: to.Ptr(blob.DeleteSnapshotsOptionTypeInclude)})
	if statusOf(err) == http.StatusNotFound {
		return nil
	}
	return err
}

// Writable implements remotecache.Guard: a SAS says what it is for.
func (b *Backend) Writable() error {
	may := b.auth.sas.Get("sp") // "" when an access policy of the container says it
	if b.auth.kind != bySAS || may == "" || strings.ContainsAny(may, "cw") {
		return nil
	}
	return hint.With(fmt.Errorf("the SAS of the azblob cache allows %q alone: %w", may, remotecache.ErrReadOnly), b.permissions(writing))
}
