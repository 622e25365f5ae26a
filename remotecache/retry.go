package remotecache

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/retry"
)

// Retry returns b with calls repeated after faults that pass, such as those of
// a network and those a backend marks with retry.After. A reader that breaks
// off is taken up where it stopped; its tries are counted anew after each byte
// it got on.
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
	ctx   context.Context
	from  retrying
	blob  ocispec.Descriptor
	off   int64 // of the next byte to give out
	r     io.ReadCloser
	tries int   // in a row without a byte
	err   error // sticky
}

func (r *resumingReader) open() (err error) {
	r.r, err = r.from.b.Open(r.ctx, r.blob, r.off)
	return err
}

func (r *resumingReader) Read(p []byte) (int, error) {
	for r.err == nil {
		n, err := r.r.Read(p)
		r.off += int64(n)
		if n > 0 {
			r.tries = 0
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
	r.tries++
	if err == io.EOF || r.ctx.Err() != nil || !retry.Passing(err) || r.tries >= r.from.p.Limit() {
		r.err = err
		return
	}
	r.r.Close()
	if werr := r.from.p.Wait(r.ctx, r.tries, err); werr != nil {
		r.r, r.err = closed{}, errors.Join(werr, err)
		return
	}
	if err := r.from.p.Do(r.ctx, r.open); err != nil {
		r.r, r.err = closed{}, err
	}
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
