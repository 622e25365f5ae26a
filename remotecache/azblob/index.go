package azblob

import (
	"bytes"
	"context"
	"crypto/md5"
	"fmt"
	"io"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"github.com/mayfly-build/mayfly/remotecache"
)

// maxIndex is the most bytes that are read of an index; one with 10,000
// layers has some 5 MiB.
const maxIndex = 128 << 20

// LoadIndex implements remotecache.Backend in one request. The Version is the
// index's ETag.
func (b *Backend) LoadIndex(ctx context.Context, ref string) (*remotecache.Index, error) {
	name, err := b.indexName(ref)
	if err != nil {
		return nil, err
	}
	idx, err := b.load(ctx, name)
	if err != nil {
		return nil, b.fail(ctx, reading, fmt.Sprintf("load index %q", ref), err)
	}
	return idx, nil
}

func (b *Backend) load(ctx context.Context, name string) (*remotecache.Index, error) {
	got, err := b.get(ctx, name, 0, 0, nil)
	if err != nil {
		return nil, err
	}
	defer got.body.Close()
	if got.total > maxIndex {
		return nil, fmt.Errorf("it has %d bytes, more than %d: %w", got.total, maxIndex, remotecache.ErrCorrupt)
	}
	data, err := io.ReadAll(io.LimitReader(got.body, maxIndex+1))
	if err != nil {
		return nil, err
	}
	idx, err := remotecache.Decode(data)
	if err != nil {
		return nil, err
	}
	idx.Version = string(deref(got.etag))
	return idx, nil
}

// SaveIndex implements remotecache.Backend. The service itself compares the
// Version: of two jobs that save at the same moment one gets ErrConflict.
func (b *Backend) SaveIndex(ctx context.Context, ref string, idx *remotecache.Index) error {
	name, err := b.indexName(ref)
	if err != nil {
		return err
	}
	data, err := idx.EncodeAnnotated()
	if err != nil {
		return fmt.Errorf("save index %q: %w", ref, err)
	}
	return b.fail(ctx, writing, fmt.Sprintf("save index %q", ref), b.save(ctx, name, data, idx.Version))
}

func (b *Backend) save(ctx context.Context, name string, data []byte, version string) error {
	var when *blob.AccessConditions
	switch version {
	case "":
	case remotecache.Absent:
		when = absent()
	default:
		when = unchanged(azcore.ETag(version))
	}
	err := b.write(ctx, func() error {
		_, err := b.at(name).Upload(ctx, streaming.NopCloser(bytes.NewReader(data)), &blockblob.UploadOptions{AccessConditions: when})
		return err
	})
	if when == nil || !bloberror.HasCode(err, bloberror.ConditionNotMet, bloberror.BlobAlreadyExists, bloberror.BlobNotFound) {
		return err
	}
	// If an answer was lost on its way, what changed the index was our own
	// first try. The service keeps the MD5 of what one request has put.
	sum := md5.Sum(data)
	if have, err := b.stat(ctx, name); err == nil && bytes.Equal(have.md5, sum[:]) {
		return nil
	}
	return remotecache.ErrConflict
}
