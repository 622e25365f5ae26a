package remotecache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/retry"
)

// StallAfter is how long an exchange with a cache may move no byte, unless a
// backend's Config says: then it is broken off and tried again.
const StallAfter = 30 * time.Second

// DefaultPolicy returns what backends do after passing faults, unless their
// Config says. A cache is worth the time that it saves: one that stays silent
// gets a minute, and one that asks for pauses a minute and a half.
func DefaultPolicy() retry.Policy { return retry.Policy{Stalls: 2, Wait: 90 * time.Second} }

// Retry returns b with calls repeated after faults that pass: those that
// retry.Passing knows, which are the network's and those whose error says so.
// A reader that breaks off is taken up where it stopped.
func Retry(b Backend, p retry.Policy) Backend { return retrying{b, p} }

type retrying struct {
	b Backend
	p retry.Policy
}

func again[T any](ctx context.Context, p retry.Policy, f func() (T, error)) (T, error) {
	var out T
	err := p.Do(ctx, func() (err error) {
		out, err = f()
		return err
	})
	return out, err
}

func (r retrying) Missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	return again(ctx, r.p, func() ([]ocispec.Descriptor, error) { return r.b.Missing(ctx, blobs) })
}

func (r retrying) Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	return r.p.Do(ctx, func() error { return r.b.Put(ctx, blob, src) })
}

func (r retrying) LoadIndex(ctx context.Context, ref string) (*Index, error) {
	return again(ctx, r.p, func() (*Index, error) { return r.b.LoadIndex(ctx, ref) })
}

func (r retrying) SaveIndex(ctx context.Context, ref string, idx *Index) error {
	return r.p.Do(ctx, func() error { return r.b.SaveIndex(ctx, ref, idx) })
}

func (r retrying) Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	rr := &resumingReader{ctx: ctx, from: r, blob: blob, off: off}
	if err := r.p.Do(ctx, rr.open); err != nil {
		return nil, err
	}
	return rr, nil
}

// resumingReader reads a blob through as many Opens as it takes. Its ctx is
// that of the Open it is the result of.
type resumingReader struct {
	ctx    context.Context
	from   retrying
	blob   ocispec.Descriptor
	off    int64 // of the next byte to give out
	r      io.ReadCloser
	breaks retry.Breaks
	err    error // sticky
}

func (r *resumingReader) open() error {
	opened, err := r.from.b.Open(r.ctx, r.blob, r.off)
	if err == nil {
		r.r = opened
	}
	return err
}

func (r *resumingReader) Read(p []byte) (int, error) {
	for r.err == nil {
		n, err := r.r.Read(p)
		r.off += int64(n)
		if n > 0 {
			r.breaks.Moved()
		}
		if err == io.EOF && r.off < r.blob.Size {
			err = fmt.Errorf("read blob %s: it ends at byte %d of %d: %w", r.blob.Digest, r.off, r.blob.Size, io.ErrUnexpectedEOF)
		}
		if err != nil {
			r.fault(err)
		}
		if n > 0 || err == nil {
			return n, nil
		}
	}
	return 0, r.err
}

// fault sets err for good, or has the blob open again where it broke off.
func (r *resumingReader) fault(err error) {
	if err == io.EOF || r.ctx.Err() != nil || !r.breaks.Again(r.from.p, err) {
		r.err = err
		return
	}
	r.r.Close()
	r.r = closed{}
	first := true
	r.err = r.from.p.Do(r.ctx, func() error {
		if first { // the fault is the first try, so that a pause follows
			first = false
			return err
		}
		return r.open()
	})
}

func (r *resumingReader) Close() error {
	if r.err == nil {
		r.err = errors.New("read of a closed blob")
	}
	return r.r.Close()
}

// closed stands in for a reader that was closed already.
type closed struct{}

func (closed) Read([]byte) (int, error) { return 0, io.EOF }
func (closed) Close() error             { return nil }

// Tried marks the error of a backend that tries again by itself, so that Retry
// does not do it all over. A nil err stays nil.
func Tried(err error) error {
	if err == nil {
		return nil
	}
	return &tried{err}
}

type tried struct{ err error }

func (t *tried) Error() string                { return t.err.Error() }
func (t *tried) Unwrap() error                { return t.err }
func (t *tried) Retry() (bool, time.Duration) { return false, 0 }
