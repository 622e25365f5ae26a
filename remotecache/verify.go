package remotecache

import (
	"context"
	"fmt"
	"hash"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Verify returns b with its blobs checked: a reader that Open gives ends with
// ErrCorrupt instead of io.EOF when size or, read from byte 0, digest are not
// those of the descriptor. Whoever stops before the end knows nothing.
func Verify(b Backend) Backend { return verified{b} }

type verified struct{ Backend }

func (v verified) Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	if err := blob.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%w: blob %q: %w", ErrCorrupt, blob.Digest, err)
	}
	r, err := v.Backend.Open(ctx, blob, off)
	if err != nil {
		return nil, err
	}
	vr := &verifyingReader{ReadCloser: r, blob: blob, left: max(blob.Size-off, 0)}
	if off == 0 {
		vr.hash = blob.Digest.Algorithm().Hash()
	}
	return vr, nil
}

type verifyingReader struct {
	io.ReadCloser
	blob ocispec.Descriptor
	left int64     // bytes still to come
	hash hash.Hash // nil when read from the middle
	err  error     // sticky
}

func (r *verifyingReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.ReadCloser.Read(p)
	if int64(n) > r.left {
		r.err = fmt.Errorf("blob %s is longer than its %d bytes: %w", r.blob.Digest, r.blob.Size, ErrCorrupt)
		return 0, r.err
	}
	r.left -= int64(n)
	if r.hash != nil {
		r.hash.Write(p[:n])
	}
	if err == io.EOF {
		err = r.end()
	}
	r.err = err
	return n, err
}

func (r *verifyingReader) end() error {
	if r.left > 0 {
		return fmt.Errorf("blob %s ends %d bytes before its %d: %w", r.blob.Digest, r.left, r.blob.Size, ErrCorrupt)
	}
	if r.hash == nil {
		return io.EOF
	}
	if got := r.hash.Sum(nil); fmt.Sprintf("%x", got) != r.blob.Digest.Encoded() {
		return fmt.Errorf("blob %s has digest %s:%x instead: %w", r.blob.Digest, r.blob.Digest.Algorithm(), got, ErrCorrupt)
	}
	return io.EOF
}
