package gha

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
)

func (b *Backend) open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	key := blobKey(blob.Digest)
	if _, err := b.signed(ctx, key); err != nil {
		return nil, err
	}
	switch left := blob.Size - off; {
	case left <= 0:
		return io.NopCloser(bytes.NewReader(nil)), nil
	case left <= partSize:
		return b.fetch(ctx, key, blob.Size, off, left)
	default:
		return b.pool.Reader(ctx, off, blob.Size, b.cfg.Parallel, func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
			return b.fetch(ctx, key, blob.Size, off, n)
		}), nil
	}
}

// signed returns a URL for reading an entry. The error is ErrNotFound when
// there is no entry.
func (b *Backend) signed(ctx context.Context, key string) (string, error) {
	if !b.cfg.Mode.reads() {
		return "", fmt.Errorf("the job's cache-mode is %q: %w", b.cfg.Mode, remotecache.ErrNotFound)
	}
	b.mu.Lock()
	u, ok := b.urls[key]
	b.mu.Unlock()
	if ok {
		return u, nil
	}
	e, ok, err := b.lookup(ctx, key, false)
	if err == nil && !ok {
		err = remotecache.ErrNotFound
	}
	return e.url, err
}

// forget drops a URL that was refused, unless there is another one by now.
func (b *Backend) forget(key, url string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.urls[key] == url {
		delete(b.urls, key)
	}
}

// fetch reads n bytes of an entry of size bytes from byte off on; with size -1
// all of it, and n does not matter. The reader takes up by itself what breaks
// off.
func (b *Backend) fetch(ctx context.Context, key string, size, off, n int64) (io.ReadCloser, error) {
	r := &ranged{ctx: ctx, b: b, key: key, size: size, at: off, end: off + n}
	if size < 0 {
		r.end = -1
	}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// ranged reads a range of an entry.
type ranged struct {
	ctx  context.Context // of the fetch
	b    *Backend
	key  string
	size int64 // -1: not known
	at   int64 // of the next byte
	end  int64 // of the range; -1: the entry's
	body io.ReadCloser

	breaks retry.Breaks
	tries  int // in a row without a byte, for the pauses between them
}

// A URL may have expired, and the next one, too, when we wait for long.
const maxSigned = 3

func (r *ranged) open() error {
	for n := 1; ; n++ {
		u, err := r.b.signed(r.ctx, r.key)
		if err != nil {
			return err
		}
		err = r.get(u)
		gone := refused(err, http.StatusNotFound, http.StatusGone)
		if !gone && !refused(err, http.StatusUnauthorized, http.StatusForbidden) {
			return err
		}
		r.b.forget(r.key, u)
		if gone && n > 1 {
			return fmt.Errorf("%w: %w", err, remotecache.ErrNotFound)
		}
		if n == maxSigned {
			return err
		}
	}
}

func (r *ranged) get(u string) error {
	req := request{op: "download", method: http.MethodGet, url: u, header: http.Header{}}
	whole := r.at == 0 && (r.end < 0 || r.end == r.size)
	switch {
	case whole:
	case r.end < 0:
		req.header.Set("Range", fmt.Sprintf("bytes=%d-", r.at))
	default:
		req.header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.at, r.end-1))
	}
	resp, err := r.b.c.send(r.ctx, req)
	if refused(err, http.StatusRequestedRangeNotSatisfiable) {
		return fmt.Errorf("%w: the entry has not the %d bytes it should have: %w", err, r.size, remotecache.ErrCorrupt)
	}
	if err != nil {
		return err
	}
	if err := r.check(resp); err != nil {
		resp.Body.Close()
		return err
	}
	r.body = resp.Body
	return nil
}

// check looks whether the answer is of an entry of the right size, and comes
// to the first byte wanted where the whole was sent instead of a range.
func (r *ranged) check(resp *http.Response) error {
	total, begin := resp.ContentLength, int64(0)
	if resp.StatusCode == http.StatusPartialContent {
		total = -1
		header := resp.Header.Get("Content-Range")
		_, text, _ := strings.Cut(header, "/")
		if _, err := fmt.Sscanf(header, "bytes %d-", &begin); err != nil || begin != r.at {
			return fmt.Errorf("download: the answer to a range from byte %d has %q: %w", r.at, oneLine(header, 80), remotecache.ErrCorrupt)
		}
		if _, err := fmt.Sscan(text, &total); err != nil {
			total = -1 // "*"
		}
	}
	if r.size >= 0 && total >= 0 && total != r.size {
		return fmt.Errorf("download: the entry has %d bytes, not %d: %w", total, r.size, remotecache.ErrCorrupt)
	}
	if skip := r.at - begin; skip > 0 {
		if _, err := io.CopyN(io.Discard, resp.Body, skip); err != nil {
			return fmt.Errorf("download: %w", err)
		}
	}
	if r.size < 0 && total >= 0 {
		r.size, r.end = total, total
	}
	return nil
}

func (r *ranged) Read(p []byte) (int, error) {
	if r.end >= 0 {
		if r.at >= r.end {
			return 0, io.EOF
		}
		p = p[:min(int64(len(p)), r.end-r.at)]
	}
	for {
		n, err := r.body.Read(p)
		r.at += int64(n)
		if n > 0 {
			r.breaks.Moved()
			r.tries = 0
		}
		if err == io.EOF && r.end >= 0 && r.at < r.end {
			err = fmt.Errorf("download: the entry ends at byte %d of %d: %w", r.at, r.end, io.ErrUnexpectedEOF)
		}
		if n > 0 || err == nil || err == io.EOF {
			if err != io.EOF {
				err = nil // it comes again
			}
			return n, err
		}
		if err = r.reopen(err); err != nil {
			return 0, remotecache.Tried(err)
		}
	}
}

// reopen takes up a range after err, or returns it when that makes no sense.
func (r *ranged) reopen(err error) error {
	r.tries++
	if r.ctx.Err() != nil || !r.breaks.Again(r.b.cfg.Retry, err) {
		if cause := context.Cause(r.ctx); cause != nil && !errors.Is(err, cause) {
			err = cause
		}
		return err
	}
	if err := sleep(r.ctx, firstLook<<r.tries); err != nil {
		return err
	}
	r.body.Close()
	r.body = http.NoBody
	return r.open()
}

func (r *ranged) Close() error { return r.body.Close() }
