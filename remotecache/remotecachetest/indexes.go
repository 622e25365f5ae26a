package remotecachetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/remotecache"
)

// stored returns an Index whose blobs are in b.
func stored(t *testing.T, b remotecache.Backend, seed uint64, n int) *remotecache.Index {
	t.Helper()
	var descs []ocispec.Descriptor
	for i := range n {
		desc, data := Blob(seed<<20+uint64(i), 200)
		put(t, b, desc, data)
		descs = append(descs, desc)
	}
	return IndexOf(fmt.Sprint("step ", seed), descs...)
}

func testIndexUnknown(t *testing.T, dial func() remotecache.Backend) {
	if idx, err := dial().LoadIndex(t.Context(), "main"); !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("%v, %v, want ErrNotFound", idx, err)
	}
}

func testIndexSeen(t *testing.T, dial func() remotecache.Backend) {
	a := dial()
	idx := stored(t, a, 1, 3)
	save(t, a, "main", idx)
	loadSame(t, a, "main", idx)
	loadSame(t, dial(), "main", idx)
}

func testIndexLast(t *testing.T, dial func() remotecache.Backend) {
	a, b := dial(), dial()
	one, two := stored(t, a, 1, 2), stored(t, b, 2, 3)
	save(t, a, "main", one)
	loadSame(t, b, "main", one)
	save(t, b, "main", two)
	loadSame(t, a, "main", two)
	save(t, a, "main", one)
	loadSame(t, b, "main", one)
	loadSame(t, dial(), "main", one)
}

func testIndexRefs(t *testing.T, dial func() remotecache.Backend) {
	a := dial()
	refs := []string{"main", "main-2", "a", "v1.2_3-x", strings.Repeat("r", 128)}
	idx := map[string]*remotecache.Index{}
	for i, ref := range refs {
		idx[ref] = stored(t, a, uint64(i), 1)
		save(t, a, ref, idx[ref])
	}
	b := dial()
	for _, ref := range refs {
		loadSame(t, b, ref, idx[ref])
	}
	if _, err := b.LoadIndex(t.Context(), "main-3"); !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("a ref nobody saved: %v", err)
	}
}

func testIndexBadRef(t *testing.T, dial func() remotecache.Backend) {
	b := dial()
	idx := stored(t, b, 1, 1)
	for _, ref := range []string{"", "a/b", "../a", ".", "-a", "a b", "ä", strings.Repeat("r", 129)} {
		if err := b.SaveIndex(t.Context(), ref, idx); err == nil {
			t.Errorf("%q is saved", ref)
		}
	}
}

func testIndexOwned(t *testing.T, dial func() remotecache.Backend) {
	b := dial()
	idx := stored(t, b, 1, 3)
	want := idx.Clone()
	save(t, b, "main", idx)
	idx.Records[0].Digest = digest.FromString("changed")
	got := loadSame(t, b, "main", want)
	got.Layers[0].Parent = 17
	for _, r := range got.Records {
		for _, links := range r.Inputs {
			links[0].Selector = "changed"
		}
	}
	loadSame(t, b, "main", want)
}

func testIndexLarge(t *testing.T, dial func() remotecache.Backend) {
	b := dial()
	descs, data := blobs(20, 100)
	for _, d := range descs {
		put(t, b, d, data[d.Digest])
	}
	idx := IndexOf("large", descs...)
	for i := range 5000 {
		idx.Records = append(idx.Records, remotecache.Record{
			Digest: digest.FromString(fmt.Sprint("record ", i)),
			Inputs: [][]remotecache.Input{{{Link: i % 20, Selector: fmt.Sprint("<selector & ", i, ">")}}},
		})
	}
	save(t, b, "main", idx)
	loadSame(t, dial(), "main", idx)
}

