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
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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
