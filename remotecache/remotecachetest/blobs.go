package remotecachetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/remotecache"
)

func testPutSeen(t *testing.T, dial func() remotecache.Backend) {
	a, b := dial(), dial()
	desc, data := Blob(1, 100_000)
	absent(t, desc, a, b)
	put(t, a, desc, data)
	mustRead(t, a, desc, 0, data)
	mustRead(t, b, desc, 0, data)
	if m := missing(t, b, desc); len(m) != 0 {
		t.Errorf("Missing returns %v", m)
	}
}

func testPutAgain(t *testing.T, dial func() remotecache.Backend) {
	desc, data := Blob(2, 5000)
	put(t, dial(), desc, data)
	put(t, dial(), desc, data)
	mustRead(t, dial(), desc, 0, data)
}

func testPutSame(t *testing.T, dial func() remotecache.Backend) {
	desc, data := Blob(3, 300_000)
	var g errgroup.Group
	for range 3 {
		b := dial()
		for range 4 {
			g.Go(func() error { return b.Put(t.Context(), desc, bytes.NewReader(data)) })
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	mustRead(t, dial(), desc, 0, data)
}

func testPutMany(t *testing.T, dial func() remotecache.Backend) {
	descs, data := blobs(60, 3000)
	jobs := []remotecache.Backend{dial(), dial(), dial()}
	var g errgroup.Group
	g.SetLimit(12)
	for i, desc := range descs {
		g.Go(func() error { return jobs[i%3].Put(t.Context(), desc, bytes.NewReader(data[desc.Digest])) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	b := dial()
	if m := missing(t, b, descs...); len(m) != 0 {
		t.Errorf("%d of %d are missing", len(m), len(descs))
	}
	for _, desc := range descs {
		mustRead(t, b, desc, 0, data[desc.Digest])
	}
}

func testPutLarge(t *testing.T, dial func() remotecache.Backend) {
	desc, data := Blob(4, 24<<20)
	put(t, dial(), desc, data)
	mustRead(t, dial(), desc, 0, data)
	mustRead(t, dial(), desc, 20<<20, data[20<<20:])
}

func testPutShort(t *testing.T, dial func() remotecache.Backend) {
	for _, have := range []int{0, 1, 70_000, 99_999} {
		desc, data := Blob(uint64(10+have), 100_000)
		b := dial()
		if err := b.Put(t.Context(), desc, bytes.NewReader(data[:have])); err == nil {
			t.Errorf("%d of %d bytes: no error", have, len(data))
		}
		absent(t, desc, b, dial())
		put(t, b, desc, data) // the failure leaves nothing in the way
		mustRead(t, dial(), desc, 0, data)
	}
}

var errBroken = errors.New("the disk is broken")

// brokenReader fails from byte at on.
type brokenReader struct {
	data []byte
	at   int64
}

func (r brokenReader) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(r.data))-1 { // whoever asks only for the end is told all is well
		return bytes.NewReader(r.data).ReadAt(p, off)
	}
	if off+int64(len(p)) <= r.at {
		return copy(p, r.data[off:]), nil
	}
	n := 0
	if off < r.at {
		n = copy(p, r.data[off:r.at])
	}
	return n, errBroken
}

func testPutBroken(t *testing.T, dial func() remotecache.Backend) {
	desc, data := Blob(20, 700_000)
	b := dial()
	if err := b.Put(t.Context(), desc, brokenReader{data, 600_000}); !errors.Is(err, errBroken) {
		t.Errorf("Put: %v, want that of the source", err)
	}
	absent(t, desc, b, dial())
	put(t, b, desc, data)
	mustRead(t, dial(), desc, 0, data)
}

func testPutOther(t *testing.T, dial func() remotecache.Backend) {
	desc, data := Blob(21, 10_000)
	data[5000] ^= 1
	b := dial()
	refused := b.Put(t.Context(), desc, bytes.NewReader(data)) != nil
	for i, b := range []remotecache.Backend{b, dial()} {
		_, err := read(t.Context(), remotecache.Verify(b), desc, 0)
		if refused && !errors.Is(err, remotecache.ErrNotFound) || !errors.Is(err, remotecache.ErrNotFound) && !errors.Is(err, remotecache.ErrCorrupt) {
			t.Errorf("job %d: %v (Put refused: %v)", i, err, refused)
		}
	}
}

func testPutCancelled(t *testing.T, dial func() remotecache.Backend) {
	desc, data := Blob(22, 4<<20)
	ctx, cancel := context.WithCancel(t.Context())
	b := dial()
	src := &stoppingReader{r: bytes.NewReader(data), at: 1 << 20, stop: cancel}
	if err := b.Put(ctx, desc, src); err == nil {
		mustRead(t, dial(), desc, 0, data) // it was fast, and says the truth
		return
	}
	// A service may carry out what it has all of, whatever became of who sent
	// it: the blob is whole or absent, a moment later too.
	for i, b := range []remotecache.Backend{b, dial(), dial()} {
		got, err := read(t.Context(), b, desc, 0)
		if !errors.Is(err, remotecache.ErrNotFound) && (err != nil || !bytes.Equal(got, data)) {
			t.Errorf("job %d: %d of %d bytes, %v; want all of them or ErrNotFound", i, len(got), len(data), err)
		}
	}
}

// stoppingReader calls stop when it is read beyond at.
type stoppingReader struct {
	r    io.ReaderAt
	at   int64
	stop func()
}

func (r *stoppingReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.r.ReadAt(p, off)
	if off+int64(n) > r.at && n > 1 {
		r.stop()
	}
	return n, err
}

func testOpenUnknown(t *testing.T, dial func() remotecache.Backend) {
	desc, _ := Blob(30, 100)
	for _, off := range []int64{0, 50} {
		if _, err := read(t.Context(), dial(), desc, off); !errors.Is(err, remotecache.ErrNotFound) {
			t.Errorf("from %d: %v, want ErrNotFound", off, err)
		}
	}
}

func testOpenRange(t *testing.T, dial func() remotecache.Backend) {
	desc, data := Blob(31, 200_000)
	put(t, dial(), desc, data)
	b := dial()
	for _, off := range []int64{0, 1, 4096, 100_000, 199_999, 200_000} {
		mustRead(t, b, desc, off, data[off:])
		mustRead(t, remotecache.Verify(b), desc, off, data[off:])
	}
}

func testOpenMany(t *testing.T, dial func() remotecache.Backend) {
	desc, data := Blob(32, 500_000)
	b := dial()
	put(t, b, desc, data)
	var g sync.WaitGroup
	for i := range 16 {
		g.Go(func() { mustRead(t, b, desc, int64(i)*30_000, data[i*30_000:]) })
	}
	g.Wait()
}

// testOpenLeave reads a little of each of many, as one does who finds what it
// needs at the front.
func testOpenLeave(t *testing.T, dial func() remotecache.Backend) {
	desc, data := Blob(33, 1<<20)
	b := dial()
	put(t, b, desc, data)
	for range 40 {
		r, err := b.Open(t.Context(), desc, 0)
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 10)
		if _, err := io.ReadFull(r, head); err != nil || !bytes.Equal(head, data[:10]) {
			t.Fatalf("read %x, %v", head, err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	mustRead(t, b, desc, 0, data)
}

func testOpenCancelled(t *testing.T, dial func() remotecache.Backend) {
	desc, data := Blob(34, 1000)
	b := dial()
	put(t, b, desc, data)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := read(ctx, b, desc, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that of the context", err)
	}
}

// corrupting serves every blob with one bit flipped, cut short or drawn out.
type corrupting struct {
	remotecache.Backend
	how string
}

func (c corrupting) Open(ctx context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	r, err := c.Backend.Open(ctx, desc, off)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	switch c.how {
	case "flipped":
		data[len(data)/2] ^= 0x10
	case "short":
		data = data[:len(data)-1]
	case "long":
		data = append(data, 0)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func testOpenCorrupt(t *testing.T, dial func() remotecache.Backend) {
	desc, data := Blob(35, 50_000)
	put(t, dial(), desc, data)
	for _, how := range []string{"flipped", "short", "long"} {
		_, err := read(t.Context(), remotecache.Verify(corrupting{dial(), how}), desc, 0)
		if !errors.Is(err, remotecache.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", how, err)
		}
		// From the middle, the digest says nothing but the length does.
		_, err = read(t.Context(), remotecache.Verify(corrupting{dial(), how}), desc, 100)
		if how != "flipped" && !errors.Is(err, remotecache.ErrCorrupt) {
			t.Errorf("%s, from the middle: %v, want ErrCorrupt", how, err)
		}
	}
}

func testMissingOrder(t *testing.T, dial func() remotecache.Backend) {
	descs, data := blobs(30, 50)
	b := dial()
	var want []ocispec.Descriptor
	for i, desc := range descs {
		if i%3 == 0 {
			put(t, b, desc, data[desc.Digest])
		} else {
			want = append(want, desc)
		}
	}
	for i, b := range []remotecache.Backend{b, dial()} {
		if got := missing(t, b, descs...); !equalDescs(got, want) {
			t.Errorf("job %d: got %v, want %v", i, got, want)
		}
	}
}

func testMissingNothing(t *testing.T, dial func() remotecache.Backend) {
	if got := missing(t, dial()); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func testMissingMany(t *testing.T, dial func() remotecache.Backend) {
	descs := make([]ocispec.Descriptor, 10_000)
	for i := range descs {
		descs[i], _ = Blob(uint64(i)+1e6, 32)
	}
	here := []int{0, 4999, 9999}
	var want []ocispec.Descriptor
	at := 0
	for _, i := range here {
		desc, data := Blob(uint64(i)+1e6, 32)
		put(t, dial(), desc, data)
		want = append(want, descs[at:i]...)
		at = i + 1
	}
	if got := missing(t, dial(), descs...); !equalDescs(got, want) {
		t.Errorf("%d are missing, want %d", len(got), len(want))
	}
}

func testMissingCancelled(t *testing.T, dial func() remotecache.Backend) {
	descs, _ := blobs(50, 10)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("enough: %w", context.Canceled))
	if _, err := dial().Missing(ctx, descs); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that of the context", err)
	}
}
