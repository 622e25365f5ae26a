package s3

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/remotecache"
)

// maxKey is S3's limit of a key (bytes).
const maxKey = 1024

// checkName returns an error unless an index may be stored under a name:
// BuildKit has fewer rules than refs have.
func checkName(name string) error {
	if name == "" || len(name) > maxKey || !utf8.ValidString(name) || strings.HasSuffix(name, "/") {
		return fmt.Errorf("cache name %q is not 1 to %d bytes of UTF-8 that do not end with a slash", name, maxKey)
	}
	for s := range strings.SplitSeq(name, "/") {
		if s == "." || s == ".." {
			return fmt.Errorf("cache name %q has %q between slashes", name, s)
		}
	}
	return nil
}

// List implements remotecache.Keeper. Refs may be names that only BuildKit
// saves under, such as "feature/x"; LoadIndex and RemoveIndex take them.
func (b *Backend) List(ctx context.Context) (remotecache.Contents, error) {
	var c remotecache.Contents
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return b.each(gctx, b.blobs, func(key string, o types.Object) {
			if d, ok := b.digestOf(key); ok {
				c.Blobs = append(c.Blobs, remotecache.StoredBlob{Digest: d, Size: aws.ToInt64(o.Size), Used: aws.ToTime(o.LastModified)})
			}
		})
	})
	g.Go(func() error {
		return b.each(gctx, b.indexes, func(key string, o types.Object) {
			// One prefix may lie below the other.
			_, blob := b.digestOf(key)
			if name := strings.TrimPrefix(key, b.indexes); !blob && checkName(name) == nil {
				c.Refs = append(c.Refs, remotecache.StoredRef{Ref: name, Saved: aws.ToTime(o.LastModified)})
			}
		})
	})
	if err := g.Wait(); err != nil {
		return remotecache.Contents{}, b.fail(ctx, reading, err, "list %s", b)
	}
	return c, nil
}

// each calls f for every object below a prefix.
func (b *Backend) each(ctx context.Context, prefix string, f func(key string, o types.Object)) error {
	in := &sdk.ListObjectsV2Input{Bucket: &b.cfg.Bucket, Prefix: &prefix}
	for {
		page, err := b.client.ListObjectsV2(ctx, in)
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			f(aws.ToString(o.Key), o)
		}
		if !aws.ToBool(page.IsTruncated) || page.NextContinuationToken == nil {
			return nil
		}
		in.ContinuationToken = page.NextContinuationToken
	}
}

// RemoveIndex implements remotecache.Keeper.
func (b *Backend) RemoveIndex(ctx context.Context, ref string) error {
	if err := checkName(ref); err != nil {
		return err
	}
	return b.fail(ctx, removing, b.remove(ctx, b.indexes+ref), "remove cache %q from %s", ref, b)
}

// RemoveBlob implements remotecache.Keeper.
func (b *Backend) RemoveBlob(ctx context.Context, d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("remove blob %q: %w", d, err)
	}
	err := b.remove(ctx, b.blobKey(d))
	if err == nil {
		b.lost(d)
	}
	return b.fail(ctx, removing, err, "remove blob %s from %s", d, b)
}

func (b *Backend) remove(ctx context.Context, key string) error {
	_, err := b.client.DeleteObject(ctx, &sdk.DeleteObjectInput{Bucket: &b.cfg.Bucket, Key: &key})
	if err != nil && status(err) == http.StatusNotFound && !is(err, "NoSuchBucket") {
		return nil // some services say so
	}
	return err
}
