package s3

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/internal/stall"
)

// object is what is known of a blob in the bucket.
type object struct {
	size     int64
	modified time.Time
	class    types.StorageClass
}

// archived reports whether the object cannot be read before it is restored.
func (o object) archived() bool {
	return o.class == types.StorageClassGlacier || o.class == types.StorageClassDeepArchive
}

// serves reports whether the object is the blob, as far as can be told without
// reading it.
func (o object) serves(blob ocispec.Descriptor) bool {
	return !o.archived() && (blob.Size <= 0 || o.size == blob.Size)
}

const (
	// probes is how many questions are under way at once.
	probes = 64

	// pageCost is how many questions after single blobs a page of a listing
	// costs: as much in money as 12.5 of them, and as much in time as one
	// round of probes and more.
	pageCost = 16
)

// has reports whether the bucket is known to hold the blob.
func (b *Backend) has(blob ocispec.Descriptor) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	o, ok := b.held[blob.Digest]
	return ok && o.serves(blob)
}

// found notes that the bucket holds a blob.
func (b *Backend) found(d digest.Digest, o object) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held[d] = o
	delete(b.absent, d)
}

// lost notes that the bucket does not hold a blob.
func (b *Backend) lost(d digest.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.held, d)
	b.absent[d] = true
}

// Missing implements remotecache.Backend: from what is known of the bucket,
// and for the rest from pages of a listing or questions after each blob,
// whichever is less. Blobs that are there but have become old are touched:
// that goes on beside what the caller does next, until SaveIndex, Close or the
// end of ctx.
func (b *Backend) Missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	missing, err := b.missing(ctx, blobs)
	if err != nil {
		return nil, b.fail(ctx, reading, err, "look for blobs in %s", b)
	}
	b.touch(ctx, blobs)
	return missing, nil
}

func (b *Backend) missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	ask := map[digest.Digest]bool{}
	for _, blob := range blobs {
		if err := blob.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("blob %q: %w", blob.Digest, err)
		}
		if !b.has(blob) {
			ask[blob.Digest] = true
		}
	}
	if err := b.list(ctx, ask); err != nil {
		return nil, err
	}
	if err := b.probe(ctx, ask); err != nil {
		return nil, err
	}
	var out []ocispec.Descriptor
	for _, blob := range blobs {
		if !b.has(blob) {
			out = append(out, blob)
		}
	}
	return out, nil
}

// list reads pages of blobs while that is the cheaper way to learn of those in
// ask, and takes those out that it has answers for.
func (b *Backend) list(ctx context.Context, ask map[digest.Digest]bool) error {
	in := &sdk.ListObjectsV2Input{Bucket: &b.cfg.Bucket, Prefix: &b.blobs}
	for pages, more := 1, 1; len(ask) > pageCost*more; pages++ {
		page, err := b.client.ListObjectsV2(ctx, in)
		if err != nil {
			if status(err) == http.StatusForbidden && is(err, "AccessDenied") {
				return nil // who may read objects may perhaps not list them
			}
			return err
		}
		last, sorted := "", true
		for _, o := range page.Contents {
			key := aws.ToString(o.Key)
			sorted = sorted && last <= key
			last = key
			if d, ok := b.digestOf(key); ok {
				b.found(d, object{aws.ToInt64(o.Size), aws.ToTime(o.LastModified), types.StorageClass(o.StorageClass)})
				delete(ask, d)
			}
		}
		if !aws.ToBool(page.IsTruncated) || page.NextContinuationToken == nil {
			for d := range ask {
				b.lost(d)
			}
			clear(ask)
			return nil
		}
		// Keys come in order, but for services that have none: those up to
		// the last one are not there.
		for d := range ask {
			if sorted && b.blobKey(d) <= last {
				b.lost(d)
				delete(ask, d)
			}
		}
		in.ContinuationToken = page.NextContinuationToken
		more = pagesAfter(strings.TrimPrefix(last, b.blobs), pages)
	}
	return nil
}

// pagesAfter estimates how many pages follow when the first ones end with a
// digest: digests are spread evenly.
func pagesAfter(last string, pages int) int {
	_, hex, _ := strings.Cut(last, ":")
	if len(hex) < 4 {
		return 1
	}
	at, err := strconv.ParseUint(hex[:4], 16, 16)
	if err != nil {
		return 1
	}
	return max(1, int(float64(pages)*float64(0xffff-at)/float64(at+1)))
}

// probe asks after each blob.
func (b *Backend) probe(ctx context.Context, ask map[digest.Digest]bool) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(probes)
	for d := range ask {
		g.Go(func() error {
			_, err := b.head(gctx, d)
			return err
		})
	}
	return g.Wait()
}

