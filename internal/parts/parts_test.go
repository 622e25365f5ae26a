package parts

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

func data(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// serve fetches from b and counts what is open.
func serve(b []byte, open *atomic.Int64) Fetch {
	return func(_ context.Context, off, n int64) (io.ReadCloser, error) {
		open.Add(1)
		return &counted{iotest.HalfReader(bytes.NewReader(b[off : off+n])), open}, nil
	}
}

type counted struct {
	io.Reader
	open *atomic.Int64
}

func (c *counted) Close() error { c.open.Add(-1); return nil }

func TestReader(t *testing.T) {
	all := data(10_000)
	for _, buffers := range []int{0, 1, 3, 50} {
		var open atomic.Int64
		p := NewPool(700, buffers)
		for _, off := range []int64{0, 1, 699, 700, 701, 9_999, 10_000} {
			r := p.Reader(t.Context(), off, int64(len(all)), 4, serve(all, &open))
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, all[off:]) {
				t.Errorf("%d buffers, from %d: %d bytes, %v; want %d", buffers, off, len(got), err, len(all)-int(off))
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		if n := open.Load(); n != 0 {
			t.Errorf("%d buffers: %d readers are open", buffers, n)
		}
		if len(p.free) != buffers {
			t.Errorf("%d of %d buffers came back", len(p.free), buffers)
		}
	}
}

// Many blobs share few buffers, and all get on though some are read slowly.
func TestReadersShareAPool(t *testing.T) {
	all := data(20_000)
	var open atomic.Int64
	p := NewPool(1000, 3)
	stalled := p.Reader(t.Context(), 0, int64(len(all)), 8, serve(all, &open)) // holds all buffers
	var g sync.WaitGroup
	for range 6 {
		g.Go(func() {
			r := p.Reader(t.Context(), 0, int64(len(all)), 8, serve(all, &open))
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, all) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	g.Wait()
	if got, err := io.ReadAll(stalled); err != nil || !bytes.Equal(got, all) {
		t.Errorf("the stalled one: %d bytes, %v", len(got), err)
	}
	if err := stalled.Close(); err != nil || open.Load() != 0 || len(p.free) != 3 {
		t.Errorf("%v, %d open, %d buffers free", err, open.Load(), len(p.free))
	}
}

func TestReaderFaults(t *testing.T) {
	all := data(5000)
	broken := errors.New("broken")
	for _, buffers := range []int{0, 2} {
		p := NewPool(1000, buffers)
		var open atomic.Int64
		short := func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
			return serve(all, &open)(ctx, off, min(n, 600))
		}
		r := p.Reader(t.Context(), 0, 5000, 4, short)
		if got, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) || len(got) > 600 {
			t.Errorf("short: %d bytes, %v", len(got), err)
		}
		r.Close()
		r = p.Reader(t.Context(), 0, 5000, 4, func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
			if off >= 2000 {
				return nil, broken
			}
			return serve(all, &open)(ctx, off, n)
		})
		if got, err := io.ReadAll(r); !errors.Is(err, broken) || !bytes.Equal(got, all[:2000]) {
			t.Errorf("broken: %d bytes, %v", len(got), err)
		}
		r.Close()
		ctx, cancel := context.WithCancel(t.Context())
		r = p.Reader(ctx, 0, 5000, 4, func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		})
		cancel()
		if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		r.Close()
		if open.Load() != 0 || len(p.free) != buffers {
			t.Errorf("%d open, %d of %d buffers free", open.Load(), len(p.free), buffers)
		}
	}
}

func TestUpload(t *testing.T) {
	for _, size := range []int64{0, 1, 999, 1000, 1001, 5500} {
		src, dst := data(int(size)), make([]byte, size)
		var calls, now, most atomic.Int64
		err := Upload(t.Context(), size, 1000, 3, func(_ context.Context, part int, off, n int64) error {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			calls.Add(1)
			if off != int64(part)*1000 {
				t.Errorf("part %d is at %d", part, off)
			}
			copy(dst[off:off+n], src[off:])
			return nil
		})
		if err != nil || !bytes.Equal(src, dst) || int(calls.Load()) != Count(size, 1000) || most.Load() > 3 {
			t.Errorf("%d bytes: %v, %d calls, %d at once", size, err, calls.Load(), most.Load())
		}
	}
	broken := errors.New("broken")
	err := Upload(t.Context(), 1<<20, 1000, 3, func(_ context.Context, part int, _, _ int64) error {
		if part == 5 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
}

func TestSize(t *testing.T) {
	for _, tt := range []struct {
		size, least int64
		most        int
		want        int64
	}{{0, 8 << 20, 100, 8 << 20}, {1 << 30, 8 << 20, 10_000, 8 << 20}, {100 << 30, 8 << 20, 10_000, 11 << 20}} {
		if got := Size(tt.size, tt.least, tt.most); got != tt.want {
			t.Errorf("Size(%d, %d, %d) is %d, want %d", tt.size, tt.least, tt.most, got, tt.want)
		}
	}
}
