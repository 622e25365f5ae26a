package oci_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/exporter/oci"
)

func TestWrongBlobs(t *testing.T) {
	lost := errors.New("lost")
	for name, open := range map[string]func(good []byte) (io.ReadCloser, error){
		"cannot be opened": func([]byte) (io.ReadCloser, error) { return nil, lost },
		"short":            func(b []byte) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b[1:])), nil },
		"long": func(b []byte) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(b), strings.NewReader("x"))), nil
		},
		"bad at the end": func(b []byte) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(b), failing{lost})), nil
		},
		"bad when closed": func(b []byte) (io.ReadCloser, error) {
			return struct {
				io.Reader
				io.Closer
			}{bytes.NewReader(b), failing{lost}}, nil
		},
		"short file": func(b []byte) (io.ReadCloser, error) { return fileOf(t, b[1:]) },
		"long file":  func(b []byte) (io.ReadCloser, error) { return fileOf(t, append(b, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			img := newImage(t, 1, 100)
			good := img.Open
			img.Open = func(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
				r, err := good(ctx, d)
				if err != nil {
					return nil, err
				}
				b, err := io.ReadAll(r)
				if err != nil {
					return nil, err
				}
				return open(b)
			}
			dir := t.TempDir()
			file, err := os.Create(filepath.Join(dir, "tar"))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			layout := filepath.Join(dir, "layout")
			for what, err := range map[string]error{
				"tar": oci.WriteTar(t.Context(), io.Discard, img, false), "file": oci.WriteTar(t.Context(), file, img, true),
				"directory": oci.WriteDir(t.Context(), layout, img),
			} {
				if err == nil || !strings.Contains(err.Error(), img.Layers[0].Digest.String()) {
					t.Errorf("%s: %v", what, err)
				}
			}
			blobs := list(t, layout+"/blobs/sha256")
			if slices.Contains(blobs, img.Layers[0].Digest.Encoded()) || slices.ContainsFunc(blobs, func(s string) bool { return s[0] == '.' }) {
				t.Errorf("left behind: %q", blobs)
			}
			if names := list(t, layout); len(names) != 1 {
				t.Errorf("left behind: %q", names)
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
func (f failing) Close() error             { return f.err }

// fileReader is a blob that is a file, as those of the content store.
type fileReader struct {
	io.ReadCloser
	f *os.File
}

func (r fileReader) File() *os.File { return r.f }

func fileOf(t *testing.T, b []byte) (io.ReadCloser, error) {
	name := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(name, b, 0o644); err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	return fileReader{f, f}, err
}

// TestBigBlobs: what goes from file to file in the kernel is what goes
// through memory.
func TestBigBlobs(t *testing.T) {
	img := newImage(t, 1, 65<<20) // more than is copied at once
	memory := img.Open
	var want bytes.Buffer
	img.ManifestDesc.Annotations = map[string]string{created: "2020-01-01T00:00:00Z"}
	if err := oci.WriteTar(t.Context(), &want, img, false); err != nil {
		t.Fatal(err)
	}
	img.Open = func(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
		r, err := memory(ctx, d)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		return fileOf(t, b)
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := oci.WriteTar(t.Context(), f, img, false); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes from files, %d from memory, not the same", len(got), want.Len())
	}
	if err := oci.WriteDir(t.Context(), filepath.Join(dir, "layout"), img); err != nil {
		t.Fatal(err)
	}
	for _, l := range img.Layers {
		b, err := os.ReadFile(filepath.Join(dir, "layout/blobs/sha256", l.Digest.Encoded()))
		if err != nil || digest.FromBytes(b) != l.Digest {
			t.Errorf("layer of %d bytes differs, %v", len(b), err)
		}
	}
}

func TestCancel(t *testing.T) {
	for name, big := range map[string]func() (io.ReadCloser, error){
		"stream": func() (io.ReadCloser, error) { return io.NopCloser(endless{}), nil },
		"file":   func() (io.ReadCloser, error) { f, err := os.Open("/dev/zero"); return fileReader{f, f}, err },
	} {
		t.Run(name, func(t *testing.T) {
			why := errors.New("no longer wanted")
			for what, write := range map[string]func(context.Context, oci.Image) error{
				"tar":       func(ctx context.Context, img oci.Image) error { return oci.WriteTar(ctx, io.Discard, img, false) },
				"directory": func(ctx context.Context, img oci.Image) error { return oci.WriteDir(ctx, t.TempDir(), img) },
			} {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				img := newImage(t, 1, 1)
				img.Layers[0].Size = 1 << 50
				img.Open = func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
					cancel(why)
					return big()
				}
				if err := write(ctx, img); !errors.Is(err, why) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
