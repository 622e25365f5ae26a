package upkeep

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

// made is when remotecachetest.IndexOf dates the first result.
var made = time.Date(2026, 2, 3, 4, 5, 0, 0, time.UTC)

// fill stores a cache of n blobs of 1000 bytes and more under ref.
func fill(t *testing.T, b remotecache.Backend, ref string, seed uint64, n int) []ocispec.Descriptor {
	t.Helper()
	var descs []ocispec.Descriptor
	for i := range n {
		desc, data := remotecachetest.Blob(seed*100+uint64(i), 1000+i)
		if err := b.Put(t.Context(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		descs = append(descs, desc)
	}
	if err := b.SaveIndex(t.Context(), ref, remotecachetest.IndexOf(ref, descs...)); err != nil {
		t.Fatal(err)
	}
	return descs
}

func load(t *testing.T, b remotecache.Backend, ref string) *remotecache.Index {
	t.Helper()
	idx, err := b.LoadIndex(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return idx
}

func TestEntries(t *testing.T) {
	m := remotecache.NewMemory()
	descs := fill(t, m, "main", 1, 3)
	got, err := Entries(load(t, m, "main"))
	if err != nil || len(got) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, e := range got { // newest first
		n := 2 - i
		want := Entry{Layer: descs[n].Digest, Layers: n + 1, Bytes: descs[n].Size, Created: made.Add(time.Duration(n) * time.Second), Keys: 1}
		for _, d := range descs[:n+1] {
			want.Total += d.Size
		}
		if e != want {
			t.Errorf("entry %d is %+v, want %+v", i, e, want)
		}
	}
	s := SizeOf(load(t, m, "main"))
	if s.Records != 4 || s.Results != 3 || s.Blobs != 3 || s.Bytes != 3003 || !s.Oldest.Equal(made) || !s.Newest.Equal(made.Add(2*time.Second)) {
		t.Errorf("%+v", s)
	}
}

// damaged serves one blob with a bit flipped.
type damaged struct {
	*remotecache.Memory
	dgst digest.Digest
}

func (d damaged) Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	r, err := d.Memory.Open(ctx, blob, off)
	if err != nil || blob.Digest != d.dgst {
		return r, err
	}
	data, err := io.ReadAll(r)
	data[0] ^= 1
	return io.NopCloser(bytes.NewReader(data)), err
}

func TestVerify(t *testing.T) {
	m := remotecache.NewMemory()
	descs := fill(t, m, "main", 1, 5)
	r, err := Verify(t.Context(), m, 2, load(t, m, "main"), load(t, m, "main"))
	if err != nil || r.Blobs != 5 || r.Bytes != 5010 || len(r.Problems) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	m.Remove(descs[1].Digest)
	r, err = Verify(t.Context(), damaged{m, descs[3].Digest}, 2, load(t, m, "main"))
	if err != nil || r.Blobs != 3 || len(r.Problems) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, p := range r.Problems {
		want := map[digest.Digest]error{descs[1].Digest: remotecache.ErrNotFound, descs[3].Digest: remotecache.ErrCorrupt}[p.Blob.Digest]
		if want == nil || !errors.Is(p.Err, want) {
			t.Errorf("%s: %v, want %v", p.Blob.Digest, p.Err, want)
		}
	}
}

// aged says that all blobs were last used at a time.
type aged struct {
	*remotecache.Memory
	used time.Time
}

func (a aged) List(ctx context.Context) (remotecache.Contents, error) {
	c, err := a.Memory.List(ctx)
	for i := range c.Blobs {
		c.Blobs[i].Used = a.used
	}
	return c, err
}

func TestPrune(t *testing.T) {
	now := made.Add(30 * 24 * time.Hour)
	for _, tt := range []struct {
		name   string
		refs   []string
		opts   PruneOptions
		want   Pruned
		main   int // layers that stay; -1: the ref is gone
		unused bool
	}{
		{"nothing is too old", nil, PruneOptions{Now: made.Add(time.Hour), MaxAge: 48 * time.Hour}, Pruned{Kept: 1}, 4, true},
		{"all", nil, PruneOptions{Now: now, MaxAge: time.Hour}, Pruned{Refs: []string{"main", "other"}, Blobs: 7, Bytes: 1 + 4006 + 2001}, -1, false},
		{"dry run", nil, PruneOptions{Now: now, MaxAge: time.Hour, DryRun: true}, Pruned{Refs: []string{"main", "other"}, Blobs: 7, Bytes: 1 + 4006 + 2001}, 4, true},
		{"one ref", []string{"other"}, PruneOptions{Now: now, MaxAge: time.Hour}, Pruned{Refs: []string{"other"}, Blobs: 3, Bytes: 1 + 2001}, 4, false},
		{"within the grace", nil, PruneOptions{Now: now, MaxAge: time.Hour, Grace: 365 * 24 * time.Hour}, Pruned{Refs: []string{"main", "other"}, Kept: 7}, -1, true},
		// A chain of three fits; the one on top of it is what has to go.
		{"size", nil, PruneOptions{Now: now, MaxBytes: 3500}, Pruned{Records: 1, Blobs: 2, Bytes: 1 + 1003}, 3, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := aged{remotecache.NewMemory(), made}
			fill(t, k, "main", 1, 4)
			fill(t, k, "other", 2, 2)
			stray, data := remotecachetest.Blob(999, 1)
			if err := k.Put(t.Context(), stray, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			got, err := Prune(t.Context(), k, tt.refs, tt.opts)
			slices.Sort(got.Refs)
			if err != nil || !slices.Equal(got.Refs, tt.want.Refs) || got.Records != tt.want.Records || got.Blobs != tt.want.Blobs || got.Bytes != tt.want.Bytes || got.Kept != tt.want.Kept {
				t.Errorf("%+v, %v; want %+v", got, err, tt.want)
			}
			idx, err := k.LoadIndex(t.Context(), "main")
			if tt.main < 0 != errors.Is(err, remotecache.ErrNotFound) {
				t.Fatalf("main: %v", err)
			}
			if tt.main >= 0 {
				if len(idx.Layers) != tt.main {
					t.Errorf("main has %d layers, want %d", len(idx.Layers), tt.main)
				}
				if r, err := Verify(t.Context(), k, 0, idx); err != nil || len(r.Problems) > 0 {
					t.Errorf("what stays is not whole: %+v, %v", r, err)
				}
			}
			missing, err := k.Missing(t.Context(), []ocispec.Descriptor{stray})
			if err != nil || (len(missing) == 0) != tt.unused {
				t.Errorf("the stray blob is missing: %v, %v", missing, err)
			}
		})
	}
}

func TestCopy(t *testing.T) {
	from, to := remotecache.NewMemory(), remotecache.NewMemory()
	descs := fill(t, from, "pr-7", 1, 3)
	fill(t, to, "main", 2, 2)
	opts := CopyOptions{Merge: &remotecache.Limits{Now: made}, TmpDir: t.TempDir()}
	out, err := Copy(t.Context(), from, "pr-7", to, "main", opts)
	if err != nil || out.State != remotecache.OK || out.Blobs != 3 {
		t.Fatalf("%+v, %v", out, err)
	}
	idx := load(t, to, "main")
	if len(idx.Layers) != 5 || len(idx.Records) != 7 {
		t.Errorf("%d layers, %d records, want 5 and 7", len(idx.Layers), len(idx.Records))
	}
	if r, err := Verify(t.Context(), to, 0, idx); err != nil || r.Blobs != 5 {
		t.Errorf("%+v, %v", r, err)
	}
	if out, err = Copy(t.Context(), from, "pr-7", to, "main", opts); err != nil || out.Blobs != 0 {
		t.Errorf("again: %+v, %v", out, err)
	}
	// What is damaged does not get there.
	out, err = Copy(t.Context(), damaged{from, descs[1].Digest}, "pr-7", remotecache.NewMemory(), "main", opts)
	if out.State != remotecache.Partial || err == nil || out.Blobs != 2 {
		t.Errorf("damaged: %+v, %v", out, err)
	}
	if _, err := Copy(t.Context(), from, "nobody", to, "main", opts); !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("a ref that is not there: %v", err)
	}
}
