package remotecache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

// faulty is a Memory that fails as told and notes what is asked of it.
type faulty struct {
	*remotecache.Memory
	put     func(blob ocispec.Descriptor, src io.ReaderAt) error // before the real one
	missing error
	save    func() error

	mu    sync.Mutex
	calls []string
	puts  int // at the moment
	most  int // at any moment
}

func (f *faulty) note(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
}

func (f *faulty) Missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	f.note("missing")
	if f.missing != nil {
		return nil, f.missing
	}
	return f.Memory.Missing(ctx, blobs)
}

func (f *faulty) Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	f.note("put")
	f.mu.Lock()
	f.puts++
	f.most = max(f.most, f.puts)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.puts--
		f.mu.Unlock()
	}()
	if f.put != nil {
		if err := f.put(blob, src); err != nil {
			return err
		}
	}
	return f.Memory.Put(ctx, blob, src)
}

func (f *faulty) SaveIndex(ctx context.Context, ref string, idx *remotecache.Index) error {
	f.note("save")
	if f.save != nil {
		if err := f.save(); err != nil {
			return err
		}
	}
	return f.Memory.SaveIndex(ctx, ref, idx)
}

type testBlob struct{ *bytes.Reader }

func (testBlob) Close() error { return nil }

// cache returns an Index of n blobs and where they are.
func cache(n int) ([]ocispec.Descriptor, *remotecache.Index, remotecache.Source) {
	data := map[digest.Digest][]byte{}
	var descs []ocispec.Descriptor
	for i := range n {
		desc, d := remotecachetest.Blob(uint64(i), 100+i)
		descs = append(descs, desc)
		data[desc.Digest] = d
	}
	return descs, remotecachetest.IndexOf("x", descs...), func(_ context.Context, desc ocispec.Descriptor) (remotecache.BlobReader, error) {
		return testBlob{bytes.NewReader(data[desc.Digest])}, nil
	}
}

var errDisk = errors.New("the disk is full")

func TestExportOrder(t *testing.T) {
	for _, uploads := range []int{1, 3} {
		_, idx, src := cache(10)
		f := &faulty{Memory: remotecache.NewMemory()}
		var mu sync.Mutex
		var sizes []int64
		over := 0
		watch := func(blob ocispec.Descriptor) func(error) {
			mu.Lock()
			defer mu.Unlock()
			sizes = append(sizes, blob.Size)
			return func(err error) {
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					over++
				}
			}
		}
		out, err := remotecache.Export(t.Context(), f, "main", idx, src, remotecache.ExportOptions{Uploads: uploads, Watch: watch})
		if err != nil || out.State != remotecache.OK || out.Blobs != 10 {
			t.Fatalf("%+v, %v", out, err)
		}
		if f.calls[0] != "missing" || f.calls[len(f.calls)-1] != "save" || len(f.calls) != 12 {
			t.Errorf("calls %v", f.calls)
		}
		if f.most > uploads {
			t.Errorf("%d uploads at once, want %d", f.most, uploads)
		}
		if over != 10 || len(sizes) != 10 {
			t.Errorf("watched %v, %d to their end", sizes, over)
		}
		if slices.Reverse(sizes); uploads == 1 && !slices.IsSorted(sizes) {
			t.Errorf("the last ones come first: %v", sizes)
		}
	}
}