// head asks after one blob and reports whether it is there. Who may not list a
// bucket hears "forbidden" of what is not there.
func (b *Backend) head(ctx context.Context, d digest.Digest) (bool, error) {
	out, err := b.headKey(ctx, b.blobKey(d))
	switch code := status(err); {
	case err == nil:
		b.found(d, object{aws.ToInt64(out.ContentLength), aws.ToTime(out.LastModified), out.StorageClass})
		return true, nil
	case code == http.StatusNotFound, code == http.StatusForbidden:
		b.lost(d)
		return false, nil
	}
	return false, err
}

// headKey asks after one object. Since the answer to a HEAD has no body, a
// refusal says not why: a GET for one byte is then told.
func (b *Backend) headKey(ctx context.Context, key string) (*sdk.HeadObjectOutput, error) {
	out, err := b.client.HeadObject(ctx, &sdk.HeadObjectInput{Bucket: &b.cfg.Bucket, Key: &key})
	if status(err) != http.StatusBadRequest {
		return out, err
	}
	got, gerr := b.client.GetObject(ctx, &sdk.GetObjectInput{Bucket: &b.cfg.Bucket, Key: &key, Range: aws.String(byteRange(0, 1))})
	if gerr == nil {
		got.Body.Close()
		return nil, err
	}
	return nil, gerr
}

// touch makes those of the blobs new again that the bucket has held for long,
// and does not wait for it. What goes wrong costs nothing now: the blobs are
// there.
func (b *Backend) touch(ctx context.Context, blobs []ocispec.Descriptor) {
	if b.cfg.TouchRefresh < 0 {
		return
	}
	old := map[digest.Digest]object{}
	b.mu.Lock()
	for _, blob := range blobs {
		o, ok := b.held[blob.Digest]
		if ok && o.serves(blob) && !o.modified.IsZero() && time.Since(o.modified) > b.cfg.TouchRefresh {
			old[blob.Digest] = o
			o.modified = time.Now() // once is enough
			b.held[blob.Digest] = o
		}
	}
	if len(old) == 0 {
		b.mu.Unlock()
		return
	}
	done := make(chan struct{})
	b.touching = append(b.touching, done)
	b.mu.Unlock()
	go func() {
		defer close(done)
		var g errgroup.Group
		g.SetLimit(probes)
		for d, o := range old {
			g.Go(func() error {
				_ = b.refresh(ctx, b.blobKey(d), o) // see above
				return nil
			})
		}
		_ = g.Wait() // has no errors
	}()
}

// settle waits for touches that are under way, or for the end of ctx.
func (b *Backend) settle(ctx context.Context) {
	b.mu.Lock()
	touching := b.touching
	b.touching = nil
	b.mu.Unlock()
	for _, done := range touching {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// refresh copies an object onto itself, which makes it new. S3 wants something
// about it to change: the same metadatum as BuildKit's.
func (b *Backend) refresh(ctx context.Context, key string, o object) error {
	source := escapePath(b.cfg.Bucket + "/" + key)
	metadata := map[string]string{"updated-at": time.Now().UTC().Format(time.RFC3339)}
	if o.size > b.copyMax {
		return b.refreshLarge(ctx, key, source, metadata, o)
	}
	_, err := b.client.CopyObject(stall.Moving(ctx, o.size), &sdk.CopyObjectInput{
		Bucket: &b.cfg.Bucket, Key: &key, CopySource: &source,
		Metadata: metadata, MetadataDirective: types.MetadataDirectiveReplace, StorageClass: o.class,
	})
	return err
}

func (b *Backend) refreshLarge(ctx context.Context, key, source string, metadata map[string]string, o object) error {
	return b.multipart(ctx, upload{
		key: key, size: o.size, partSize: b.copyMax, parallel: 4, metadata: metadata, class: o.class,
		send: func(ctx context.Context, id *string, number int32, off, length int64) (*string, error) {
			out, err := b.client.UploadPartCopy(stall.Moving(ctx, length), &sdk.UploadPartCopyInput{
				Bucket: &b.cfg.Bucket, Key: &key, UploadId: id, PartNumber: &number,
				CopySource: &source, CopySourceRange: aws.String(byteRange(off, length)),
			})
			if err != nil {
				return nil, err
			}
			if out.CopyPartResult == nil {
				return nil, fmt.Errorf("the answer to the copy of part %d has no ETag", number)
			}
			return out.CopyPartResult.ETag, nil
		},
	})
}

func byteRange(off, length int64) string { return fmt.Sprintf("bytes=%d-%d", off, off+length-1) }

// escapePath escapes a key for x-amz-copy-source, but for its slashes.
func escapePath(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i] = strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
	}
	return strings.Join(segments, "/")
}
