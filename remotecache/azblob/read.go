package azblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/parts"
	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
)

// Open implements remotecache.Backend: one request for a small blob, several
// at a time for a large one. They all want the ETag of the first answer, so
// that a blob that is replaced in the meantime ends in ErrNotFound instead of
// a mixture. A blob of another size is ErrCorrupt.
func (b *Backend) Open(ctx context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	name, err := b.blobName(desc.Digest)
	if err != nil {
		return nil, err
	}
	r := &reader{b: b, desc: desc}
	r.ctx, r.cancel = context.WithCancel(ctx)
	if r.from, err = b.open(r.ctx, name, desc.Size, off); err != nil {
		r.cancel()
		return nil, b.fail(ctx, reading, "open blob "+desc.Digest.String(), err)
	}
	return r, nil
}

func (b *Backend) open(ctx context.Context, name string, size, off int64) (io.ReadCloser, error) {
	if off >= size { // no range begins there
		have, err := b.stat(ctx, name)
		if err == nil && have.size != size {
			err = wrongSize(have.size, size)
		}
		return http.NoBody, err
	}
	n := min(rangeSize, size-off)
	got, err := b.get(ctx, name, off, n, nil)
	if err != nil {
		return nil, err
	}
	if got.total != size {
		got.body.Close()
		return nil, wrongSize(got.total, size)
	}
	if n == size-off {
		return got.body, nil
	}
	r := &ranged{}
	r.first.Store(got)
	r.ReadCloser = b.buffers.Reader(ctx, off, size, b.cfg.Requests, r.fetch(off, func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
		next, err := b.get(ctx, name, off, n, got.etag)
		if err != nil {
			return nil, err
		}
		return next.body, nil
	}))
	return r, nil
}

func wrongSize(have, want int64) error {
	return fmt.Errorf("it has %d bytes instead of %d: %w", have, want, remotecache.ErrCorrupt)
}

// ranged reads a blob in parts, of which the first is open already.
type ranged struct {
	io.ReadCloser
	first atomic.Pointer[piece]
}

// fetch returns next with the first part before it.
func (r *ranged) fetch(begin int64, next parts.Fetch) parts.Fetch {
	return func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
		if off == begin {
			if p := r.first.Swap(nil); p != nil {
				return p.body, nil
			}
		}
		return next(ctx, off, n)
	}
}

func (r *ranged) Close() error {
	err := r.ReadCloser.Close()
	if p := r.first.Swap(nil); p != nil {
		err = errors.Join(err, p.body.Close())
	}
	return err
}

// A piece is a range of something in the container, open for reading.
type piece struct {
	body  io.ReadCloser
	etag  *azcore.ETag
	total int64 // bytes of the whole; -1 when the answer does not say
}

// get opens n bytes from off on; all of it when n is 0. A version that is not
// etag is refused, unless that is nil.
func (b *Backend) get(ctx context.Context, name string, off, n int64, etag *azcore.ETag) (*piece, error) {
	p, err := b.request(ctx, name, off, n, etag)
	if err != nil {
		return nil, err
	}
	end := off + n
	if n == 0 {
		end = p.total
	}
	p.body = &body{b: b, ctx: ctx, name: name, etag: p.etag, from: p.body, off: off, end: end}
	return p, nil
}

// request is get for as long as the connection lasts.
func (b *Backend) request(ctx context.Context, name string, off, n int64, etag *azcore.ETag) (*piece, error) {
	resp, err := b.at(name).DownloadStream(ctx, &blob.DownloadStreamOptions{
		Range: blob.HTTPRange{Offset: off, Count: n},
		AccessConditions: &blob.AccessConditions{
			ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: etag},
		},
	})
	if err != nil {
		return nil, err
	}
	p := &piece{body: resp.Body, etag: resp.ETag, total: -1}
	if resp.ContentLength != nil {
		p.total = *resp.ContentLength
	}
	var from, to int64
	if r := deref(resp.ContentRange); r != "" {
		if _, err := fmt.Sscanf(r, "bytes %d-%d/%d", &from, &to, &p.total); err != nil {
			resp.Body.Close()
			return nil, fmt.Errorf("the service sends the range %q: %w", r, err)
		}
	}
	if from != off {
		resp.Body.Close()
		return nil, fmt.Errorf("the service sends bytes from %d on instead of %d", from, off)
	}
	return p, nil
}

// A body reads a range through as many requests as it takes: where one breaks
// off, the next begins, for the same version.
type body struct {
	b    *Backend
	ctx  context.Context // of the requests: that of get
	name string
	etag *azcore.ETag
	from io.ReadCloser

	off, end int64 // of what is still to be read; end is -1 when nobody knows
	breaks   retry.Breaks
	err      error // sticky
}

func (r *body) Read(p []byte) (int, error) {
	for r.err == nil {
		if r.off == r.end {
			r.err = io.EOF
			break
		}
		if r.end >= 0 {
			p = p[:min(int64(len(p)), r.end-r.off)]
		}
		n, err := r.from.Read(p)
		r.off += int64(n)
		if n > 0 || err == nil {
			r.breaks.Moved()
			return n, nil // the error will come again
		}
		if err == io.EOF && r.end < 0 {
			r.err = err
			break
		}
		if err == io.EOF {
			err = fmt.Errorf("it ends %d bytes early: %w", r.end-r.off, io.ErrUnexpectedEOF)
		}
		r.err = r.resume(err)
	}
	return 0, r.err
}

// resume returns err, or nil when reading can go on in spite of it.
func (r *body) resume(err error) error {
	if r.ctx.Err() != nil || !r.breaks.Again(r.b.policy, err) {
		return err
	}
	first := true
	return retry.Policy{Attempts: 2, Backoff: r.b.cfg.Backoff}.Do(r.ctx, func() error {
		if first { // the fault is the first try, so that a pause follows
			first = false
			return err
		}
		next, err := r.b.request(r.ctx, r.name, r.off, max(r.end-r.off, 0), r.etag)
		if err == nil {
			r.from.Close()
			r.from = next.body
		}
		return err
	})
}

func (r *body) Close() error { return r.from.Close() }

// reader gives the errors of a blob's bytes their meaning.
type reader struct {
	b      *Backend
	ctx    context.Context // of the requests, ended by Close
	cancel context.CancelFunc
	desc   ocispec.Descriptor
	from   io.ReadCloser
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if err != nil && err != io.EOF {
		err = r.b.fail(r.ctx, reading, "read blob "+r.desc.Digest.String(), err)
	}
	return n, err
}

func (r *reader) Close() error {
	r.cancel()
	return r.from.Close()
}

// facts are what is known of something without reading it.
type facts struct {
	size int64
	etag *azcore.ETag
	md5  []byte // nil when the service knows none
}

func (b *Backend) stat(ctx context.Context, name string) (facts, error) {
	p, err := b.at(name).GetProperties(ctx, nil)
	if err != nil {
		return facts{}, err
	}
	return facts{size: deref(p.ContentLength), etag: p.ETag, md5: p.ContentMD5}, nil
}

// deref returns what p points to, zero for nil: the SDK's way to say that a
// header was not there.
func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
