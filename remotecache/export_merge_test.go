package remotecache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

var merging = remotecache.ExportOptions{Merge: &remotecache.Limits{Now: time.Date(2026, 2, 4, 0, 0, 0, 0, time.UTC), MaxAge: 7 * 24 * time.Hour}}

// job returns the cache of job i: two blobs of its own on a root of its own.
func job(i int) (*remotecache.Index, remotecache.Source) {
	data := map[string][]byte{}
	var descs []ocispec.Descriptor
	for n := range 2 {
		desc, d := remotecachetest.Blob(uint64(1000*i+n), 100)
		descs = append(descs, desc)
		data[desc.Digest.String()] = d
	}
	return remotecachetest.IndexOf(fmt.Sprint("job ", i), descs...), func(_ context.Context, desc ocispec.Descriptor) (remotecache.BlobReader, error) {
		d, ok := data[desc.Digest.String()]
		if !ok {
			return nil, fmt.Errorf("%s: %w", desc.Digest, remotecache.ErrNotFound)
		}
		return testBlob{bytes.NewReader(d)}, nil
	}
}

// TestExportMerges has the jobs of a matrix save at once: all their records
// are there at the end.
func TestExportMerges(t *testing.T) {
	m := remotecache.NewMemory()
	const jobs = 12
	var g errgroup.Group
	for i := range jobs {
		g.Go(func() error {
			idx, src := job(i)
			out, err := remotecache.Export(t.Context(), m, "main", idx, src, merging)
			if err == nil && out.State != remotecache.OK {
				err = fmt.Errorf("job %d: %+v", i, out)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	idx, err := m.LoadIndex(t.Context(), "main")
	if err != nil || len(idx.Records) != 3*jobs || len(idx.Layers) != 2*jobs {
		t.Errorf("%d records and %d layers, %v; want %d and %d", len(idx.Records), len(idx.Layers), err, 3*jobs, 2*jobs)
	}
}

// TestExportMergeEvicted: what others saved and the service has evicted since
// is not carried on.
func TestExportMergeEvicted(t *testing.T) {
	m := remotecache.NewMemory()
	idx, src := job(1)
	if _, err := remotecache.Export(t.Context(), m, "main", idx, src, merging); err != nil {
		t.Fatal(err)
	}
	m.Remove(idx.Layers[1].Digest)
	idx2, src2 := job(2)
	out, err := remotecache.Export(t.Context(), m, "main", idx2, src2, merging)
	if out.State != remotecache.Partial {
		t.Errorf("%+v, %v, want partial", out, err)
	}
	got, err := m.LoadIndex(t.Context(), "main")
	if err != nil || len(got.Layers) != 3 {
		t.Errorf("%d layers, %v, want 3", len(got.Layers), err)
	}
}

// TestExportMergeCorrupt: an index that is none is replaced.
func TestExportMergeCorrupt(t *testing.T) {
	for _, fault := range []error{remotecache.ErrCorrupt, remotecache.ErrUntrusted, errDisk} {
		m := &unreadable{Memory: remotecache.NewMemory(), err: fault}
		idx, src := job(1)
		out, err := remotecache.Export(t.Context(), m, "main", idx, src, merging)
		want := remotecache.OK
		if errors.Is(fault, errDisk) {
			want = remotecache.Failed // what is there may be worth more
		}
		if out.State != want {
			t.Errorf("%v: %+v, %v, want %s", fault, out, err, want)
		}
	}
}

type unreadable struct {
	*remotecache.Memory
	err error
}

func (u *unreadable) LoadIndex(context.Context, string) (*remotecache.Index, error) {
	return nil, u.err
}

// TestExporterPutAhead: blobs that were put ahead are neither looked for nor
// put again, and one that failed is tried once more.
func TestExporterPutAhead(t *testing.T) {
	descs, idx, src := cache(6)
	fails := 1
	f := &faulty{Memory: remotecache.NewMemory(), put: func(blob ocispec.Descriptor, _ io.ReaderAt) error {
		if blob.Digest == descs[2].Digest && fails > 0 {
			fails--
			return errDisk
		}
		return nil
	}}
	x := remotecache.NewExporter(f, remotecache.ExportOptions{})
	for i := range 3 {
		if err := x.Put(t.Context(), descs[i], src); (i == 2) != errors.Is(err, errDisk) {
			t.Fatalf("put %d ahead: %v", i, err)
		}
	}
	out, err := x.Export(t.Context(), "main", idx, src)
	if err != nil || out.State != remotecache.OK || out.Blobs != 6 || out.Existing != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	if got := len(f.calls); got != 1+7+1 { // missing; 6 puts and the one that failed; save
		t.Errorf("calls %v", f.calls)
	}
}

// TestExporterReadOnly: after one refusal nothing more is sent.
func TestExporterReadOnly(t *testing.T) {
	descs, idx, src := cache(6)
	f := &faulty{Memory: remotecache.NewMemory(), put: func(ocispec.Descriptor, io.ReaderAt) error { return remotecache.ErrReadOnly }}
	x := remotecache.NewExporter(f, remotecache.ExportOptions{})
	for i := range 3 {
		if err := x.Put(t.Context(), descs[i], src); !errors.Is(err, remotecache.ErrReadOnly) {
			t.Fatal(err)
		}
	}
	out, err := x.Export(t.Context(), "main", idx, src)
	if out.State != remotecache.Skipped || !errors.Is(err, remotecache.ErrReadOnly) {
		t.Errorf("%+v, %v", out, err)
	}
	puts := 0
	for _, c := range f.calls {
		if c == "put" {
			puts++
		}
	}
	if puts != 1 {
		t.Errorf("%d puts, want 1", puts)
	}
}
