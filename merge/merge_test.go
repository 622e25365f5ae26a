package merge_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/internal/registry/registrytest"
	"github.com/mayfly-build/mayfly/merge"
)

// image returns an image for linux and an architecture.
func image(t *testing.T, arch string) v1.Image {
	t.Helper()
	img, err := random.Image(1000, 2)
	if err == nil {
		var c *v1.ConfigFile
		if c, err = img.ConfigFile(); err == nil {
			c = c.DeepCopy()
			c.OS, c.Architecture = "linux", arch
			img, err = mutate.ConfigFile(mutate.MediaType(mutate.ConfigMediaType(img, types.OCIConfigJSON), types.OCIManifestSchema1), c)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// attested returns an index of the image and a manifest that attests something
// of it, as BuildKit makes them.
func attested(t *testing.T, arch string) v1.ImageIndex {
	t.Helper()
	img := image(t, arch)
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	statement := image(t, "unknown")
	return mutate.IndexMediaType(mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}},
		mutate.IndexAddendum{Add: statement, Descriptor: v1.Descriptor{
			Platform:    &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": d.String()},
		}}), types.OCIImageIndex)
}

type described interface{ Digest() (v1.Hash, error) }

// push stores an image or index under its digest and returns its reference.
func push(t *testing.T, repo string, what described) string {
	t.Helper()
	d, err := what.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewDigest(repo + "@" + d.String())
	if err != nil {
		t.Fatal(err)
	}
	switch x := what.(type) {
	case v1.Image:
		err = remote.Write(ref, x)
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, x)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref.String()
}

func source(ref string) merge.Source { return merge.Source{Name: ref, Refs: []string{ref}} }

func pull(t *testing.T, ref string) (d *remote.Descriptor, doc ocispec.Index) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if d, err = remote.Get(r); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(d.Manifest, &doc); err != nil {
		t.Fatal(err)
	}
	return d, doc
}

// Two jobs' images, one of them with an attestation, become an index in two
// registries, one of which has none of them.
func TestMerge(t *testing.T) {
	here, there := registrytest.Start(t, registrytest.Config{}), registrytest.Start(t, registrytest.Config{})
	repo := here.Host + "/acme/app"
	amd64, arm64 := push(t, repo, image(t, "amd64")), push(t, repo, attested(t, "arm64"))
	file, err := merge.FromMetadata("amd64.json", []byte(`{"containerimage.digest": "`+amd64[strings.Index(amd64, "@")+1:]+`", "image.name": "`+repo+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Config{})
	x, err := merge.Read(t.Context(), client, []merge.Source{file, source(arm64)}, map[string]string{"org.opencontainers.image.title": "app"})
	if err != nil {
		t.Fatal(err)
	}
	tags := []string{repo + ":v1", repo + ":latest", there.Host + "/mirror/app:v1"}
	if err := x.Push(t.Context(), client, tags); err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		d, doc := pull(t, tag)
		if d.Digest.String() != x.Descriptor.Digest.String() || doc.Annotations["org.opencontainers.image.title"] != "app" || len(doc.Manifests) != 3 {
			t.Fatalf("%s: %s %+v", tag, d.Digest, doc)
		}
		var got []string
		for _, m := range doc.Manifests {
			got = append(got, m.Platform.OS+"/"+m.Platform.Architecture)
		}
		if want := []string{"linux/amd64", "linux/arm64", "unknown/unknown"}; !slices.Equal(got, want) {
			t.Errorf("%s: %q", tag, got)
		}
		if of := doc.Manifests[2].Annotations["vnd.docker.reference.digest"]; of != doc.Manifests[1].Digest.String() {
			t.Errorf("%s: the attestation is of %s", tag, of)
		}
		index, err := d.ImageIndex()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range doc.Manifests { // all is there
			img, err := index.Image(v1.Hash{Algorithm: "sha256", Hex: m.Digest.Encoded()})
			if err != nil {
				t.Fatal(err)
			}
			layers, err := img.Layers()
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range layers {
				r, err := l.Compressed()
				if err != nil {
					t.Errorf("%s: %v", tag, err)
					continue
				}
				r.Close()
			}
		}
	}
}

