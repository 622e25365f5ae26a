package s3

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
)

// Open implements remotecache.Backend: one request for a small blob, ranges
// ahead of the reader for a large one. That a blob is gone, or has another
// size than it should, is told by the first Read.
func (b *Backend) Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	if err := blob.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("read blob %q: %w", blob.Digest, err)
	}
	if off >= blob.Size {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return b.pool.Reader(ctx, off, blob.Size, perBlob, func(ctx context.Context, off, length int64) (io.ReadCloser, error) {
		r := &rangeReader{b: b, ctx: ctx, blob: blob, at: off, end: off + length}
		if err := r.open(); err != nil {
			return nil, err
		}
		return r, nil
	}), nil
}

// rangeReader reads bytes of a blob through as many requests as it takes. Its
// ctx is that of the Open it belongs to.
type rangeReader struct {
	b       *Backend
	ctx     context.Context
	blob    ocispec.Descriptor
	at, end int64
	body    io.ReadCloser
	breaks  retry.Breaks
	faults  int // without a byte between them, for the pauses
}

func (r *rangeReader) fail(err error) error {
	return r.b.fail(r.ctx, reading, err, "read blob %s from %s", r.blob.Digest, r.b)
}

// open asks for what is left of the range.
func (r *rangeReader) open() error {
	in := &sdk.GetObjectInput{Bucket: &r.b.cfg.Bucket, Key: aws.String(r.b.blobKey(r.blob.Digest))}
	whole := r.at == 0 && r.end == r.blob.Size
	if !whole {
		in.Range = aws.String(byteRange(r.at, r.end-r.at))
	}
	out, err := r.b.client.GetObject(r.ctx, in)
	switch status(err) {
	case http.StatusNotFound:
		r.b.lost(r.blob.Digest)
	case http.StatusRequestedRangeNotSatisfiable:
		return r.odd("is shorter")
	}
	if err != nil {
		return r.fail(err)
	}
	size := aws.ToInt64(out.ContentLength)
	if !whole {
		size = sizeInRange(aws.ToString(out.ContentRange))
	}
	if size != r.blob.Size {
		out.Body.Close()
		return r.odd(fmt.Sprintf("has %d", size))
	}
	r.body = out.Body
	return nil
}

// odd says that the object cannot be the blob.
func (r *rangeReader) odd(how string) error {
	r.b.lost(r.blob.Digest)
	return remotecache.Tried(fmt.Errorf("read blob %s from %s: the object %s, and not its %d bytes: %w",
		r.blob.Digest, r.b, how, r.blob.Size, remotecache.ErrCorrupt))
}

// sizeInRange returns the size of the whole that a Content-Range tells of, -1
// when it does not: then the service has not looked at the range.
func sizeInRange(header string) int64 {
	_, size, ok := strings.Cut(header, "/")
	n, err := strconv.ParseInt(size, 10, 64)
	if !ok || err != nil {
		return -1
	}
	return n
}

// Read goes on where a connection broke off. The error is final.
func (r *rangeReader) Read(p []byte) (int, error) {
	for {
		if r.at >= r.end {
			return 0, io.EOF
		}
		n, err := r.body.Read(p[:min(int64(len(p)), r.end-r.at)])
		r.at += int64(n)
		if n > 0 {
			r.faults = 0
			r.breaks.Moved()
			return n, nil // an error comes again, or is of no interest
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			if err := r.resume(err); err != nil {
				return 0, err
			}
		}
	}
}

// resume opens the rest of the range after a fault, once a while has passed.
func (r *rangeReader) resume(fault error) error {
	r.faults++
	if r.ctx.Err() != nil || !r.breaks.Again(r.b.policy, fault) {
		return r.fail(fault)
	}
	r.body.Close()
	if err := sleep(r.ctx, r.b.cfg.backoff(r.faults)); err != nil {
		return r.fail(err)
	}
	return r.open()
}

func (r *rangeReader) Close() error { return r.body.Close() }