// testIndexConcurrent has jobs save over each other while others read: all
// see one of the saved ones, whole, and at the end one of them remains.
func testIndexConcurrent(t *testing.T, dial func() remotecache.Backend) {
	const savers, rounds = 4, 6
	first := dial()
	valid := map[string]bool{}
	var idx [savers]*remotecache.Index
	for i := range idx {
		idx[i] = stored(t, first, uint64(i), 1+i)
		valid[encode(t, idx[i])] = true
	}
	save(t, first, "main", idx[0])
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		b := dial()
		readers.Go(func() {
			for {
				got, err := b.LoadIndex(t.Context(), "main")
				if err != nil {
					t.Errorf("while others save: %v", err)
					return
				}
				if !valid[encode(t, got)] {
					t.Error("while others save: an index that nobody saved")
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	var g errgroup.Group
	for i := range savers {
		b := dial()
		g.Go(func() error {
			for range rounds {
				if err := b.SaveIndex(t.Context(), "main", idx[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	close(done)
	readers.Wait()
	if err != nil {
		t.Fatal(err)
	}
	got, err := dial().LoadIndex(t.Context(), "main")
	if err != nil || !valid[encode(t, got)] {
		t.Errorf("in the end: %v", err)
	}
}

func testIndexCancelled(t *testing.T, dial func() remotecache.Backend) {
	b := dial()
	old := stored(t, b, 1, 1)
	save(t, b, "main", old)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.LoadIndex(ctx, "main"); !errors.Is(err, context.Canceled) {
		t.Errorf("LoadIndex: %v, want that of the context", err)
	}
	if err := b.SaveIndex(ctx, "main", stored(t, b, 2, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("SaveIndex: %v, want that of the context", err)
	}
	loadSame(t, dial(), "main", old)
}

// source gives blobs from memory, and counts.
type source struct {
	data map[digest.Digest][]byte

	mu     sync.Mutex
	opened int
	open   int
}

func (s *source) get(_ context.Context, desc ocispec.Descriptor) (remotecache.BlobReader, error) {
	data, ok := s.data[desc.Digest]
	if !ok {
		return nil, remotecache.ErrNotFound
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	s.open++
	return &sourceBlob{bytes.NewReader(data), s}, nil
}

type sourceBlob struct {
	*bytes.Reader
	s *source
}

func (b *sourceBlob) Close() error {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.open--
	return nil
}

func export(t *testing.T, b remotecache.Backend, idx *remotecache.Index, s *source) (remotecache.Outcome, error) {
	t.Helper()
	out, err := remotecache.Export(t.Context(), b, "main", idx, s.get, remotecache.ExportOptions{})
	if s.open != 0 {
		t.Errorf("%d blobs are still open", s.open)
	}
	return out, err
}

func testExport(t *testing.T, dial func() remotecache.Backend) {
	descs, data := blobs(12, 20_000)
	put(t, dial(), descs[3], data[descs[3].Digest])
	idx := IndexOf("export", descs...)
	s := &source{data: data}
	out, err := export(t, dial(), idx, s)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for i, d := range descs {
		if i != 3 {
			size += d.Size
		}
	}
	if want := (remotecache.Outcome{State: remotecache.OK, Blobs: 11, Bytes: size, Existing: 1}); out != want {
		t.Errorf("outcome %+v, want %+v", out, want)
	}
	b := dial()
	got := loadSame(t, b, "main", idx)
	for _, l := range got.Layers {
		mustRead(t, remotecache.Verify(b), l.Descriptor(), 0, data[l.Digest])
	}
}

func testExportAgain(t *testing.T, dial func() remotecache.Backend) {
	descs, data := blobs(5, 1000)
	idx := IndexOf("export", descs...)
	if _, err := export(t, dial(), idx, &source{data: data}); err != nil {
		t.Fatal(err)
	}
	b := dial()
	loadSame(t, b, "main", idx)
	s := &source{data: data}
	out, err := export(t, b, idx, s)
	if err != nil || out != (remotecache.Outcome{State: remotecache.OK, Existing: 5}) || s.opened != 0 {
		t.Errorf("outcome %+v, %v, %d blobs read", out, err, s.opened)
	}
}

func testExportLost(t *testing.T, dial func() remotecache.Backend) {
	descs, data := blobs(6, 1000)
	idx := IndexOf("export", descs...)
	delete(data, descs[4].Digest)
	out, err := export(t, dial(), idx, &source{data: data})
	if out.State != remotecache.Partial || out.Lost != 1 || out.Blobs != 5 || !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("outcome %+v, %v", out, err)
	}
	got, err := dial().LoadIndex(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	results := 0
	for _, r := range got.Records {
		results += len(r.Results)
	}
	if len(got.Layers) != 4 || results != 4 || len(got.Records) != len(idx.Records) {
		t.Errorf("%d layers, %d results, %d records are left", len(got.Layers), results, len(got.Records))
	}
}
