// Package remotecachetest says in tests what remotecache.Backend says in
// words.
//
//	tests of Memory, wrappers, registry, local, … ──a new store──▶ Run
//
// A fault found in one backend becomes a case here, for all of them.
package remotecachetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
)

// Run runs the suite. newStore makes an empty store and returns what connects
// to it: each call of dial is another CI job.
func Run(t *testing.T, newStore func(t *testing.T) (dial func() remotecache.Backend)) {
	for _, tt := range []struct {
		name string
		test func(t *testing.T, dial func() remotecache.Backend)
	}{
		{"PutIsSeenByAnotherJob", testPutSeen},
		{"PutAgain", testPutAgain},
		{"PutSameBlobAtOnce", testPutSame},
		{"PutManyAtOnce", testPutMany},
		{"PutLarge", testPutLarge},
		{"PutShortSourceLeavesNothing", testPutShort},
		{"PutBrokenSourceLeavesNothing", testPutBroken},
		{"PutOtherBytesAreNeverRead", testPutOther},
		{"PutCancelled", testPutCancelled},
		{"OpenUnknownIsErrNotFound", testOpenUnknown},
		{"OpenFromTheMiddle", testOpenRange},
		{"OpenAtOnce", testOpenMany},
		{"OpenAndLeave", testOpenLeave},
		{"OpenCancelled", testOpenCancelled},
		{"OpenCorruptIsFoundByVerify", testOpenCorrupt},
		{"MissingKeepsOrder", testMissingOrder},
		{"MissingNothing", testMissingNothing},
		{"Missing10000", testMissingMany},
		{"MissingCancelled", testMissingCancelled},
		{"IndexUnknownIsErrNotFound", testIndexUnknown},
		{"IndexIsSeenByAnotherJob", testIndexSeen},
		{"IndexLastSaveWins", testIndexLast},
		{"IndexRefsAreApart", testIndexRefs},
		{"IndexBadRefIsRefused", testIndexBadRef},
		{"IndexIsTheCallers", testIndexOwned},
		{"IndexLarge", testIndexLarge},
		{"IndexManySaversAndReaders", testIndexConcurrent},
		{"IndexCancelled", testIndexCancelled},
		{"IndexAttachments", testIndexAttachments},
		{"IndexChangedIsErrConflict", testIndexConflict},
		{"ExportAndImport", testExport},
		{"ExportAgainPutsNothing", testExportAgain},
		{"ExportWithoutLostBlobs", testExportLost},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, newStore(t)) })
	}
}

// Blob returns a descriptor and its bytes: size of them, the same for the
// same seed.
func Blob(seed uint64, size int) (ocispec.Descriptor, []byte) {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	data := make([]byte, size)
	rand.NewChaCha8(key).Read(data)
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip,
		Digest:    digest.FromBytes(data),
		Size:      int64(size),
	}, data
}

// blobs returns n blobs by digest.
func blobs(n, size int) ([]ocispec.Descriptor, map[digest.Digest][]byte) {
	descs := make([]ocispec.Descriptor, n)
	data := map[digest.Digest][]byte{}
	for i := range descs {
		var d []byte
		descs[i], d = Blob(uint64(i)+1000, size+i)
		data[descs[i].Digest] = d
	}
	return descs, data
}

// layerOf returns the layer a descriptor of Blob stands for.
func layerOf(desc ocispec.Descriptor) remotecache.Blob {
	return remotecache.Blob{
		Digest: desc.Digest, Size: desc.Size, MediaType: desc.MediaType,
		DiffID:    digest.FromString("diff " + desc.Digest.String()),
		CreatedAt: time.Date(2026, 2, 3, 4, 5, 6, 7, time.UTC),
	}
}

// IndexOf returns an Index with a chain of all the blobs: a root and a step on
// it for each.
func IndexOf(seed string, descs ...ocispec.Descriptor) *remotecache.Index {
	b := remotecache.NewBuilder()
	n := b.Add(remotecache.OutputKey(digest.FromString(seed), 0), nil, nil)
	var layers []remotecache.Blob
	for i, d := range descs {
		layers = append(layers, layerOf(d))
		n = b.Add(remotecache.OutputKey(digest.FromString(fmt.Sprint(seed, i)), 0), [][]remotecache.Link{{{Node: n, Selector: "sel"}}},
			[]remotecache.ResultLayers{{Layers: layers, CreatedAt: time.Date(2026, 2, 3, 4, 5, i, 0, time.UTC)}})
	}
	return b.Index()
}

func put(t *testing.T, b remotecache.Backend, desc ocispec.Descriptor, data []byte) {
	t.Helper()
	if err := b.Put(t.Context(), desc, bytes.NewReader(data)); err != nil {
		t.Fatalf("Put: %v", err)
	}
}

func read(ctx context.Context, b remotecache.Backend, desc ocispec.Descriptor, off int64) ([]byte, error) {
	r, err := b.Open(ctx, desc, off)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return data, err
}

func mustRead(t *testing.T, b remotecache.Backend, desc ocispec.Descriptor, off int64, want []byte) {
	t.Helper()
	got, err := read(t.Context(), b, desc, off)
	if err != nil {
		t.Errorf("read %s from %d: %v", desc.Digest, off, err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("read %s from %d: %d bytes with sum %x, want %d with %x", desc.Digest, off, len(got), sha256.Sum256(got), len(want), sha256.Sum256(want))
	}
}

// absent wants the blob not to be there, for this job and for another.
func absent(t *testing.T, desc ocispec.Descriptor, bs ...remotecache.Backend) {
	t.Helper()
	for i, b := range bs {
		if _, err := read(t.Context(), b, desc, 0); !errors.Is(err, remotecache.ErrNotFound) {
			t.Errorf("job %d: Open: %v, want ErrNotFound", i, err)
		}
		if m := missing(t, b, desc); len(m) != 1 {
			t.Errorf("job %d: Missing returns %d of 1", i, len(m))
		}
	}
}

func missing(t *testing.T, b remotecache.Backend, descs ...ocispec.Descriptor) []ocispec.Descriptor {
	t.Helper()
	m, err := b.Missing(t.Context(), descs)
	if err != nil {
		t.Fatalf("Missing: %v", err)
	}
	return m
}

func save(t *testing.T, b remotecache.Backend, ref string, idx *remotecache.Index) {
	t.Helper()
	if err := b.SaveIndex(t.Context(), ref, idx); err != nil {
		t.Fatalf("SaveIndex: %v", err)
	}
}

// loadSame wants the ref's Index to be want, with all that is known of the
// layers.
func loadSame(t *testing.T, b remotecache.Backend, ref string, want *remotecache.Index) *remotecache.Index {
	t.Helper()
	got, err := b.LoadIndex(t.Context(), ref)
	if err != nil {
		t.Fatalf("LoadIndex: %v", err)
	}
	if g, w := encode(t, got), encode(t, want); g != w {
		t.Fatalf("LoadIndex returns\n%s\nwant\n%s", g, w)
	}
	return got
}

func encode(t *testing.T, idx *remotecache.Index) string {
	t.Helper()
	data, err := idx.EncodeAnnotated()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func equalDescs(a, b []ocispec.Descriptor) bool {
	return slices.EqualFunc(a, b, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest && a.Size == b.Size })
}
