package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	copyBuffer = 256 << 10 // bytes
	copyChunk  = 64 << 20  // bytes copied in the kernel before ctx is looked at
)

// copyTo writes a blob to w, all of it or an error.
func (img *Image) copyTo(ctx context.Context, w io.Writer, d ocispec.Descriptor) error {
	r, err := img.open(ctx, d)
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	n, err := copyExactly(ctx, w, r, d.Size)
	if err == nil && n < d.Size {
		err = fmt.Errorf("%d bytes, descriptor says %d", n, d.Size)
	}
	if closeErr := r.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	return nil
}

// copyExactly copies size bytes and sees the end of r behind them, which is
// where r says whether they were the right ones.
func copyExactly(ctx context.Context, w io.Writer, r io.Reader, size int64) (int64, error) {
	dst, toFile := w.(*os.File)
	src, fromFile := r.(interface{ File() *os.File })
	if toFile && fromFile {
		if n, err := copyFile(ctx, dst, src.File(), size); n < size || err != nil {
			return n, err
		}
		return size, end(src.File())
	}
	// No WriteTo and ReadFrom, which would go around ctx.
	in := &reader{ctx: ctx, r: io.LimitReader(r, size)}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, in, make([]byte, copyBuffer))
	if err != nil || n < size {
		return n, err
	}
	return n, end(r)
}

// end reads the end of r, where it should be.
func end(r io.Reader) error {
	switch n, err := io.ReadFull(r, make([]byte, 1)); {
	case n > 0:
		return errors.New("more bytes than the descriptor says")
	case err != io.EOF:
		return err
	}
	return nil
}

func copyFile(ctx context.Context, dst, src *os.File, size int64) (n int64, err error) {
	for n < size && err == nil {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		var m int64
		m, err = io.CopyN(dst, src, min(size-n, copyChunk))
		n += m
	}
	if err == io.EOF { // the caller sees that bytes are missing
		err = nil
	}
	return n, err
}

// A reader ends when ctx does.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
