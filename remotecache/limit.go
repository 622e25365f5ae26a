package remotecache

import (
	"context"
	"io"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limit returns b with at most n blobs being read and n being written at a
// time; others wait. A reader counts until it is closed or has ended. Reads
// and writes wait apart, since what is written may be read from the same
// place. An n below 1 means 1.
func Limit(b Backend, n int) Backend {
	n = max(n, 1)
	return &limited{Backend: b, reads: make(chan struct{}, n), writes: make(chan struct{}, n)}
}

type limited struct {
	Backend
	reads, writes chan struct{}
}

func enter(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *limited) Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	if err := enter(ctx, l.reads); err != nil {
		return nil, err
	}
	r, err := l.Backend.Open(ctx, blob, off)
	if err != nil {
		<-l.reads
		return nil, err
	}
	return &limitedReader{r: r, leave: sync.OnceFunc(func() { <-l.reads })}, nil
}

func (l *limited) Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	if err := enter(ctx, l.writes); err != nil {
		return err
	}
	defer func() { <-l.writes }()
	return l.Backend.Put(ctx, blob, src)
}

type limitedReader struct {
	r     io.ReadCloser
	leave func()
}

func (r *limitedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil {
		r.leave()
	}
	return n, err
}

func (r *limitedReader) Close() error {
	defer r.leave()
	return r.r.Close()
}
