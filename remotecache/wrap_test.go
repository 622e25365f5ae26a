package remotecache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

var errReset = fmt.Errorf("read: %w", syscall.ECONNRESET)

// flaky fails the first n calls of each kind, and breaks its readers off after
// some bytes.
type flaky struct {
	*remotecache.Memory
	fail  error
	n     map[string]int
	bytes int // of each reader; 0 means all
	offs  []int64
}

func (f *flaky) fault(call string) error {
	if f.n[call] == 0 {
		return nil
	}
	f.n[call]--
	return f.fail
}

func (f *flaky) Missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if err := f.fault("missing"); err != nil {
		return nil, err
	}
	return f.Memory.Missing(ctx, blobs)
}

func (f *flaky) Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	if err := f.fault("put"); err != nil {
		return err
	}
	return f.Memory.Put(ctx, blob, src)
}

func (f *flaky) LoadIndex(ctx context.Context, ref string) (*remotecache.Index, error) {
	if err := f.fault("load"); err != nil {
		return nil, err
	}
	return f.Memory.LoadIndex(ctx, ref)
}

func (f *flaky) SaveIndex(ctx context.Context, ref string, idx *remotecache.Index) error {
	if err := f.fault("save"); err != nil {
		return err
	}
	return f.Memory.SaveIndex(ctx, ref, idx)
}

func (f *flaky) Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	f.offs = append(f.offs, off)
	if err := f.fault("open"); err != nil {
		return nil, err
	}
	r, err := f.Memory.Open(ctx, blob, off)
	if err != nil || f.bytes == 0 {
		return r, err
	}
	return &breaking{r, f.bytes, f.fail}, nil
}

// breaking reads n bytes and then only errors.
type breaking struct {
	io.ReadCloser
	n   int
	err error
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.n == 0 {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.n)])
	b.n -= n
	return n, err
}

func TestRetry(t *testing.T) {
	desc, data := remotecachetest.Blob(1, 1000)
	idx := remotecachetest.IndexOf("x", desc)
	calls := map[string]func(ctx context.Context, b remotecache.Backend) error{
		"missing": func(ctx context.Context, b remotecache.Backend) error {
			_, err := b.Missing(ctx, []ocispec.Descriptor{desc})
			return err
		},
		"put":  func(ctx context.Context, b remotecache.Backend) error { return b.Put(ctx, desc, bytes.NewReader(data)) },
		"load": func(ctx context.Context, b remotecache.Backend) error { _, err := b.LoadIndex(ctx, "main"); return err },
		"save": func(ctx context.Context, b remotecache.Backend) error { return b.SaveIndex(ctx, "main", idx) },
		"open": func(ctx context.Context, b remotecache.Backend) error {
			r, err := b.Open(ctx, desc, 0)
			if err == nil {
				r.Close()
			}
			return err
		},
	}
	for name, call := range calls {
		for _, tt := range []struct {
			what  string
			fail  error
			times int
			left  int // of the faults that were waiting
			ok    bool
		}{
			{"passes", errReset, 3, 0, true},
			{"stays", errReset, 100, 96, false},
			{"is final", remotecache.ErrNotFound, 3, 2, false},
			{"has been tried", remotecache.Tried(errReset), 3, 2, false},
		} {
			t.Run(name+" "+tt.what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := &flaky{Memory: filled(t, desc, data, idx), fail: tt.fail, n: map[string]int{name: tt.times}}
					err := call(t.Context(), remotecache.Retry(f, retry.Policy{Attempts: 4}))
					if tt.ok != (err == nil) || !tt.ok && !errors.Is(err, tt.fail) {
						t.Errorf("%v", err)
					}
					if f.n[name] != tt.left {
						t.Errorf("%d faults are left, want %d", f.n[name], tt.left)
					}
				})
			})
		}
	}
}

