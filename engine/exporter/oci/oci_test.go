package oci_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/exporter/oci"
)

// readTar returns the files of a tar.
func readTar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func decode[T any](t *testing.T, data []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

const (
	imageName = "io.containerd.image.name"
	refName   = "org.opencontainers.image.ref.name"
	created   = "org.opencontainers.image.created"
)

// imageOf takes apart what BuildKit wrote.
func imageOf(t *testing.T, files map[string][]byte) oci.Image {
	t.Helper()
	index := decode[ocispec.Index](t, files["index.json"])
	img := oci.Image{ManifestDesc: index.Manifests[0]}
	for _, m := range index.Manifests {
		if n := m.Annotations[imageName]; n != "" {
			img.Names = append(img.Names, n)
		}
	}
	delete(img.ManifestDesc.Annotations, imageName)
	delete(img.ManifestDesc.Annotations, refName)
	blob := func(d digest.Digest) []byte { return files["blobs/sha256/"+d.Encoded()] }
	img.Manifest = blob(img.ManifestDesc.Digest)
	m := decode[ocispec.Manifest](t, img.Manifest)
	img.Config, img.ConfigDesc, img.Layers = blob(m.Config.Digest), m.Config, m.Layers
	img.Open = func(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(blob(d.Digest))), nil
	}
	return img
}

func TestTarEqualsBuildKit(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.tar")
	if err != nil || len(paths) < 9 {
		t.Fatalf("%d tars, %v", len(paths), err)
	}
	for _, p := range paths {
		name := strings.TrimSuffix(filepath.Base(p), ".tar")
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			img := imageOf(t, readTar(t, want))
			var got bytes.Buffer
			if err := oci.WriteTar(t.Context(), &got, img, strings.HasPrefix(name, "docker")); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				g, w := readTar(t, got.Bytes()), readTar(t, want)
				for n := range w {
					if !bytes.Equal(g[n], w[n]) {
						t.Errorf("%s is\n%s\nBuildKit's is\n%s", n, g[n], w[n])
					}
				}
				t.Errorf("%d bytes that differ from BuildKit's %d", got.Len(), len(want))
			}
		})
	}
}

// TestDirIndexEqualsBuildKit adds images to a layout as generate.sh does.
func TestDirIndexEqualsBuildKit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "layout")
	names := []string{"example.com:5000/a/b:1", "docker.io/library/c:latest", "docker.io/library/d:x"}
	const e = "docker.io/library/e@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for i, names := range [][]string{nil, names, {names[1]}, {e}, nil} {
		want, err := os.ReadFile(fmt.Sprintf("testdata/index-%d.json", i+1))
		if err != nil {
			t.Fatal(err)
		}
		index := decode[ocispec.Index](t, want)
		last := index.Manifests[len(index.Manifests)-1]
		delete(last.Annotations, imageName)
		delete(last.Annotations, refName)
		// The blobs do not matter here, the descriptor does.
		img := newImage(t, 1, 10)
		img.Manifest = bytes.Repeat([]byte{byte(i)}, int(last.Size))
		img.ManifestDesc, img.Names = last, names
		if err := oci.WriteDir(t.Context(), dir, img); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "index.json"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("index %d is\n%s\nBuildKit's is\n%s", i+1, got, want)
		}
	}
	for name, mode := range map[string]os.FileMode{"oci-layout": 0o644, "index.json": 0o644} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "oci-layout")); string(b) != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout is %s, %v", b, err)
	}
	if left := list(t, dir); len(left) != 3 {
		t.Errorf("the layout has %q", left)
	}
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// newImage returns an image with layers of about size bytes; a layer is a tar
// so that other tools unpack it.
func newImage(t *testing.T, layers int, size int64) oci.Image {
	t.Helper()
	blobs := map[digest.Digest][]byte{}
	desc := func(mt string, data []byte) ocispec.Descriptor {
		d := digest.FromBytes(data)
		blobs[d] = data
		return ocispec.Descriptor{MediaType: mt, Digest: d, Size: int64(len(data))}
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	config.Config.Cmd = []string{"/file"}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	rnd := rand.NewChaCha8([32]byte{byte(layers), byte(size)})
	for i := range layers {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		data := make([]byte, min(size, 64<<10))
		rnd.Read(data)
		data = bytes.Repeat(data, int(max(size, 1)/max(int64(len(data)), 1)))
		size := int64(len(data))
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("file%d", i), Mode: 0o644, Size: size, ModTime: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(data); err != nil {
			t.Fatal(err)
		}
		tw.Close()
		d := desc(ocispec.MediaTypeImageLayer, b.Bytes())
		m.Layers = append(m.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, d.Digest)
		config.History = append(config.History, ocispec.History{CreatedBy: "test"})
	}
	config.RootFS.Type = "layers"
	img := oci.Image{Layers: m.Layers}
	var err error
	if img.Config, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	m.Config = desc(ocispec.MediaTypeImageConfig, img.Config)
	img.ConfigDesc = m.Config
	if img.Manifest, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	img.ManifestDesc = desc(m.MediaType, img.Manifest)
	img.Open = func(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
		b, ok := blobs[d.Digest]
		if !ok {
			return nil, errors.New("unknown layer")
		}
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return img
}

func TestCreated(t *testing.T) {
	img := newImage(t, 1, 1)
	before := time.Now().UTC().Truncate(time.Second)
	var b bytes.Buffer
	if err := oci.WriteTar(t.Context(), &b, img, false); err != nil {
		t.Fatal(err)
	}
	m := decode[ocispec.Index](t, readTar(t, b.Bytes())["index.json"]).Manifests[0]
	got, err := time.Parse(time.RFC3339, m.Annotations[created])
	if err != nil || got.Before(before) || got.After(time.Now()) {
		t.Errorf("created %q, %v", m.Annotations[created], err)
	}
	if img.ManifestDesc.Annotations != nil {
		t.Error("the caller's descriptor was changed")
	}
}

// Two layers with the same blob are one file, listed twice.
func TestEqualLayers(t *testing.T) {
	img := newImage(t, 1, 100)
	img.Layers = append(img.Layers, img.Layers[0])
	var b bytes.Buffer
	if err := oci.WriteTar(t.Context(), &b, img, true); err != nil {
		t.Fatal(err)
	}
	names := map[string]int{}
	for tr := tar.NewReader(&b); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if names[h.Name]++; names[h.Name] > 1 {
			t.Errorf("%s is there twice", h.Name)
		}
	}
	if err := oci.WriteDir(t.Context(), t.TempDir(), img); err != nil {
		t.Error(err)
	}
}

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

func TestBadDigest(t *testing.T) {
	for _, d := range []digest.Digest{"", "sha256:../../x", "sha256:12"} {
		img := newImage(t, 1, 1)
		img.Layers[0].Digest = d
		if err := oci.WriteTar(t.Context(), io.Discard, img, false); err == nil {
			t.Errorf("tar with %q", d)
		}
		if err := oci.WriteDir(t.Context(), t.TempDir(), img); err == nil {
			t.Errorf("directory with %q", d)
		}
	}
}

// A layout whose index nobody can read is not replaced by a new one.
func TestBrokenIndex(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "index.json")
	if err := os.WriteFile(path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := oci.WriteDir(t.Context(), dir, newImage(t, 1, 1)); err == nil {
		t.Error("written")
	}
	if b, err := os.ReadFile(path); string(b) != "{" {
		t.Errorf("%q, %v", b, err)
	}
}

// A blob that a crash left short is written again.
func TestShortBlobIsReplaced(t *testing.T) {
	dir := t.TempDir()
	img := newImage(t, 1, 1000)
	if err := oci.WriteDir(t.Context(), dir, img); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "blobs/sha256", img.Layers[0].Digest.Encoded())
	if err := os.Truncate(path, 5); err != nil {
		t.Fatal(err)
	}
	if err := oci.WriteDir(t.Context(), dir, img); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != img.Layers[0].Size || st.Mode() != 0o444 {
		t.Errorf("%v, %v", st, err)
	}
}

