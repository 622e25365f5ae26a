package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/engine/content"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

var longAgo = time.Unix(1_600_000_000, 0)

// newStore opens the state dir root as one more process does.
func newStore(t *testing.T, root string, origin func(string) Origin) *Store {
	t.Helper()
	tmp := filepath.Join(root, "tmp")
	c, err := content.Open(filepath.Join(root, "blobs"), tmp)
	if err != nil {
		t.Fatal(err)
	}
	st, err := New(Config{
		Dir: filepath.Join(root, "layers"), Content: c, Origin: origin,
		Tmp: func() (string, error) { return os.MkdirTemp(tmp, "layer-") },
	})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// tarOf returns a layer tar with one file.
func tarOf(t *testing.T, name, text string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text)), ModTime: longAgo}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// blobOf returns a tar as a compressed blob: its bytes and what it is.
func blobOf(t *testing.T, plain []byte, origin Origin) ([]byte, Blob) {
	t.Helper()
	var buf bytes.Buffer
	z, err := compression.NewWriter(&buf, compression.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), Blob{
		Desc: ocispec.Descriptor{
			MediaType: compression.Gzip.MediaType(), Digest: digest.FromBytes(buf.Bytes()), Size: int64(buf.Len()),
		},
		DiffID: digest.FromBytes(plain), Origin: origin,
	}
}

// memDiff is a layer with one file, made by a file operation.
func memDiff(name, text string) *fsdiff.Mem {
	m := fsdiff.NewMem()
	m.Add(fsdiff.Entry{Mode: os.ModeDir | 0o755, ModTime: longAgo})
	m.Add(fsdiff.Entry{Path: name, Mode: 0o644, Size: int64(len(text)), ModTime: longAgo, Content: fsdiff.Bytes([]byte(text))})
	return m
}

// An origin holds blobs in memory and counts the reads.
type origin struct {
	repository string
	cache      bool
	blobs      map[digest.Digest][]byte
	opened     atomic.Int64
}

var errGone = errors.New("404 not found")

func (o *origin) Open(_ context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	o.opened.Add(1)
	b, ok := o.blobs[desc.Digest]
	if !ok {
		return nil, errGone
	}
	return io.NopCloser(bytes.NewReader(b[off:])), nil
}
func (o *origin) Repository() string { return o.repository }
func (o *origin) IsCache() bool      { return o.cache }

func holding(cache bool, desc ocispec.Descriptor, data []byte) *origin {
	return &origin{cache: cache, blobs: map[digest.Digest][]byte{desc.Digest: data}}
}

// readFile reads a file of a root through its View.
func readFile(t *testing.T, s *State, name string) string {
	t.Helper()
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e, err := v.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := e.Content.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dt, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(dt)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}