func TestExportOutcomes(t *testing.T) {
	descs, idx, _ := cache(10)
	is := func(i int, blob ocispec.Descriptor) bool { return blob.Digest == descs[i].Digest }
	first := true
	for _, tt := range []struct {
		name string
		f    *faulty
		idx  *remotecache.Index
		want remotecache.State
		err  error
		lost int
		left int // layers in the index saved; -1: none is saved
	}{
		{"ok", &faulty{}, idx, remotecache.OK, nil, 0, 10},
		{"empty", &faulty{}, &remotecache.Index{}, remotecache.Skipped, remotecache.ErrEmpty, 0, -1},
		{"corrupt", &faulty{}, &remotecache.Index{Layers: []remotecache.Layer{{}}}, remotecache.Failed, remotecache.ErrCorrupt, 0, -1},
		{"read-only", &faulty{put: func(ocispec.Descriptor, io.ReaderAt) error { return remotecache.ErrReadOnly }}, idx, remotecache.Skipped, remotecache.ErrReadOnly, 0, -1},
		{"read-only at the end", &faulty{save: func() error { return remotecache.ErrReadOnly }}, idx, remotecache.Skipped, remotecache.ErrReadOnly, 0, -1},
		{"no answer", &faulty{missing: errDisk}, idx, remotecache.Failed, errDisk, 0, -1},
		{"index refused", &faulty{save: func() error { return errDisk }}, idx, remotecache.Failed, errDisk, 0, -1},
		{"one blob fails", &faulty{put: func(b ocispec.Descriptor, _ io.ReaderAt) error {
			if is(7, b) {
				return errDisk
			}
			return nil
		}}, idx, remotecache.Partial, errDisk, 1, 7},
		{"the bottom fails", &faulty{put: func(b ocispec.Descriptor, _ io.ReaderAt) error {
			if is(0, b) {
				return errDisk
			}
			return nil
		}}, idx, remotecache.Failed, errDisk, 1, -1},
		{"all fail", &faulty{put: func(ocispec.Descriptor, io.ReaderAt) error { return errDisk }}, idx, remotecache.Failed, errDisk, 10, -1},
		// What was believed to be there has gone: the second time it is put.
		{"evicted meanwhile", &faulty{save: func() error {
			if first {
				first = false
				return remotecache.ErrNotFound
			}
			return nil
		}}, idx, remotecache.OK, nil, 0, 10},
		{"evicted for ever", &faulty{save: func() error { return remotecache.ErrNotFound }}, idx, remotecache.Failed, remotecache.ErrNotFound, 0, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, src := cache(10)
			tt.f.Memory = remotecache.NewMemory()
			out, err := remotecache.Export(t.Context(), tt.f, "main", tt.idx, src, remotecache.ExportOptions{})
			if out.State != tt.want || out.Lost != tt.lost || !errors.Is(err, tt.err) || (err != nil) != (tt.err != nil) {
				t.Errorf("%+v, %v, want %s, %d lost and %v", out, err, tt.want, tt.lost, tt.err)
			}
			got, err := tt.f.LoadIndex(t.Context(), "main")
			switch {
			case tt.left < 0 && !errors.Is(err, remotecache.ErrNotFound):
				t.Errorf("an index is saved: %v", err)
			case tt.left >= 0 && (err != nil || len(got.Layers) != tt.left):
				t.Errorf("index %+v, %v, want %d layers", got, err, tt.left)
			}
		})
	}
}

// TestExportGivesUp: where nothing works, not everything is tried.
func TestExportGivesUp(t *testing.T) {
	_, idx, src := cache(100)
	f := &faulty{Memory: remotecache.NewMemory(), put: func(ocispec.Descriptor, io.ReaderAt) error { return errDisk }}
	out, err := remotecache.Export(t.Context(), f, "main", idx, src, remotecache.ExportOptions{Uploads: 2})
	if out.State != remotecache.Failed || out.Lost != 100 || err == nil {
		t.Errorf("%+v, %v", out, err)
	}
	if n := len(f.calls); n > 8 {
		t.Errorf("%d calls", n)
	}
}

func TestExportCancelled(t *testing.T) {
	_, idx, src := cache(20)
	cause := errors.New("the user pressed ^C")
	ctx, cancel := context.WithCancelCause(t.Context())
	f := &faulty{Memory: remotecache.NewMemory(), put: func(ocispec.Descriptor, io.ReaderAt) error {
		cancel(cause)
		return nil
	}}
	out, err := remotecache.Export(ctx, f, "main", idx, src, remotecache.ExportOptions{})
	if out.State != remotecache.Failed || !errors.Is(err, cause) {
		t.Errorf("%+v, %v", out, err)
	}
	if slices.Contains(f.calls, "save") {
		t.Error("the index is saved")
	}
}

