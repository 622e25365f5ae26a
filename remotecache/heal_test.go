package remotecache_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
)

// What an import found to be wrong is removed and put again; it counts as lost,
// with all that needs it, where it cannot be removed.
func TestExportReplacesWhatIsWrong(t *testing.T) {
	descs, idx, src := cache(4)
	m := remotecache.NewMemory()
	if _, err := remotecache.Export(t.Context(), m, "main", idx, src, remotecache.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	var put []digest.Digest
	f := &faulty{Memory: m, put: func(d ocispec.Descriptor, _ io.ReaderAt) error {
		put = append(put, d.Digest)
		return nil
	}}
	wrong := func(d digest.Digest) bool { return d == descs[1].Digest }
	var removed []digest.Digest
	opts := remotecache.ExportOptions{Uploads: 1, Wrong: wrong, Remove: func(_ context.Context, d digest.Digest) error {
		removed = append(removed, d)
		return nil
	}}
	out, err := remotecache.Export(t.Context(), f, "main", idx, src, opts)
	want := []digest.Digest{descs[1].Digest}
	if err != nil || out.State != remotecache.OK || out.Existing != 3 || !slices.Equal(removed, want) || !slices.Equal(put, want) {
		t.Errorf("%+v, %v; removed %v, put %v", out, err, removed, put)
	}

	put = nil
	opts.Remove = func(context.Context, digest.Digest) error { return errors.ErrUnsupported }
	out, err = remotecache.Export(t.Context(), f, "main", idx, src, opts)
	if out.State != remotecache.Partial || out.Lost != 1 || len(put) > 0 || err == nil || !strings.Contains(err.Error(), "does not part with") {
		t.Errorf("%+v, %v; put %v", out, err, put)
	}
	saved, err := m.LoadIndex(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(saved.Blobs(), func(b remotecache.Blob) bool { return wrong(b.Digest) }) {
		t.Error("the index names the wrong blob")
	}
}