func filled(t *testing.T, desc ocispec.Descriptor, data []byte, idx *remotecache.Index) *remotecache.Memory {
	t.Helper()
	m := remotecache.NewMemory()
	if err := m.Put(t.Context(), desc, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := m.SaveIndex(t.Context(), "main", idx); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRetryResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		desc, data := remotecachetest.Blob(1, 1000)
		for _, fail := range []error{errReset, io.EOF} { // EOF before the end is a fault, too
			f := &flaky{Memory: filled(t, desc, data, remotecachetest.IndexOf("x", desc)), fail: fail, bytes: 300}
			r, err := remotecache.Verify(remotecache.Retry(f, retry.Policy{})).Open(t.Context(), desc, 0)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if want := []int64{0, 300, 600, 900}; !slices.Equal(f.offs, want) {
				t.Errorf("opened at %v, want %v", f.offs, want)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestRetryResumeGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		desc, data := remotecachetest.Blob(1, 1000)
		f := &flaky{Memory: filled(t, desc, data, remotecachetest.IndexOf("x", desc)), fail: errReset, bytes: 300}
		r, err := remotecache.Retry(f, retry.Policy{}).Open(t.Context(), desc, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 300)); err != nil {
			t.Fatal(err)
		}
		f.Remove(desc.Digest) // evicted while it was read
		if _, err := io.ReadAll(r); !errors.Is(err, remotecache.ErrNotFound) {
			t.Errorf("%v, want ErrNotFound", err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestRetryEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		desc, data := remotecachetest.Blob(1, 1000)
		f := &flaky{Memory: filled(t, desc, data, remotecachetest.IndexOf("x", desc)), fail: errReset, bytes: 300}
		cause := errors.New("the user pressed ^C")
		ctx, cancel := context.WithCancelCause(t.Context())
		r, err := remotecache.Retry(f, retry.Policy{Backoff: time.Hour}).Open(ctx, desc, 0)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() { cancel(cause) })
		start := time.Now()
		if _, err := io.ReadAll(r); !errors.Is(err, cause) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// gate counts who is inside and lets nobody leave before it is opened.
type gate struct {
	*remotecache.Memory
	mu           sync.Mutex
	inside, most int
	leave        chan struct{}
}

func (g *gate) enter() {
	g.mu.Lock()
	g.inside++
	g.most = max(g.most, g.inside)
	g.mu.Unlock()
	<-g.leave
	g.mu.Lock()
	g.inside--
	g.mu.Unlock()
}

func (g *gate) Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	g.enter()
	return g.Memory.Put(ctx, blob, src)
}

func TestLimitPuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{Memory: remotecache.NewMemory(), leave: make(chan struct{})}
		b := remotecache.Limit(g, 3)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				desc, data := remotecachetest.Blob(uint64(i), 10)
				if err := b.Put(t.Context(), desc, bytes.NewReader(data)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.Put(ctx, ocispec.Descriptor{}, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("who waits while the context ends: %v", err)
		}
		close(g.leave)
		wg.Wait()
		if g.most != 3 {
			t.Errorf("%d at once, want 3", g.most)
		}
	})
}

func TestLimitReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		desc, data := remotecachetest.Blob(1, 100)
		other, otherData := remotecachetest.Blob(2, 100)
		b := remotecache.Limit(filled(t, desc, data, remotecachetest.IndexOf("x", desc)), 2)
		open := func(what string) io.ReadCloser {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			r, err := b.Open(ctx, desc, 0)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			return r
		}
		one, two := open("first"), open("second")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Open(ctx, desc, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a third: %v", err)
		}
		if err := b.Put(t.Context(), other, bytes.NewReader(otherData)); err != nil {
			t.Errorf("a write while others read: %v", err)
		}
		if _, err := io.ReadAll(one); err != nil { // at its end, closed or not
			t.Fatal(err)
		}
		three := open("after the first has ended")
		two.Close()
		two.Close() // twice is once
		four := open("after the second is closed")
		one.Close()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Open(ctx, desc, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a fifth while two are open: %v", err)
		}
		three.Close()
		four.Close()
		if _, err := b.Open(t.Context(), ocispec.Descriptor{Digest: key("none")}, 0); !errors.Is(err, remotecache.ErrNotFound) {
			t.Error(err)
		}
		open("after all, and an error").Close()
	})
}

func TestReadOnly(t *testing.T) {
	desc, data := remotecachetest.Blob(1, 100)
	idx := remotecachetest.IndexOf("x", desc)
	b := remotecache.ReadOnly(filled(t, desc, data, idx))
	if err := b.Put(t.Context(), desc, bytes.NewReader(data)); !errors.Is(err, remotecache.ErrReadOnly) {
		t.Errorf("Put: %v", err)
	}
	if err := b.SaveIndex(t.Context(), "main", idx); !errors.Is(err, remotecache.ErrReadOnly) {
		t.Errorf("SaveIndex: %v", err)
	}
	if _, err := b.LoadIndex(t.Context(), "main"); err != nil {
		t.Error(err)
	}
}

func TestBlobOf(t *testing.T) {
	d := digest0
	for _, desc := range []ocispec.Descriptor{
		{Digest: "", Size: 1},
		{Digest: "sha256:../x", Size: 1},
		{Digest: d, Size: -1},
		{Digest: d, Annotations: map[string]string{"containerd.io/uncompressed": "none"}},
	} {
		if b, err := remotecache.BlobOf(desc); !errors.Is(err, remotecache.ErrCorrupt) {
			t.Errorf("%+v: %+v, %v", desc, b, err)
		}
	}
	desc := ocispec.Descriptor{
		MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip", Digest: d, Size: 7,
		Annotations: map[string]string{
			"containerd.io/uncompressed": string(d), "buildkit/createdat": "2026-01-02T03:04:05.000000006+01:00",
			"buildkit/description": "RUN x", "containerd.io/snapshot/stargz/toc.digest": "kept",
		},
	}
	b, err := remotecache.BlobOf(desc)
	if err != nil {
		t.Fatal(err)
	}
	if !b.Known() || b.DiffID != d || b.Description != "RUN x" || b.CreatedAt.UTC().Format(time.RFC3339Nano) != "2026-01-02T02:04:05.000000006Z" {
		t.Errorf("%+v", b)
	}
	got := b.Descriptor()
	if got.MediaType != ocispec.MediaTypeImageLayerGzip || len(got.Annotations) != 4 {
		t.Errorf("%+v", got)
	}
	for k, v := range desc.Annotations {
		if got.Annotations[k] != v {
			t.Errorf("%s: %q, want %q", k, got.Annotations[k], v)
		}
	}
	if b, err := remotecache.BlobOf(ocispec.Descriptor{Digest: d, Annotations: map[string]string{"buildkit/createdat": "yesterday"}}); err != nil || !b.CreatedAt.IsZero() || b.Known() {
		t.Errorf("a time that is none: %+v, %v", b, err)
	}
}

var digest0 = key("some blob")
