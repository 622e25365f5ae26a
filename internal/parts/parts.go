// Package parts moves large blobs as several ranges at once.
//
//	remotecache/{gha,s3,azblob} ──Upload──▶ one request a part
//	remotecache/{gha,s3,azblob} ──Reader──▶ ranged requests ahead of who reads
//
// One stream to an object store is slow, many are not. Memory is bounded by a
// Pool that all blobs of a backend share: a part that finds no buffer is not
// fetched ahead, but read as it comes.
package parts

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"
)

// Upload calls put for every part of size bytes, n at a time; parts have
// partSize bytes, the last one what is left. The first error ends it. A size
// of 0 is one empty part.
func Upload(ctx context.Context, size, partSize int64, n int, put func(ctx context.Context, part int, off, length int64) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(n, 1))
	for i := range Count(size, partSize) {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			off := int64(i) * partSize
			return put(ctx, i, off, min(partSize, size-off))
		})
	}
	return g.Wait()
}

// Count is how many parts size bytes have; an empty blob has one.
func Count(size, partSize int64) int { return max(1, int((size+partSize-1)/partSize)) }

// Size returns the smallest part size, not below least, with which size bytes
// have at most most parts. It is a multiple of a MiB.
func Size(size, least int64, most int) int64 {
	const mib = 1 << 20
	n := (size + int64(most) - 1) / int64(most)
	return max(least, (n+mib-1)/mib*mib)
}

// A Pool bounds the memory of parts that are fetched ahead.
type Pool struct {
	size int64
	free chan []byte // nil for buffers not made yet
}

// NewPool returns a Pool of n buffers of size bytes, made when needed.
func NewPool(size int64, n int) *Pool {
	p := &Pool{size: size, free: make(chan []byte, n)}
	for range n {
		p.free <- nil
	}
	return p
}

func (p *Pool) get() ([]byte, bool) {
	select {
	case b := <-p.free:
		if b == nil {
			b = make([]byte, p.size)
		}
		return b, true
	default:
		return nil, false
	}
}

func (p *Pool) put(b []byte) { p.free <- b }

// Fetch opens length bytes of a blob from byte off on.
type Fetch func(ctx context.Context, off, length int64) (io.ReadCloser, error)

// Reader reads a blob of size bytes from byte off to its end, with up to n
// parts of the Pool's size under way at once. The caller closes it; ctx is that
// of all fetches. A blob that ends early gives io.ErrUnexpectedEOF.
func (p *Pool) Reader(ctx context.Context, off, size int64, n int, fetch Fetch) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	r := &reader{pool: p, ctx: ctx, cancel: cancel, fetch: fetch, at: off, next: off, size: size, most: max(n, 1)}
	r.ahead()
	return r
}

type reader struct {
	pool   *Pool
	ctx    context.Context // of the fetches, ended by Close
	cancel context.CancelFunc
	fetch  Fetch
	size   int64
	most   int

	at, next int64   // the next byte to give out, and to fetch ahead
	queue    []*part // fetched or being fetched, in order
	direct   io.ReadCloser
	left     int64 // bytes that direct still has
	err      error // sticky
}

// A part is a range on its way into a buffer.
type part struct {
	buf  []byte // the whole buffer
	data []byte // what of it is the range, not given out yet
	done chan struct{}
	err  error
}

// ahead starts as many parts as there are buffers for.
func (r *reader) ahead() {
	for r.direct == nil && len(r.queue) < r.most && r.next < r.size {
		buf, ok := r.pool.get()
		if !ok {
			return
		}
		off, n := r.next, min(r.pool.size, r.size-r.next)
		r.next += n
		p := &part{buf: buf, data: buf[:n], done: make(chan struct{})}
		r.queue = append(r.queue, p)
		go func() {
			defer close(p.done)
			p.err = r.fill(p.data, off)
		}()
	}
}

func (r *reader) fill(into []byte, off int64) error {
	body, err := r.fetch(r.ctx, off, int64(len(into)))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(body, into)
	if cerr := body.Close(); err == nil {
		err = cerr
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("bytes %d to %d: %w", off, off+int64(len(into)), err)
	}
	return nil
}

func (r *reader) Read(b []byte) (int, error) {
	for r.err == nil && len(b) > 0 {
		switch {
		case r.at >= r.size:
			r.err = io.EOF
		case r.direct != nil:
			return r.readDirect(b)
		case len(r.queue) > 0:
			n, err := r.readPart(b)
			if n > 0 || err != nil {
				r.err = err
				return n, err
			}
		default: // no buffer is free
			n := min(r.pool.size, r.size-r.at)
			r.direct, r.err = r.fetch(r.ctx, r.at, n)
			r.left, r.next = n, r.at+n
		}
	}
	return 0, r.err
}

func (r *reader) readPart(b []byte) (int, error) {
	p := r.queue[0]
	select {
	case <-p.done:
	case <-r.ctx.Done():
		return 0, context.Cause(r.ctx)
	}
	if p.err != nil {
		return 0, p.err
	}
	n := copy(b, p.data)
	p.data = p.data[n:]
	r.at += int64(n)
	if len(p.data) == 0 {
		r.queue = r.queue[1:]
		r.pool.put(p.buf)
		r.ahead()
	}
	return n, nil
}

func (r *reader) readDirect(b []byte) (int, error) {
	n, err := r.direct.Read(b[:min(int64(len(b)), r.left)])
	r.at += int64(n)
	r.left -= int64(n)
	switch {
	case r.left == 0:
		err = r.direct.Close()
		r.direct = nil
		r.ahead()
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("%d bytes before the end of the range: %w", r.left, io.ErrUnexpectedEOF)
	}
	r.err = err
	return n, err
}

// Close ends what is under way and gives the buffers back.
func (r *reader) Close() error {
	r.cancel()
	var err error
	if r.direct != nil {
		err = r.direct.Close()
		r.direct = nil
	}
	for _, p := range r.queue {
		<-p.done
		r.pool.put(p.buf)
	}
	r.queue = nil
	if r.err == nil {
		r.err = errors.New("read of a closed blob")
	}
	return err
}
