package image_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/tools/txtar"

	"github.com/mayfly-build/mayfly/engine/exporter/image"
)

// A vector is what BuildKit's exporter was given and what it made of it. In
// testdata/*.txtar the input is the files config and base (absent when there
// are none), cache (the inline cache) and input.json; the output is image.json,
// the config's exact bytes, and manifest.json. A newline ends each.
type vector struct {
	Config, Base, Cache []byte
	Input               input
	Image, Manifest     []byte
}

type input struct {
	Epoch       *time.Time        `json:",omitempty"`
	DockerTypes bool              `json:",omitempty"`
	Annotations map[string]string `json:",omitempty"`
	Layers      []layer
}

type layer struct {
	Desc        ocispec.Descriptor
	DiffID      digest.Digest
	Created     time.Time
	Description string
	RewrittenTo *time.Time `json:",omitempty"`
}

func (v *vector) files() []struct {
	name string
	data *[]byte
} {
	return []struct {
		name string
		data *[]byte
	}{{"config", &v.Config}, {"base", &v.Base}, {"cache", &v.Cache}, {"image.json", &v.Image}, {"manifest.json", &v.Manifest}}
}

func readVector(path string) (*vector, error) {
	a, err := txtar.ParseFile(path)
	if err != nil {
		return nil, err
	}
	v := &vector{}
	for _, f := range a.Files {
		data := bytes.TrimSuffix(f.Data, []byte("\n"))
		if f.Name == "input.json" {
			if err := json.Unmarshal(data, &v.Input); err != nil {
				return nil, err
			}
			continue
		}
		known := false
		for _, w := range v.files() {
			if w.name == f.Name {
				*w.data, known = data, true
			}
		}
		if !known {
			return nil, errors.New("unknown file " + f.Name)
		}
	}
	return v, nil
}

func (v *vector) build() (*image.Image, error) {
	in := image.Input{
		Config: v.Config, BaseConfig: v.Base, InlineCache: v.Cache,
		Epoch: v.Input.Epoch, DockerTypes: v.Input.DockerTypes, Annotations: v.Input.Annotations,
	}
	for _, l := range v.Input.Layers {
		in.Layers = append(in.Layers, image.Layer(l))
	}
	return image.Build(in)
}

func TestBuildEqualsBuildKit(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) < 15 {
		t.Fatalf("%d vectors, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			v, err := readVector(path)
			if err != nil {
				t.Fatal(err)
			}
			img, err := v.build()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(img.Config, v.Image) {
				t.Errorf("config\n%s\nBuildKit's is\n%s", img.Config, v.Image)
			}
			if !bytes.Equal(img.Manifest, v.Manifest) {
				t.Errorf("manifest\n%s\nBuildKit's is\n%s", img.Manifest, v.Manifest)
			}
			check := func(what string, got, want ocispec.Descriptor) {
				if got.Digest != want.Digest || got.Size != want.Size || got.MediaType != want.MediaType {
					t.Errorf("%s is described as %v, want %v", what, got, want)
				}
			}
			var m ocispec.Manifest
			if err := json.Unmarshal(v.Manifest, &m); err != nil {
				t.Fatal(err)
			}
			check("config", img.ConfigDesc, m.Config)
			check("manifest", img.ManifestDesc, ocispec.Descriptor{
				MediaType: m.MediaType, Digest: digest.FromBytes(v.Manifest), Size: int64(len(v.Manifest)),
			})
			if len(img.Layers) != len(m.Layers) {
				t.Fatalf("%d layers, want %d", len(img.Layers), len(m.Layers))
			}
			for i := range m.Layers {
				check("layer", img.Layers[i], m.Layers[i])
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	epoch := time.Unix(1, 0)
	for name, in := range map[string]image.Input{
		"not JSON":            {Config: []byte("{")},
		"null":                {Config: []byte("null")},
		"no os":               {Config: []byte(`{"architecture":"amd64"}`)},
		"no architecture":     {Config: []byte(`{"os":"linux"}`)},
		"history of a string": {Config: []byte(`{"os":"linux","architecture":"amd64","history":"x"}`)},
		"bad base":            {BaseConfig: []byte("{"), Epoch: &epoch},
		"no media type":       {Layers: []image.Layer{{}}, DockerTypes: true},
	} {
		t.Run(name, func(t *testing.T) {
			if img, err := image.Build(in); err == nil {
				t.Errorf("made %s", img.Config)
			}
		})
	}
}

// FuzzBuild: whatever config a frontend sends, the result is one that can be
// read, with the layers it was made of.
func FuzzBuild(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range paths {
		if v, err := readVector(p); err == nil {
			f.Add(v.Config, v.Base, int64(1700000000), len(v.Input.Layers))
		}
	}
	f.Fuzz(func(t *testing.T, config, base []byte, epoch int64, n int) {
		e := time.Unix(epoch, 0).UTC()
		in := image.Input{Config: config, BaseConfig: base, Epoch: &e}
		for range min(max(n, 0), 8) {
			in.Layers = append(in.Layers, image.Layer{
				Desc:   ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("x"), Size: 1},
				DiffID: digest.FromString("y"),
			})
		}
		img, err := image.Build(in)
		if err != nil {
			return
		}
		var got ocispec.Image
		if err := json.Unmarshal(img.Config, &got); err != nil {
			t.Fatalf("config %q: %v", img.Config, err)
		}
		if len(got.RootFS.DiffIDs) != len(in.Layers) {
			t.Errorf("%d diff IDs for %d layers", len(got.RootFS.DiffIDs), len(in.Layers))
		}
		said := 0
		for _, h := range got.History {
			if !h.EmptyLayer {
				said++
			}
		}
		if said != len(in.Layers) {
			t.Errorf("history says %d layers, there are %d", said, len(in.Layers))
		}
	})
}

func writeVector(path, comment string, v *vector) error {
	a := &txtar.Archive{Comment: []byte(comment)}
	in, err := json.MarshalIndent(v.Input, "", "  ")
	if err != nil {
		return err
	}
	a.Files = append(a.Files, txtar.File{Name: "input.json", Data: in})
	for _, f := range v.files() {
		if len(*f.data) > 0 {
			a.Files = append(a.Files, txtar.File{Name: f.name, Data: *f.data})
		}
	}
	for i := range a.Files {
		a.Files[i].Data = append(bytes.Clone(a.Files[i].Data), '\n')
	}
	return os.WriteFile(path, txtar.Format(a), 0o644)
}
