package s3

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/parts"
	"github.com/mayfly-build/mayfly/internal/stall"
	"github.com/mayfly-build/mayfly/remotecache"
)

const (
	// askFrom is the size (bytes) of a blob from which on a question whether
	// it is there is cheaper than sending it.
	askFrom = 256 << 10

	// perBlob is how many parts of one blob are under way at once: where a
	// single connection is slow, that is by how much they are faster.
	perBlob = 16

	// manyParts is how many parts are enough to keep perBlob of them busy to
	// the end.
	manyParts = 64
)

// Put implements remotecache.Backend: one request for a small blob, parts in
// parallel for a large one.
func (b *Backend) Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	if err := blob.Digest.Validate(); err != nil {
		return fmt.Errorf("put blob %q: %w", blob.Digest, err)
	}
	return b.fail(ctx, writing, b.put(ctx, blob, src), "put blob %s to %s", blob.Digest, b)
}

func (b *Backend) put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	leave, err := enter(ctx, b.puts)
	if err != nil {
		return err
	}
	defer leave()
	if there, err := b.there(ctx, blob); there || err != nil {
		return err
	}
	if err := remotecache.CheckSource(blob, src); err != nil {
		return &sourceError{err}
	}
	from := source{src, blob.Size}
	size := b.partSize(blob.Size)
	if blob.Size <= 2*size {
		err = b.putWhole(ctx, blob, from)
	} else {
		err = b.putParts(ctx, blob, from, size)
	}
	if err == nil {
		b.found(blob.Digest, object{size: blob.Size, modified: time.Now()})
	}
	return err
}

// there reports whether the bucket holds the blob, as far as finding out is
// cheaper than sending it.
func (b *Backend) there(ctx context.Context, blob ocispec.Descriptor) (bool, error) {
	b.mu.Lock()
	absent := b.absent[blob.Digest]
	b.mu.Unlock()
	switch {
	case absent:
		return false, nil
	case b.has(blob):
		return true, nil
	case blob.Size < askFrom:
		return false, nil
	}
	if _, err := b.head(ctx, blob.Digest); err != nil {
		return false, err
	}
	return b.has(blob), nil
}

// partSize returns how large the parts of a blob of size bytes are.
func (b *Backend) partSize(size int64) int64 {
	least := max(b.cfg.PartSize, min(parts.Size(size, b.cfg.PartSize, manyParts), mostPart))
	return parts.Size(size, least, mostParts)
}

// putWhole signs the blob's digest with the request, so that a service stores
// nothing else: some store what they have got when a connection breaks.
func (b *Backend) putWhole(ctx context.Context, blob ocispec.Descriptor, from source) error {
	leave, err := enter(ctx, b.sends)
	if err != nil {
		return err
	}
	defer leave()
	_, err = b.client.PutObject(ctx, &sdk.PutObjectInput{
		Bucket: &b.cfg.Bucket, Key: aws.String(b.blobKey(blob.Digest)),
		Body: io.NewSectionReader(from, 0, blob.Size), ContentLength: &blob.Size,
	}, func(o *sdk.Options) {
		if blob.Digest.Algorithm() == digest.SHA256 {
			signedPayload(o, blob.Digest.Encoded())
		}
	})
	return err
}

func (b *Backend) putParts(ctx context.Context, blob ocispec.Descriptor, from source, size int64) error {
	key := b.blobKey(blob.Digest)
	return b.multipart(ctx, upload{
		key: key, size: blob.Size, partSize: size, parallel: perBlob,
		send: func(ctx context.Context, id *string, number int32, off, length int64) (*string, error) {
			out, err := b.client.UploadPart(ctx, &sdk.UploadPartInput{
				Bucket: &b.cfg.Bucket, Key: &key, UploadId: id, PartNumber: &number,
				Body: io.NewSectionReader(from, off, length), ContentLength: &length,
			}, agreed, func(o *sdk.Options) {
				if b.tls { // which guards the bytes; what is too short is never put together
					unsignedPayload(o)
				}
			})
			if err != nil {
				return nil, err
			}
			return out.ETag, nil
		},
	})
}

// An upload is an object made of parts.
type upload struct {
	key            string
	size, partSize int64
	parallel       int
	metadata       map[string]string
	class          types.StorageClass

	// send sends one part and returns its ETag.
	send func(ctx context.Context, id *string, number int32, off, length int64) (etag *string, err error)
}

// abortTime is how long it may take to take back the parts of an upload that
// did not come to its end.
const abortTime = 10 * time.Second

// multipart sends the parts of an object and puts them together. After an
// error nothing of it is left.
func (b *Backend) multipart(ctx context.Context, up upload) error {
	created, err := b.client.CreateMultipartUpload(ctx, &sdk.CreateMultipartUploadInput{
		Bucket: &b.cfg.Bucket, Key: &up.key, Metadata: up.metadata, StorageClass: up.class,
	})
	if err != nil {
		return err
	}
	if err := b.sendParts(ctx, up, created.UploadId); err != nil {
		b.abort(ctx, up.key, created.UploadId)
		return err
	}
	return nil
}

func (b *Backend) sendParts(ctx context.Context, up upload, id *string) error {
	done := make([]types.CompletedPart, parts.Count(up.size, up.partSize))
	err := parts.Upload(ctx, up.size, up.partSize, up.parallel, func(group context.Context, part int, off, length int64) error {
		leave, err := enter(group, b.sends)
		if err != nil {
			return err
		}
		defer leave()
		number := int32(part + 1)
		// When another part fails this one still comes to its end: cut short,
		// it might be stored after the upload has been aborted.
		etag, err := up.send(ctx, id, number, off, length)
		done[part] = types.CompletedPart{ETag: etag, PartNumber: &number}
		return err
	})
	if err == nil {
		err = ctx.Err() // it ends the sending without an error
	}
	if err != nil {
		return err
	}
	_, err = b.client.CompleteMultipartUpload(stall.Moving(ctx, up.size), &sdk.CompleteMultipartUploadInput{
		Bucket: &b.cfg.Bucket, Key: &up.key, UploadId: id,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
	})
	if err != nil && is(err, "NoSuchUpload") {
		// The answer to an earlier try was lost: the object is complete.
		out, herr := b.headKey(ctx, up.key)
		if herr == nil && aws.ToInt64(out.ContentLength) == up.size {
			return nil
		}
	}
	return err
}

// abort takes back the parts that were sent. Where that cannot be done, they
// stay until the bucket's rule for incomplete uploads takes them.
func (b *Backend) abort(ctx context.Context, key string, id *string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	for n := 1; n <= 5; n++ {
		_, _ = b.client.AbortMultipartUpload(ctx, &sdk.AbortMultipartUploadInput{Bucket: &b.cfg.Bucket, Key: &key, UploadId: id})
		// A part that was under way may outlive it.
		_, err := b.client.ListParts(ctx, &sdk.ListPartsInput{Bucket: &b.cfg.Bucket, Key: &key, UploadId: id})
		if err != nil || sleep(ctx, b.cfg.backoff(n)) != nil {
			return
		}
	}
}
