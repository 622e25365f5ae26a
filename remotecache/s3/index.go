package s3

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
)

// maxIndex bounds an encoded Index in memory (bytes).
const maxIndex = 64 << 20

// anyVersion is the Version of an Index from a service that gives objects no
// ETag: it stands for whatever is there.
const anyVersion = "*"

// LoadIndex implements remotecache.Backend in one request. Besides refs it
// takes whatever List returned: names that BuildKit saved under.
func (b *Backend) LoadIndex(ctx context.Context, ref string) (*remotecache.Index, error) {
	if err := checkName(ref); err != nil {
		return nil, err
	}
	data, etag, err := b.loadIndex(ctx, ref)
	if err != nil {
		return nil, b.fail(ctx, reading, err, "load cache %q from %s", ref, b)
	}
	idx, err := remotecache.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("load cache %q from %s: %w", ref, b, err)
	}
	idx.Version = cmp.Or(etag, anyVersion)
	return idx, nil
}

// loadIndex reads what is stored under ref, and its ETag.
func (b *Backend) loadIndex(ctx context.Context, ref string) (data []byte, etag string, err error) {
	err = b.policy.Do(ctx, func() error { // the SDK tries again until there is a body, this goes for the body
		out, err := b.client.GetObject(ctx, &sdk.GetObjectInput{Bucket: &b.cfg.Bucket, Key: aws.String(b.indexes + ref)})
		if err != nil {
			return remotecache.Tried(err)
		}
		defer out.Body.Close()
		data, err = io.ReadAll(io.LimitReader(out.Body, maxIndex+1))
		etag = aws.ToString(out.ETag)
		return err
	})
	if err == nil && len(data) > maxIndex {
		err = fmt.Errorf("it has more than %d bytes: %w", maxIndex, remotecache.ErrCorrupt)
	}
	return data, etag, err
}

// SaveIndex implements remotecache.Backend. Blobs of idx that this Backend has
// not met, such as those carried over from another job's Index, are looked for
// first, so that none that has expired is named any longer.
func (b *Backend) SaveIndex(ctx context.Context, ref string, idx *remotecache.Index) error {
	if err := remotecache.CheckRef(ref); err != nil {
		return err
	}
	defer b.settle(ctx)
	data, err := idx.EncodeAnnotated()
	if err != nil {
		return fmt.Errorf("save cache %q: %w", ref, err)
	}
	var blobs []ocispec.Descriptor
	for _, blob := range idx.Blobs() {
		blobs = append(blobs, blob.Descriptor())
	}
	missing, err := b.missing(ctx, blobs)
	if err != nil {
		return b.fail(ctx, writing, err, "save cache %q in %s", ref, b)
	}
	b.touch(ctx, blobs)
	if len(missing) > 0 {
		return fmt.Errorf("save cache %q in %s: %d blobs, such as %s: %w", ref, b, len(missing), missing[0].Digest, remotecache.ErrNotFound)
	}
	err = b.saveIndex(ctx, ref, data, idx.Version)
	if errors.Is(err, remotecache.ErrConflict) {
		return fmt.Errorf("save cache %q in %s: %w", ref, b, err)
	}
	return b.fail(ctx, writing, err, "save cache %q in %s", ref, b)
}

// saveIndex stores data under ref while that has a version. Services that
// ignore the condition of a PUT, or refuse it, are why it is looked at before.
func (b *Backend) saveIndex(ctx context.Context, ref string, data []byte, version string) error {
	in := &sdk.PutObjectInput{Bucket: &b.cfg.Bucket, Key: aws.String(b.indexes + ref)}
	put := func() error {
		in.Body, in.ContentLength = bytes.NewReader(data), aws.Int64(int64(len(data)))
		_, err := b.client.PutObject(ctx, in)
		return err
	}
	if version == "" {
		return put()
	}
	if err := b.unchanged(ctx, in.Key, version); err != nil {
		return err
	}
	if version == remotecache.Absent {
		in.IfNoneMatch = aws.String("*")
	} else {
		in.IfMatch = &version
	}
	err := put()
	switch code := status(err); {
	case code == http.StatusNotImplemented, is(err, "NotImplemented", "InvalidArgument", "InvalidRequest"):
		in.IfMatch, in.IfNoneMatch = nil, nil
		return put()
	case code == http.StatusPreconditionFailed:
		// It may be our own PUT that changed it, whose answer was lost.
		if now, _, lerr := b.loadIndex(ctx, ref); lerr == nil && bytes.Equal(now, data) {
			return nil
		}
		return remotecache.ErrConflict
	case code == http.StatusConflict, is(err, "NoSuchKey"):
		return remotecache.ErrConflict // another PUT or DELETE at the same moment
	}
	return err
}

// unchanged returns ErrConflict unless the object has a version.
func (b *Backend) unchanged(ctx context.Context, key *string, version string) error {
	now := remotecache.Absent
	out, err := b.headKey(ctx, *key)
	switch code := status(err); {
	case err == nil:
		now = cmp.Or(aws.ToString(out.ETag), anyVersion)
	case code == http.StatusForbidden:
		return nil // who may write need not be allowed to look
	case code != http.StatusNotFound:
		return err
	}
	if now != version && (version != anyVersion || now == remotecache.Absent) {
		return remotecache.ErrConflict
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
