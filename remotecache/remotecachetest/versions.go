package remotecachetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
)

// testIndexAttachments wants attachments to come back as such, beside the
// layers and not among them.
func testIndexAttachments(t *testing.T, dial func() remotecache.Backend) {
	a := dial()
	idx := stored(t, a, 1, 3)
	for i, kind := range []string{"one", "two"} {
		desc, data := Blob(uint64(70+i), 500)
		desc.MediaType = remotecache.AttachmentPrefix + kind + ".v1+json"
		put(t, a, desc, data)
		idx.Attach(remotecache.Blob{Digest: desc.Digest, Size: desc.Size, MediaType: desc.MediaType})
	}
	save(t, a, "main", idx)
	for _, b := range []remotecache.Backend{a, dial()} {
		got := loadSame(t, b, "main", idx)
		if len(got.Layers) != 3 || len(got.Attachments) != 2 {
			t.Fatalf("%d layers and %d attachments come back, want 3 and 2", len(got.Layers), len(got.Attachments))
		}
		for i, blob := range got.Attachments {
			if w := idx.Attachments[i]; blob.Digest != w.Digest || blob.MediaType != w.MediaType || blob.Size != w.Size {
				t.Errorf("attachment %d is %+v, want %+v", i, blob, w)
			}
			if data, err := read(t.Context(), b, blob.Descriptor(), 0); err != nil || len(data) != 500 {
				t.Errorf("attachment %d: %d bytes, %v", i, len(data), err)
			}
		}
	}
}

func testIndexConflict(t *testing.T, dial func() remotecache.Backend) {
	a, b := dial(), dial()
	with := func(idx *remotecache.Index, version string) *remotecache.Index {
		out := idx.Clone()
		out.Version = version
		return out
	}
	one, two, three := stored(t, a, 1, 1), stored(t, b, 2, 2), stored(t, b, 3, 1)
	save(t, a, "main", with(one, remotecache.Absent))
	if err := b.SaveIndex(t.Context(), "main", with(two, remotecache.Absent)); !errors.Is(err, remotecache.ErrConflict) {
		t.Errorf("to be the first, where there is one: %v, want ErrConflict", err)
	}
	first := loadSame(t, b, "main", one)
	if first.Version == "" || first.Version == remotecache.Absent {
		t.Errorf("Version is %q", first.Version)
	}
	save(t, b, "main", with(two, first.Version))
	if err := a.SaveIndex(t.Context(), "main", with(three, first.Version)); !errors.Is(err, remotecache.ErrConflict) {
		t.Errorf("over a version that is gone: %v, want ErrConflict", err)
	}
	second := loadSame(t, a, "main", two)
	if second.Version == first.Version {
		t.Errorf("two indexes have the version %q", first.Version)
	}
	save(t, a, "main", with(three, second.Version))
	loadSame(t, dial(), "main", three)
	save(t, a, "main", one) // whatever is there
	loadSame(t, dial(), "main", one)
}

// RunKeeper runs what a backend that lists and removes has to do besides Run;
// dial must return a remotecache.Keeper. listsBlobs and removesBlobs say what
// the service can do.
func RunKeeper(t *testing.T, newStore func(t *testing.T) (dial func() remotecache.Backend), listsBlobs, removesBlobs bool) {
	dial := newStore(t)
	k, ok := dial().(remotecache.Keeper)
	if !ok {
		t.Fatalf("%T is no Keeper", dial())
	}
	want := map[digest.Digest]int64{}
	var refs []string
	for i := range 3 {
		ref := fmt.Sprint("ref-", i)
		idx := stored(t, k, uint64(i), 2)
		save(t, k, ref, idx)
		refs = append(refs, ref)
		for _, b := range idx.Blobs() {
			want[b.Digest] = b.Size
		}
	}
	list := func() remotecache.Contents {
		t.Helper()
		c, err := dial().(remotecache.Keeper).List(t.Context())
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		return c
	}
	check := func() {
		t.Helper()
		c := list()
		var got []string
		for _, r := range c.Refs {
			got = append(got, r.Ref)
		}
		slices.Sort(got)
		if !slices.Equal(got, refs) {
			t.Errorf("refs are %v, want %v", got, refs)
		}
		if !listsBlobs {
			return
		}
		sizes := map[digest.Digest]int64{}
		for _, b := range c.Blobs {
			sizes[b.Digest] = b.Size
		}
		for d, n := range want {
			if got, ok := sizes[d]; !ok || got != n {
				t.Errorf("blob %s is listed %v with %d bytes, want %d", d, ok, got, n)
			}
		}
	}
	check()
	if err := k.RemoveIndex(t.Context(), "ref-1"); err != nil {
		t.Fatalf("RemoveIndex: %v", err)
	}
	if err := k.RemoveIndex(t.Context(), "nobody"); err != nil {
		t.Errorf("RemoveIndex of none: %v", err)
	}
	refs = []string{"ref-0", "ref-2"}
	if _, err := dial().LoadIndex(t.Context(), "ref-1"); !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("an index that was removed: %v, want ErrNotFound", err)
	}
	check()
	desc, data := Blob(99, 1000)
	put(t, k, desc, data)
	err := k.RemoveBlob(t.Context(), desc.Digest)
	if !removesBlobs {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("RemoveBlob: %v, want ErrUnsupported", err)
		}
		return
	}
	if err != nil {
		t.Fatalf("RemoveBlob: %v", err)
	}
	absent(t, ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}, k, dial())
	if err := k.RemoveBlob(t.Context(), desc.Digest); err != nil {
		t.Errorf("RemoveBlob again: %v", err)
	}
	// What was removed can be stored again.
	put(t, k, desc, data)
	mustRead(t, dial(), desc, 0, data)
	save(t, k, "ref-1", stored(t, k, 1, 2))
}
