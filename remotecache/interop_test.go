package remotecache_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/e2e/services"
	client "github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/inline"
	"github.com/mayfly-build/mayfly/remotecache/local"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
	"github.com/mayfly-build/mayfly/remotecache/registry"
)

// buildContext is what testdata/buildkit/generate.sh builds.
func buildContext(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for from, to := range map[string]string{"/bin/busybox": "busybox", "testdata/buildkit/Dockerfile": "Dockerfile"} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Skipf("%v (Debian: apt install busybox-static)", err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "docs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"a.txt": "one\n", "b.txt": "two\n"} {
		if err := os.WriteFile(filepath.Join(dir, "docs", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestBuildKitReadsOurs has buildkitd write a cache, takes it through our
// Graph, Builder and backends, and has an empty buildkitd build with what they
// wrote: every step is cached, and the result, which is made of the blobs, is
// the same.
func TestBuildKitReadsOurs(t *testing.T) {
	ctx := t.Context()
	dir := buildContext(t)
	bk := services.NewBuildkitd(t)
	srv, err := services.StartRegistry(services.RegistryConfig{})
	services.Use(t, srv, err)

	prune := func() {
		t.Helper()
		ctl, err := services.Tool("buildctl")
		services.Need(t, err)
		if out, err := exec.Command(ctl, "--addr", bk.Addr, "prune", "--all").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	tar := filepath.Join(t.TempDir(), "out.tar")
	build := func(in services.Build) *services.Result {
		t.Helper()
		prune()
		in.Context = dir
		in.Env = []string{"SOURCE_DATE_EPOCH=1700000000"}
		if len(in.Export) == 0 { // buildctl writes metadata only where there is some
			in.Outputs = append(in.Outputs, "type=image,name=unused")
		}
		res, err := bk.Build(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	theirs := srv.Addr + "/theirs:cache"
	image := srv.Addr + "/image:app"
	build(services.Build{Export: []string{"type=registry,mode=max,ref=" + theirs}, Outputs: []string{"type=tar,dest=" + tar}})
	want, err := os.ReadFile(tar)
	if err != nil {
		t.Fatal(err)
	}
	build(services.Build{Export: []string{"type=inline"}, Outputs: []string{"type=image,push=true,name=" + image}})

	c := client.New(client.Config{})
	t.Cleanup(c.CloseIdle)
	newRegistry := func(ref string, form manifest.Form) *registry.Backend {
		b, err := registry.New(registry.Config{Client: c, Ref: ref, Form: form})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	src := newRegistry(theirs, manifest.Form{})
	idx, err := src.LoadIndex(ctx, src.Ref())
	if err != nil {
		t.Fatal(err)
	}
	idx = rebuilt(t, idx)
	verified := remotecache.Verify(src)
	blobs := func(ctx context.Context, desc ocispec.Descriptor) (remotecache.BlobReader, error) {
		r, err := verified.Open(ctx, desc, 0)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		data, err := io.ReadAll(r)
		return testBlob{bytes.NewReader(data)}, err
	}

	cacheDir := filepath.Join(t.TempDir(), "cache")
	inDir, err := local.New(local.Config{Dir: cacheDir})
	if err != nil {
		t.Fatal(err)
	}
	type refBackend interface {
		remotecache.Backend
		Ref() string
	}
	for _, tt := range []struct {
		name string
		b    refBackend
		from string
	}{
		{"registry", newRegistry(srv.Addr+"/ours:manifest", manifest.Form{}), "type=registry,ref=" + srv.Addr + "/ours:manifest"},
		{"registry index", newRegistry(srv.Addr+"/ours:index", manifest.Form{Index: true}), "type=registry,ref=" + srv.Addr + "/ours:index"},
		{"registry docker", newRegistry(srv.Addr+"/ours:docker", manifest.Form{Index: true, Docker: true}), "type=registry,ref=" + srv.Addr + "/ours:docker"},
		{"local", inDir, "type=local,src=" + cacheDir},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if out, err := remotecache.Export(ctx, tt.b, tt.b.Ref(), idx, blobs, remotecache.ExportOptions{}); err != nil {
				t.Fatalf("%+v, %v", out, err)
			}
			res := build(services.Build{Import: []string{tt.from}, Outputs: []string{"type=tar,dest=" + tar}})
			allCached(t, res.Steps, 10)
			got, err := os.ReadFile(tar)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the result is another one: %s, want %s", digest.FromBytes(got), digest.FromBytes(want))
			}
		})
	}
	t.Run("inline", func(t *testing.T) {
		pushInline(t, c, image, srv.Addr+"/ours:inline")
		res := build(services.Build{Import: []string{"type=registry,ref=" + srv.Addr + "/ours:inline"}})
		allCached(t, res.Steps, 5) // without those of other stages
	})
}

// rebuilt takes an index through Graph and Builder.
func rebuilt(t *testing.T, idx *remotecache.Index) *remotecache.Index {
	t.Helper()
	b := remotecache.NewBuilder()
	for _, n := range graph(t, idx).Nodes() {
		b.Copy(n, true)
	}
	return b.Index()
}

func allCached(t *testing.T, steps []services.Step, least int) {
	t.Helper()
	n := 0
	for _, s := range steps {
		if !strings.HasPrefix(s.Name, "[") || strings.HasPrefix(s.Name, "[internal]") {
			continue
		}
		n++
		if !s.Cached {
			t.Errorf("%s ran", s.Name)
		}
	}
	if n < least {
		t.Errorf("%d steps, want at least %d", n, least)
	}
}

// pushInline pushes an image again, with the inline cache decoded and encoded
// by us.
func pushInline(t *testing.T, c *client.Client, from, to string) {
	t.Helper()
	ctx := t.Context()
	_, data, err := c.Resolve(ctx, from)
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	read := func(desc ocispec.Descriptor) []byte {
		r, err := c.Blob(ctx, from, desc, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	config := read(m.Config)
	idx, err := inline.Decode(config, m.Layers)
	if err != nil {
		t.Fatal(err)
	}
	var layers []inline.Layer
	for _, l := range idx.Layers {
		layers = append(layers, inline.Layer{Blob: l.Digest, DiffID: l.DiffID})
	}
	records, err := inline.Encode(rebuilt(t, idx), layers)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(config, &doc); err != nil {
		t.Fatal(err)
	}
	if doc[inline.Field], err = json.Marshal(records); err != nil {
		t.Fatal(err)
	}
	if config, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	put := func(desc ocispec.Descriptor, data []byte) {
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
		if err := c.PutBlob(ctx, to, desc, open, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range m.Layers {
		put(l, read(l))
	}
	m.Config.Digest, m.Config.Size = digest.FromBytes(config), int64(len(config))
	put(m.Config, config)
	if data, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := c.PutManifest(ctx, to, desc, data); err != nil {
		t.Fatal(fmt.Errorf("push %s: %w", to, err))
	}
}
