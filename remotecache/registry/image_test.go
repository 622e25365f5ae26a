package registry_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	client "github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/internal/registry/registrytest"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/inline"
	"github.com/mayfly-build/mayfly/remotecache/registry"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

// image pushes an image of n layers with what Encode makes of their cache,
// unless bare, and returns its descriptor.
func image(t *testing.T, ref, seed string, first uint64, n int, bare bool) ocispec.Descriptor {
	t.Helper()
	var layers []ocispec.Descriptor
	var blobs []any
	var of []inline.Layer
	var diffIDs []digest.Digest
	for i := range n {
		desc, data := remotecachetest.Blob(first+uint64(i), 50)
		layers, blobs = append(layers, desc), append(blobs, data)
		diffID := digest.FromString("diff " + desc.Digest.String())
		of, diffIDs = append(of, inline.Layer{Blob: desc.Digest, DiffID: diffID}), append(diffIDs, diffID)
	}
	config := map[string]any{"architecture": seed, "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}}
	if !bare {
		data, err := inline.Encode(remotecachetest.IndexOf(seed, layers...), of)
		if err != nil {
			t.Fatal(err)
		}
		config[inline.Field] = data
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: describe(t, ocispec.MediaTypeImageConfig, config), Layers: layers,
	}
	return push(t, ref, m, append(blobs, config)...)
}

func index(t *testing.T, ref string, images ...ocispec.Descriptor) {
	t.Helper()
	push(t, ref, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: images})
}

func TestInline(t *testing.T) {
	srv := registrytest.Start(t, registrytest.Config{})
	image(t, srv.Host+"/app:one", "one", 0, 3, false)
	b, rec := job(t, srv.Host+"/app:one")
	idx, err := b.LoadIndex(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	if got := len(rec.take()); got != 2 {
		t.Errorf("%d requests, want 2", got)
	}
	wantSteps(t, idx, "one", 3)
	if m, err := b.Missing(t.Context(), []ocispec.Descriptor{idx.Layers[0].Descriptor()}); err != nil || len(m) != 0 || len(rec.take()) != 0 {
		t.Errorf("a layer of the image is asked for: %v, %v", m, err)
	}

	// An index of two platforms, an attestation and an image without cache.
	amd := image(t, srv.Host+"/app", "amd64", 10, 2, false)
	arm := image(t, srv.Host+"/app", "arm64", 20, 4, false)
	att := image(t, srv.Host+"/app", "att", 30, 1, true)
	att.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	bare := image(t, srv.Host+"/app", "bare", 40, 1, true)
	index(t, srv.Host+"/app:all", amd, arm, att, bare)
	b, _ = job(t, srv.Host+"/app:all")
	idx, err = b.LoadIndex(t.Context(), "all")
	if err != nil {
		t.Fatal(err)
	}
	wantSteps(t, idx, "amd64", 2)
	wantSteps(t, idx, "arm64", 4)
	if len(idx.Layers) != 6 {
		t.Errorf("%d layers, want 6", len(idx.Layers))
	}
}

// wantSteps wants the chain of steps that remotecachetest.IndexOf made, each
// with the layers up to it.
func wantSteps(t *testing.T, idx *remotecache.Index, seed string, n int) {
	t.Helper()
	g, err := remotecache.NewGraph(idx)
	if err != nil {
		t.Fatal(err)
	}
	at, ok := g.Root(remotecache.OutputKey(digest.FromString(seed), 0))
	if !ok {
		t.Fatalf("no root of %s", seed)
	}
	for i := range n {
		key := remotecache.OutputKey(digest.FromString(seed+string(rune('0'+i))), 0)
		found := g.Match([][]remotecache.Link{{{Node: at, Selector: "sel"}}}, key)
		if len(found) != 1 {
			t.Fatalf("%s: step %d is not found", seed, i)
		}
		at = found[0]
		if res := at.Results(); len(res) != 1 || len(res[0].Layers) != i+1 || res[0].Layers[i].DiffID == "" || !res[0].Layers[i].Known() {
			t.Errorf("%s: step %d leads to %+v", seed, i, res)
		}
	}
}

func TestNoCacheThere(t *testing.T) {
	srv := registrytest.Start(t, registrytest.Config{})
	at := srv.Host + "/app:"
	image(t, at+"bare", "bare", 0, 2, true)
	image(t, at+"empty", "empty", 0, 0, true)
	index(t, at+"index", image(t, srv.Host+"/app", "bare", 0, 2, true))
	index(t, at+"nothing")
	config := []byte(`{"layers":[{"blob":"sha256:x"}]}`)
	push(t, at+"broken", ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: describe(t, remotecache.MediaType, config),
	}, config)
	config = []byte(`{"rootfs":{"diff_ids":[]},"moby.buildkit.cache.v0":"W10="}`)
	layer, data := remotecachetest.Blob(1, 10)
	push(t, at+"odd", ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: describe(t, ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{layer},
	}, config, data)
	for tag, want := range map[string]error{
		"bare": inline.ErrNone, "empty": inline.ErrNone, "index": inline.ErrNone, "nothing": inline.ErrNone,
		"broken": remotecache.ErrCorrupt, "odd": remotecache.ErrCorrupt, "absent": remotecache.ErrNotFound,
	} {
		b := open(t, registry.Config{Ref: at + tag})
		_, err := b.LoadIndex(t.Context(), b.Ref())
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "app:"+tag) {
			t.Errorf("%s: %v, want %v and the name", tag, err, want)
		}
		if want == inline.ErrNone && (hintOf(err) == "" || !errors.Is(err, remotecache.ErrNotFound)) {
			t.Errorf("%s: %v, hint %q", tag, err, hintOf(err))
		}
	}
}

func TestDenied(t *testing.T) {
	srv := registrytest.Start(t, registrytest.Config{Tokens: true, ReadOnly: []string{"app"}})
	b := open(t, registry.Config{Ref: srv.Host + "/app:cache"})
	idx, src := cache("x", 3)
	out, err := remotecache.Export(t.Context(), b, "cache", idx, src, remotecache.ExportOptions{})
	if out.State != remotecache.Failed || !errors.Is(err, client.ErrDenied) || hintOf(err) == "" {
		t.Errorf("%+v, %v, hint %q", out, err, hintOf(err))
	}
}

func TestConfig(t *testing.T) {
	c := client.New(client.Config{})
	for _, ref := range []string{"", "acme/UPPER", "a b", "host/repo:"} {
		if _, err := registry.New(registry.Config{Client: c, Ref: ref}); err == nil {
			t.Errorf("%q is taken", ref)
		}
	}
	b := open(t, registry.Config{Client: c, Ref: "acme/app:V1"})
	if b.Ref() != "V1" || b.Repository() != "docker.io/acme/app" {
		t.Errorf("%s of %s", b.Ref(), b.Repository())
	}
}