// A source that fails gives nothing to close, though its reader is of a type.
func TestExportOfALostBlob(t *testing.T) {
	_, idx, src := cache(3)
	gone := idx.Layers[2].Digest
	out, err := remotecache.Export(t.Context(), remotecache.NewMemory(), "main", idx, func(ctx context.Context, desc ocispec.Descriptor) (remotecache.BlobReader, error) {
		if desc.Digest == gone {
			var none *closing
			return none, fmt.Errorf("read layer: %w", remotecache.ErrNotFound)
		}
		return src(ctx, desc)
	}, remotecache.ExportOptions{})
	if out.Lost != 1 || !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("%+v, %v", out, err)
	}
}

type closing struct{ f io.Closer }

func (c *closing) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
func (c *closing) Close() error                      { return c.f.Close() }

// TestExportReadsLazily: a backend that comes by a blob in another way has it
// opened by nobody.
func TestExportReadsLazily(t *testing.T) {
	descs, idx, src := cache(3)
	m := remotecache.NewMemory()
	f := &linking{faulty{Memory: m}, src}
	opened := 0
	out, err := remotecache.Export(t.Context(), f, "main", idx, func(ctx context.Context, d ocispec.Descriptor) (remotecache.BlobReader, error) {
		opened++
		return src(ctx, d)
	}, remotecache.ExportOptions{Uploads: 1})
	if err != nil || out.Blobs != len(descs) || opened != 0 {
		t.Errorf("%+v, %v, %d opened", out, err, opened)
	}
}

// linking does not read what it is given.
type linking struct {
	faulty
	src remotecache.Source
}

func (l *linking) Put(ctx context.Context, blob ocispec.Descriptor, _ io.ReaderAt) error {
	r, err := l.src(ctx, blob)
	if err != nil {
		return err
	}
	return l.Memory.Put(ctx, blob, r)
}

// A backend that takes nothing is given up after some blobs, however many were
// put ahead of the export and however many wait. What went wrong before the
// export has no say.
func TestExportGivesUpWhatWaits(t *testing.T) {
	down := errors.New("503")
	descs, idx, src := cache(300)
	var mu sync.Mutex
	tries := 0
	f := &faulty{Memory: remotecache.NewMemory(), put: func(ocispec.Descriptor, io.ReaderAt) error {
		mu.Lock()
		defer mu.Unlock()
		tries++
		return down
	}}
	x := remotecache.NewExporter(f, remotecache.ExportOptions{Uploads: 3})
	var ahead sync.WaitGroup
	for _, d := range descs[:200] {
		ahead.Go(func() {
			if x.Put(t.Context(), d, src) == nil {
				t.Error("a blob was put ahead")
			}
		})
	}
	ahead.Wait()
	if tries > 10 {
		t.Errorf("%d blobs were tried ahead", tries)
	}
	tries = 0
	out, err := x.Export(t.Context(), "main", idx, src)
	if out.State != remotecache.Failed || !errors.Is(err, down) || out.Lost != 300 {
		t.Errorf("%+v, %v", out, err)
	}
	if tries > 10 {
		t.Errorf("%d blobs were tried", tries)
	}
	// One that fails while Export waits for it is not tried again.
	tries = 0
	x = remotecache.NewExporter(f, remotecache.ExportOptions{Uploads: 3})
	held := make(chan struct{})
	f.put = func(ocispec.Descriptor, io.ReaderAt) error {
		mu.Lock()
		tries++
		mu.Unlock()
		<-held
		return down
	}
	one, idx1, src1 := cache(1)
	ahead.Go(func() { _ = x.Put(t.Context(), one[0], src1) })
	for mu.Lock(); tries == 0; mu.Lock() {
		mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	mu.Unlock()
	time.AfterFunc(50*time.Millisecond, func() { close(held) })
	if out, err := x.Export(t.Context(), "main", idx1, src1); !errors.Is(err, down) || tries != 1 {
		t.Errorf("%d tries of a blob that is on its way: %+v, %v", tries, out, err)
	}
	ahead.Wait()

	f.put = nil
	x = remotecache.NewExporter(f, remotecache.ExportOptions{Uploads: 3})
	if out, err := x.Export(t.Context(), "main", idx, src); err != nil || out.Blobs != 300 {
		t.Errorf("then: %+v, %v", out, err)
	}
}
