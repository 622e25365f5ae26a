package remotecache_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/inline"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
)

// golden returns the files of a cache that BuildKit wrote; generate.sh beside
// them says how.
func golden(t testing.TB, name string) map[string][]byte {
	t.Helper()
	a, err := txtar.ParseFile(filepath.Join("testdata", "buildkit", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, f := range a.Files {
		files[f.Name] = bytes.TrimSuffix(f.Data, []byte("\n"))
	}
	return files
}

var caches = []struct {
	name            string
	form            manifest.Form
	layers, records int // that it takes to be worth a test
}{
	{"registry-max", manifest.Form{}, 10, 15},
	{"registry-min", manifest.Form{}, 5, 10},
	{"registry-index", manifest.Form{Index: true}, 10, 15},
	{"registry-docker", manifest.Form{Index: true, Docker: true}, 10, 15},
	{"registry-zstd", manifest.Form{}, 10, 15},
	{"local-max", manifest.Form{}, 10, 15},
}

func goldenIndex(t testing.TB, name string) *remotecache.Index {
	t.Helper()
	files := golden(t, name)
	p, err := manifest.Parse(files["manifest.json"])
	if err != nil {
		t.Fatal(err)
	}
	if !p.Cache {
		t.Fatal("not recognised as a cache")
	}
	if got := digest.FromBytes(files["config.json"]); got != p.Config.Digest {
		t.Fatalf("config is %s, the manifest says %s: the golden files do not belong together", got, p.Config.Digest)
	}
	idx, err := p.Index(files["config.json"])
	if err != nil {
		t.Fatal(err)
	}
	return idx
}

func TestBuildKitRoundTrip(t *testing.T) {
	for _, tt := range caches {
		t.Run(tt.name, func(t *testing.T) {
			files := golden(t, tt.name)
			idx := goldenIndex(t, tt.name)
			if len(idx.Layers) < tt.layers || len(idx.Records) < tt.records {
				t.Fatalf("%d layers, %d records", len(idx.Layers), len(idx.Records))
			}
			for _, l := range idx.Layers {
				if !l.Known() || l.DiffID == "" || l.CreatedAt.IsZero() || !strings.HasPrefix(l.MediaType, "application/vnd.oci.image.layer.v1.tar") {
					t.Errorf("incomplete layer %+v", l)
				}
			}
			enc, err := manifest.Encode(idx, tt.form)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "config", enc.ConfigData, files["config.json"])
			same(t, "manifest", enc.ManifestData, files["manifest.json"])

			// The annotated form has all facts in itself.
			data, err := idx.EncodeAnnotated()
			if err != nil {
				t.Fatal(err)
			}
			annotated, err := remotecache.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			enc, err = manifest.Encode(annotated, tt.form)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "manifest after annotated form", enc.ManifestData, files["manifest.json"])
		})
	}
}

func TestBuildKitThroughBuilder(t *testing.T) {
	for _, tt := range caches {
		t.Run(tt.name, func(t *testing.T) {
			idx := goldenIndex(t, tt.name)
			g, err := remotecache.NewGraph(idx)
			if err != nil {
				t.Fatal(err)
			}
			b := remotecache.NewBuilder()
			nodes := g.Nodes()
			slices.Reverse(nodes) // copies have to bring their inputs along
			for _, n := range nodes {
				b.Copy(n, true)
			}
			got := b.Index()
			equivalent(t, got, idx)
			data, err := got.Encode()
			if err != nil {
				t.Fatal(err)
			}
			same(t, "config", data, golden(t, tt.name)["config.json"])
		})
	}
}

// TestBuildKitLookup walks every record of a cache from the roots up, as a
// build does, and expects to find it with what it leads to.
func TestBuildKitLookup(t *testing.T) {
	for _, tt := range caches {
		t.Run(tt.name, func(t *testing.T) {
			idx := goldenIndex(t, tt.name)
			g, err := remotecache.NewGraph(idx)
			if err != nil {
				t.Fatal(err)
			}
			found := map[int]*remotecache.Node{}
			var find func(i int) *remotecache.Node
			find = func(i int) *remotecache.Node {
				if n := found[i]; n != nil {
					return n
				}
				r := idx.Records[i]
				if len(r.Inputs) == 0 {
					n, ok := g.Root(r.Digest)
					if !ok {
						t.Fatalf("record %d: no root %s", i, r.Digest)
					}
					found[i] = n
					return n
				}
				// Any one link of each input has to do; take the last.
				inputs := make([][]remotecache.Link, len(r.Inputs))
				for n, links := range r.Inputs {
					l := links[len(links)-1]
					inputs[n] = []remotecache.Link{{Node: find(l.Link), Selector: l.Selector}}
				}
				nodes := g.Match(inputs, r.Digest)
				if len(nodes) != 1 {
					t.Fatalf("record %d: %d matches", i, len(nodes))
				}
				if other := g.Match(inputs, digest.FromString("other")); len(other) != 0 {
					t.Fatalf("record %d: another digest matches too", i)
				}
				inputs[0][0].Selector += "x"
				if other := g.Match(inputs, r.Digest); len(other) != 0 {
					t.Fatalf("record %d: another selector matches too", i)
				}
				found[i] = nodes[0]
				return nodes[0]
			}
			for i, r := range idx.Records {
				n := find(i)
				if got := len(n.Results()); got != len(r.Results) {
					t.Errorf("record %d: %d results, want %d", i, got, len(r.Results))
				}
				for _, res := range n.Results() {
					if top := res.Layers[len(res.Layers)-1].Digest; top != idx.Layers[r.Results[0].Layer].Digest {
						t.Errorf("record %d: top layer %s", i, top)
					}
				}
			}
		})
	}
}

