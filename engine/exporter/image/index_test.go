package image_test

import (
	"encoding/json"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/exporter/image"
)

func decode[T any](t *testing.T, data []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestBuildIndex(t *testing.T) {
	target := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("m"), Size: 1, Annotations: map[string]string{"d": "e"}}
	in := image.IndexInput{
		Entries:     []image.Entry{{Desc: target, Platform: ocispec.Platform{OS: "linux", Architecture: "arm64"}}},
		Annotations: map[string]string{"a": "b"},
	}
	for _, docker := range []bool{false, true} {
		in.DockerTypes = docker
		idx, err := image.BuildIndex(in)
		if err != nil {
			t.Fatal(err)
		}
		want := ocispec.MediaTypeImageIndex
		if docker {
			want = "application/vnd.docker.distribution.manifest.list.v2+json"
		}
		got := decode[ocispec.Index](t, idx.Data)
		if idx.Desc.MediaType != want || got.MediaType != want || idx.Desc.Digest != digest.FromBytes(idx.Data) || idx.Desc.Size != int64(len(idx.Data)) {
			t.Errorf("%+v: %s", idx.Desc, idx.Data)
		}
		if m := got.Manifests; len(m) != 1 || m[0].Platform.Architecture != "arm64" || m[0].Annotations["d"] != "e" || got.Annotations["a"] != "b" {
			t.Errorf("%s", idx.Data)
		}
	}
	if target.Platform != nil {
		t.Error("the caller's descriptor changed")
	}
}

func TestAttest(t *testing.T) {
	target := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("m"), Size: 1, Annotations: map[string]string{"d": "e"}}
	list := []image.Statement{
		image.NewStatement("https://slsa.dev/provenance/v1", []image.Subject{image.About("x", target.Digest)}, json.RawMessage(`{"a": 1}`)),
		image.NewStatement("https://spdx.dev/Document", nil, json.RawMessage(`{}`)),
	}
	for _, artifact := range []bool{true, false} {
		a, err := image.Attest(target, list, artifact)
		if err != nil {
			t.Fatal(err)
		}
		m := decode[ocispec.Manifest](t, a.Manifest.Data)
		if len(m.Layers) != 2 || len(a.Blobs) != 3 || a.Blobs[2].Desc.Digest != m.Config.Digest {
			t.Fatalf("%s", a.Manifest.Data)
		}
		for i, l := range m.Layers {
			if a.Blobs[i].Desc.Digest != l.Digest || digest.FromBytes(a.Blobs[i].Data) != l.Digest || l.Annotations["in-toto.io/predicate-type"] != list[i].PredicateType {
				t.Errorf("statement %d: %+v", i, l)
			}
		}
		if (m.Subject != nil) != artifact || (m.ArtifactType != "") != artifact || artifact && (m.Subject.Digest != target.Digest || m.Subject.Annotations != nil) {
			t.Errorf("artifact %v: %s", artifact, a.Manifest.Data)
		}
		if e := a.Entry(); e.Platform.OS != "unknown" || e.Desc.Annotations["vnd.docker.reference.digest"] != target.Digest.String() || e.Desc.Digest != digest.FromBytes(a.Manifest.Data) {
			t.Errorf("listed as %+v", e)
		}
		if !artifact {
			img := decode[ocispec.Image](t, a.Blobs[2].Data)
			if img.Architecture != "unknown" || len(img.RootFS.DiffIDs) != 2 || img.RootFS.DiffIDs[1] != m.Layers[1].Digest {
				t.Errorf("config %s", a.Blobs[2].Data)
			}
		}
	}
	if s := string(mustMarshal(t, list[1])); s != `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://spdx.dev/Document","subject":[],"predicate":{}}` {
		t.Error(s)
	}
	if _, err := image.Attest(target, []image.Statement{{Predicate: json.RawMessage("{")}}, true); err == nil {
		t.Error("half a predicate is one")
	}
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	dt, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return dt
}