func TestManyWritersOfOneLayout(t *testing.T) {
	dir := t.TempDir()
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		img := newImage(t, 1+i%3, 1000)
		img.Names = []string{fmt.Sprintf("docker.io/library/x:%d", i)}
		wg.Go(func() {
			if err := oci.WriteDir(t.Context(), dir, img); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(decode[ocispec.Index](t, data).Manifests); got != n {
		t.Errorf("%d manifests, want %d", got, n)
	}
	if names := list(t, dir); len(names) != 3 {
		t.Errorf("the layout has %q", names)
	}
}

// The lock is the one that buildctl takes.
func TestLockedIndex(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "index.json.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := oci.WriteDir(ctx, dir, newImage(t, 1, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("written under another's lock: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { f.Close() })
	if err := oci.WriteDir(t.Context(), dir, newImage(t, 1, 1)); err != nil {
		t.Error(err)
	}
}

// TestOtherToolsRead has skopeo and umoci read what is written.
func TestOtherToolsRead(t *testing.T) {
	img := newImage(t, 2, 128<<10)
	img.Names = []string{"docker.io/library/one:1", "example.com/two:2"}
	dir := t.TempDir()
	write := func(name string, docker bool) {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(oci.WriteTar(t.Context(), f, img, docker), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write("oci.tar", false)
	write("docker.tar", true)
	if err := oci.WriteDir(t.Context(), filepath.Join(dir, "layout"), img); err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, name string, args ...string) string {
		t.Helper()
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	for _, ref := range []string{
		"oci-archive:oci.tar:1", "oci-archive:oci.tar:2", "oci-archive:docker.tar:1", "oci:layout:1", "oci:layout:2",
		"docker-archive:docker.tar:one:1", "docker-archive:docker.tar:example.com/two:2",
	} {
		t.Run(ref, func(t *testing.T) {
			out := run(t, "skopeo", "inspect", ref)
			got := decode[struct {
				Digest digest.Digest
				Layers []digest.Digest
			}](t, []byte(out))
			if len(got.Layers) != 2 || got.Layers[1] != img.Layers[1].Digest {
				t.Errorf("layers %v", got.Layers)
			}
			if !strings.HasPrefix(ref, "docker") && got.Digest != img.ManifestDesc.Digest {
				t.Errorf("digest %s, want %s", got.Digest, img.ManifestDesc.Digest)
			}
			run(t, "skopeo", "copy", ref, "dir:"+strings.ReplaceAll(ref, "/", "_")+".copy")
		})
	}
	t.Run("umoci", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("umoci unpack needs root")
		}
		run(t, "umoci", "unpack", "--image", "layout:2", "bundle")
		st, err := os.Stat(filepath.Join(dir, "bundle/rootfs/file1"))
		if err != nil || st.Size() != 128<<10 {
			t.Errorf("%v, %v", st, err)
		}
	})
}