func TestBuildKitInline(t *testing.T) {
	for _, tt := range []struct{ name, n string }{{"inline", ""}, {"inline-multi", "0"}, {"inline-multi", "1"}} {
		t.Run(tt.name+tt.n, func(t *testing.T) {
			files := golden(t, tt.name)
			p, err := manifest.Parse(files["manifest"+tt.n+".json"])
			if err != nil {
				t.Fatal(err)
			}
			idx, err := inline.Decode(files["config"+tt.n+".json"], p.Layers)
			if err != nil {
				t.Fatal(err)
			}
			results := 0
			for _, r := range idx.Records {
				results += len(r.Results) + len(r.Chains)
			}
			if results == 0 {
				t.Fatal("no results")
			}
			for _, l := range idx.Layers {
				if l.DiffID == "" || l.CreatedAt.IsZero() || l.Description == "" {
					t.Errorf("incomplete layer %+v", l)
				}
			}
			// Encoded again, it is what it was.
			g, err := remotecache.NewGraph(idx)
			if err != nil {
				t.Fatal(err)
			}
			b := remotecache.NewBuilder()
			for _, n := range g.Nodes() {
				b.Copy(n, true)
			}
			var layers []inline.Layer
			for _, l := range idx.Layers {
				layers = append(layers, inline.Layer{Blob: l.Digest, DiffID: l.DiffID})
			}
			data, err := inline.Encode(b.Index(), layers)
			if err != nil {
				t.Fatal(err)
			}
			var img struct {
				Cache string `json:"moby.buildkit.cache.v0"`
			}
			if err := json.Unmarshal(files["config"+tt.n+".json"], &img); err != nil {
				t.Fatal(err)
			}
			want, err := base64.StdEncoding.DecodeString(img.Cache)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "records", data, want)
		})
	}
}

// equivalent compares what the indexes mean, whatever their order.
func equivalent(t *testing.T, got, want *remotecache.Index) {
	t.Helper()
	g, w := meaning(got), meaning(want)
	if !slices.Equal(g, w) {
		t.Errorf("the records are\n%s\nwant\n%s", strings.Join(g, "\n"), strings.Join(w, "\n"))
	}
}

// meaning spells every record out, with all it depends on and leads to.
func meaning(idx *remotecache.Index) []string {
	known := map[int]string{}
	var spell func(i int) string
	spell = func(i int) string {
		if s := known[i]; s != "" {
			return s
		}
		r := idx.Records[i]
		s := string(r.Digest)
		for _, links := range r.Inputs {
			var in []string
			for _, l := range links {
				in = append(in, digest.FromString(spell(l.Link)).Encoded()[:12]+"/"+l.Selector)
			}
			slices.Sort(in)
			s += fmt.Sprintf(" %v", in)
		}
		for _, res := range r.Results {
			s += " =" + res.CreatedAt.String()
			for l := res.Layer; l != remotecache.NoParent; l = idx.Layers[l].Parent {
				s += fmt.Sprintf(" %+v", idx.Layers[l].Descriptor())
			}
		}
		known[i] = s
		return s
	}
	var out []string
	for i := range idx.Records {
		out = append(out, spell(i))
	}
	slices.Sort(out)
	return out
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs:\n%s\nwant\n%s", what, got, want)
	}
}

func TestManifestForms(t *testing.T) {
	yes, no := true, false
	for _, tt := range []struct {
		image, oci *bool
		want       manifest.Form
		fails      bool
	}{
		{nil, nil, manifest.Form{}, false},
		{&yes, nil, manifest.Form{}, false},
		{&no, nil, manifest.Form{Index: true}, false},
		{nil, &no, manifest.Form{Index: true, Docker: true}, false},
		{&no, &no, manifest.Form{Index: true, Docker: true}, false},
		{&yes, &yes, manifest.Form{}, false},
		{&yes, &no, manifest.Form{Docker: true}, true},
	} {
		got, err := manifest.FormOf(tt.image, tt.oci)
		if got != tt.want || (err != nil) != tt.fails {
			t.Errorf("FormOf: %+v, %v, want %+v", got, err, tt.want)
		}
	}
}

func TestManifestThatIsNone(t *testing.T) {
	for _, doc := range []string{
		``, `[]`, `{}`, `"x"`, `<html>`, `{"mediaType":"text/html"}`,
		`{"mediaType":"` + ocispec.MediaTypeImageManifest + `"}`,
		`{"config":{"mediaType":"x","digest":"../../etc/passwd","size":1}}`,
		`{"config":{"mediaType":"x","digest":"sha256:00","size":1}}`,
		`{"manifests":[{"mediaType":"x","digest":"sha256:` + strings.Repeat("0", 64) + `","size":-1}]}`,
	} {
		if p, err := manifest.Parse([]byte(doc)); err == nil {
			t.Errorf("%s: parsed as %+v", doc, p)
		} else if !strings.Contains(err.Error(), remotecache.ErrCorrupt.Error()) {
			t.Errorf("%s: %v", doc, err)
		}
	}
}
