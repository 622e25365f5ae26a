package azblob

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/parts"
	"github.com/mayfly-build/mayfly/remotecache"
)

// Put implements remotecache.Backend: one request for a small blob; for a
// large one a question, then its blocks, several at a time, and at the end the
// list of them, which makes the blob appear. What is there with the right size
// stays, and what is there with a wrong one is replaced.
func (b *Backend) Put(ctx context.Context, desc ocispec.Descriptor, src io.ReaderAt) error {
	name, err := b.blobName(desc.Digest)
	if err != nil {
		return err
	}
	if err := remotecache.CheckSource(desc, src); err != nil {
		return err
	}
	return b.fail(ctx, writing, "put blob "+desc.Digest.String(), b.put(ctx, name, desc.Size, source{src}))
}

func (b *Backend) put(ctx context.Context, name string, size int64, src source) error {
	if size > partSize {
		// Where the answer is an error, writing will tell of it.
		if have, err := b.stat(ctx, name); err == nil && have.size == size {
			return nil
		}
	}
	when := absent()
	for n := 1; ; n++ {
		err := b.upload(ctx, name, size, src, when)
		// InvalidBlockList: another job has stored the blob, and with that
		// the service has dropped our blocks.
		if n == 3 || !bloberror.HasCode(err, bloberror.BlobAlreadyExists, bloberror.ConditionNotMet, bloberror.InvalidBlockList) {
			return err
		}
		have, err := b.stat(ctx, name)
		switch {
		case err == nil && have.size == size:
			return nil
		case err == nil:
			when = unchanged(*have.etag)
		case statusOf(err) != http.StatusNotFound:
			return err
		default:
			when = absent()
		}
	}
}

func absent() *blob.AccessConditions {
	return &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}}
}

func unchanged(etag azcore.ETag) *blob.AccessConditions {
	return &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: &etag}}
}

// upload stores all of src under name, if the conditions hold at its end.
func (b *Backend) upload(ctx context.Context, name string, size int64, src source, when *blob.AccessConditions) error {
	c := b.at(name)
	if size <= partSize {
		return b.write(ctx, func() error {
			_, err := c.Upload(ctx, src.part(0, size), &blockblob.UploadOptions{AccessConditions: when})
			return err
		})
	}
	block := parts.Size(size, partSize, mostBlocks)
	ids := make([]string, parts.Count(size, block))
	for i := range ids {
		ids[i] = blockID(block, i)
	}
	err := parts.Upload(ctx, size, block, b.cfg.Requests, func(ctx context.Context, i int, off, n int64) error {
		return b.write(ctx, func() error {
			_, err := c.StageBlock(ctx, ids[i], src.part(off, n), nil)
			return err
		})
	})
	if err != nil {
		return err
	}
	_, err = c.CommitBlockList(ctx, ids, &blockblob.CommitBlockListOptions{AccessConditions: when})
	return err
}

// blockID names a block. Jobs that upload the same blob at the same time use
// the same names for the same bytes, so that it does not matter whose block
// the service keeps. All blocks of a blob need names of the same length, even
// those left over by others, and 64 bytes is the length of the SDK's own: that
// is what BuildKit leaves behind when it is interrupted.
func blockID(size int64, i int) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%-64s", fmt.Sprintf("mayfly %d %d", size, i)))
}

// write calls put, which puts something into the container. If there is none
// it is made, and put called again.
func (b *Backend) write(ctx context.Context, put func() error) error {
	err := put()
	if !bloberror.HasCode(err, bloberror.ContainerNotFound) {
		return err
	}
	if _, err := b.client.Create(ctx, nil); err != nil && !bloberror.HasCode(err, bloberror.ContainerAlreadyExists) {
		return &creating{err}
	}
	return put()
}

// A source is where a blob is read from. Its errors are told from those of the
// network: they are not tried again.
type source struct{ from io.ReaderAt }

func (s source) part(off, n int64) io.ReadSeekCloser {
	return streaming.NopCloser(io.NewSectionReader(s, off, n))
}

func (s source) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.from.ReadAt(p, off)
	switch {
	case n == len(p):
		return n, nil
	case err == io.EOF:
		err = fmt.Errorf("the source ends at byte %d: %w", off+int64(n), remotecache.ErrCorrupt)
	}
	return n, &sourceError{err}
}

type sourceError struct{ err error }

func (e *sourceError) Error() string                { return e.err.Error() }
func (e *sourceError) Unwrap() error                { return e.err }
func (e *sourceError) Retry() (bool, time.Duration) { return false, 0 }