// One index that gets another name stays what it is.
func TestMergeOfOneIndex(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Config{})
	ref := push(t, reg.Host+"/app", attested(t, "amd64"))
	client := registry.New(registry.Config{})
	x, err := merge.Read(t.Context(), client, []merge.Source{source(ref)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(ref, "@"+x.Descriptor.Digest.String()) {
		t.Errorf("it became %s", x.Descriptor.Digest)
	}
	if err := x.Push(t.Context(), client, []string{reg.Host + "/release:v1"}); err != nil {
		t.Fatal(err)
	}
	if d, _ := pull(t, reg.Host+"/release:v1"); d.Digest.String() != x.Descriptor.Digest.String() {
		t.Errorf("pushed %s", d.Digest)
	}
}

func TestMergeAgain(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Config{})
	client := registry.New(registry.Config{})
	repo := reg.Host + "/app"
	a, b := push(t, repo, image(t, "amd64")), push(t, repo, image(t, "arm64"))
	first, err := merge.Read(t.Context(), client, []merge.Source{source(a), source(b)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Push(t.Context(), client, []string{repo + ":v1"}); err != nil {
		t.Fatal(err)
	}
	again, err := merge.Read(t.Context(), client, []merge.Source{source(repo + ":v1"), source(b)}, nil)
	if err != nil || again.Descriptor.Digest != first.Descriptor.Digest {
		t.Errorf("an image that is named twice: %+v, %v", again, err)
	}
}

// A tag moves when all is stored, not before.
func TestPushMovesTagsLast(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Config{})
	client := registry.New(registry.Config{})
	repo := reg.Host + "/app"
	a := push(t, repo, image(t, "amd64"))
	x, err := merge.Read(t.Context(), client, []merge.Source{source(a)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = x.Push(t.Context(), registry.New(registry.Config{Attempts: 1}), []string{repo + ":v1", "127.0.0.1:1/app:v1"})
	if err == nil {
		t.Fatal("a registry that is down has taken an image")
	}
	r, err := name.ParseReference(repo + ":v1")
	if err != nil {
		t.Fatal(err)
	}
	if d, err := remote.Get(r); err == nil {
		t.Errorf("%s is %s", r, d.Digest)
	}
}

func TestReadRefuses(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Config{})
	repo := reg.Host + "/app"
	img := image(t, "amd64")
	a, b := push(t, repo, img), push(t, repo, image(t, "amd64"))
	artifact := push(t, repo, mutate.ConfigMediaType(img, "application/vnd.acme.config"))
	of := func(file, names string) merge.Source {
		s, err := merge.FromMetadata(file, []byte(`{"containerimage.digest": "`+a[strings.Index(a, "@")+1:]+`", "image.name": "`+names+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	gone := repo + "@sha256:" + strings.Repeat("0", 64)
	for _, tt := range []struct {
		name    string
		sources []merge.Source
		want    string
	}{
		{"two for one platform", []merge.Source{source(a), source(b)}, a + " and " + b + " both have an image for linux/amd64"},
		{"not there", []merge.Source{source(a), source(gone)}, gone},
		{"an artifact", []merge.Source{source(artifact)}, `an artifact of type "application/vnd.acme.config"`},
		{"different images", []merge.Source{of("a.json", repo), of("b.json", reg.Host+"/web,"+reg.Host+"/web2:v1")},
			"a.json is of " + repo + " and b.json of " + reg.Host + "/web, " + reg.Host + "/web2: these are different images"},
	} {
		_, err := merge.Read(t.Context(), registry.New(registry.Config{}), tt.sources, nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestFromMetadata(t *testing.T) {
	const dgst = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	for _, tt := range []struct{ data, want, hint string }{
		{`{"containerimage.digest": "` + dgst, "m.json is no metadata file: it is no JSON, or only a part of it", "--metadata-file"},
		{``, "only a part", "--metadata-file"},
		{`[]`, "m.json is no metadata file", "--metadata-file"},
		{`{"mayfly.steps": []}`, "m.json has no containerimage.digest", "--push"},
		{`{"mayfly.error": "step 3 failed"}`, "m.json is that of a build that failed: step 3 failed", ""},
		{`{"containerimage.digest": "` + dgst + `"}`, "m.json has no image.name", "push"},
		{`{"containerimage.digest": "latest", "image.name": "app"}`, `containerimage.digest is "latest"`, ""},
		{`{"containerimage.digest": "` + dgst + `", "image.name": "a b"}`, "m.json: image.name", ""},
	} {
		_, err := merge.FromMetadata("m.json", []byte(tt.data))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(hint.Of(err), tt.hint) {
			t.Errorf("%s: %v, hint %q", tt.data, err, hint.Of(err))
		}
	}
	s, err := merge.FromMetadata("m.json", []byte(`{"containerimage.digest": "`+dgst+`", "image.name": "app:v1,app:v2,ghcr.io/acme/app"}`))
	if want := []string{"docker.io/library/app@" + dgst, "ghcr.io/acme/app@" + dgst}; err != nil || !slices.Equal(s.Refs, want) {
		t.Errorf("%v, %v", s, err)
	}
}
