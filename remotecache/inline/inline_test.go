package inline_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/inline"
)

func blob(name string) remotecache.Blob {
	return remotecache.Blob{
		Digest: digest.FromString(name), Size: 1, DiffID: digest.FromString("diff " + name),
		MediaType: ocispec.MediaTypeImageLayerGzip,
	}
}

func key(name string) digest.Digest { return remotecache.OutputKey(digest.FromString(name), 0) }

var made = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// step adds a record whose result is the layers.
func step(b *remotecache.Builder, name string, layers ...string) {
	r := remotecache.ResultLayers{CreatedAt: made}
	for _, l := range layers {
		r.Layers = append(r.Layers, blob(l))
	}
	b.Add(key(name), nil, []remotecache.ResultLayers{r})
}

// image returns the layers of an image, as Encode and a manifest have them.
func image(names ...string) (layers []inline.Layer, descs []ocispec.Descriptor, diffIDs []digest.Digest) {
	for _, n := range names {
		b := blob(n)
		layers = append(layers, inline.Layer{Blob: b.Digest, DiffID: b.DiffID})
		descs = append(descs, ocispec.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size})
		diffIDs = append(diffIDs, b.DiffID)
	}
	return layers, descs, diffIDs
}

func config(t *testing.T, diffIDs []digest.Digest, cache []byte) []byte {
	t.Helper()
	data, err := json.Marshal(map[string]any{
		"rootfs":     map[string]any{"diff_ids": diffIDs},
		"history":    []map[string]any{{"created": made, "created_by": "COPY a"}, {"empty_layer": true, "created_by": "CMD"}, {"created_by": "RUN b"}},
		inline.Field: cache,
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestEncode(t *testing.T) {
	b := remotecache.NewBuilder()
	step(b, "copy", "a")
	step(b, "run", "a", "b")
	step(b, "copy link", "c") // in the image, but not on what it is on there
	step(b, "other order", "b", "a")
	step(b, "not in it", "a", "x") // a layer the image has not
	step(b, "twice", "a", "b", "a")
	layers, descs, diffIDs := image("a", "b", "c", "a")
	data, err := inline.Encode(b.Index(), layers)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := inline.Decode(config(t, diffIDs, data), descs)
	if err != nil {
		t.Fatal(err)
	}
	g, err := remotecache.NewGraph(idx)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"copy": {"a"}, "run": {"a", "b"}, "copy link": {"c"}, "other order": {"b", "a"}, "not in it": nil, "twice": {"a", "b", "a"},
	} {
		n, ok := g.Root(key(name))
		if !ok {
			t.Errorf("%s: no record", name)
			continue
		}
		res := n.Results()
		if want == nil {
			if len(res) != 0 {
				t.Errorf("%s: %+v", name, res)
			}
			continue
		}
		if len(res) != 1 || len(res[0].Layers) != len(want) || !res[0].CreatedAt.Equal(made) {
			t.Errorf("%s: %+v", name, res)
			continue
		}
		for i, l := range res[0].Layers {
			if l.Digest != blob(want[i]).Digest || l.DiffID != blob(want[i]).DiffID {
				t.Errorf("%s: layer %d is %s", name, i, l.Digest)
			}
		}
	}
	for i, r := range idx.Records {
		if chained := r.Digest == key("copy link") || r.Digest == key("other order") || r.Digest == key("twice"); chained != (len(r.Chains) > 0) {
			t.Errorf("record %d: %+v", i, r)
		}
	}
	if l := idx.Layers[1]; l.Description != "RUN b" || !idx.Layers[0].CreatedAt.Equal(made) {
		t.Errorf("history is lost: %+v", l)
	}
}

// TestEncodeOtherCompression: the image's blobs are not those of the cache,
// but have the same diff IDs.
func TestEncodeOtherCompression(t *testing.T) {
	b := remotecache.NewBuilder()
	step(b, "run", "a", "b")
	step(b, "link", "b")
	layers, descs, diffIDs := image("a", "b")
	for i := range layers {
		layers[i].Blob = digest.FromString("zstd " + string(layers[i].DiffID))
		descs[i].Digest = layers[i].Blob
	}
	data, err := inline.Encode(b.Index(), layers)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := inline.Decode(config(t, diffIDs, data), descs)
	if err != nil {
		t.Fatal(err)
	}
	g, err := remotecache.NewGraph(idx)
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]int{"run": 2, "link": 1} {
		r, ok := g.Root(key(name))
		if !ok || len(r.Results()) != 1 || len(r.Results()[0].Layers) != n || r.Results()[0].Layers[n-1].Digest != layers[1].Blob {
			t.Errorf("%s: %+v", name, r.Results())
		}
	}
}

func TestEncodeNothing(t *testing.T) {
	b := remotecache.NewBuilder()
	step(b, "run", "x")
	layers, _, _ := image("a")
	for _, idx := range []*remotecache.Index{b.Index(), {}} {
		if data, err := inline.Encode(idx, layers); data != nil || err != nil {
			t.Errorf("%s, %v", data, err)
		}
	}
	if data, err := inline.Encode(b.Index(), nil); data != nil || err != nil {
		t.Errorf("an image without layers: %s, %v", data, err)
	}
}

func TestDecodeNone(t *testing.T) {
	_, descs, diffIDs := image("a", "b")
	cache := []byte(`[]`)
	for name, tt := range map[string]struct {
		config []byte
		want   error
	}{
		"no cache":         {[]byte(`{"rootfs":{}}`), inline.ErrNone},
		"no JSON":          {[]byte(`{`), remotecache.ErrCorrupt},
		"other layers":     {config(t, diffIDs[:1], cache), remotecache.ErrCorrupt},
		"cache no JSON":    {config(t, diffIDs, []byte(`{`)), remotecache.ErrCorrupt},
		"layer beyond":     {config(t, diffIDs, []byte(`[{"digest":"`+string(key("x"))+`","layers":[{"layer":2}]}]`)), remotecache.ErrCorrupt},
		"diff ID":          {config(t, []digest.Digest{"x", "y"}, cache), remotecache.ErrCorrupt},
		"cache of nothing": {config(t, diffIDs, cache), nil},
	} {
		if _, err := inline.Decode(tt.config, descs); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b := remotecache.NewBuilder()
	step(b, "run", "a", "b")
	step(b, "link", "b")
	layers, descs, _ := image("a", "b")
	data, err := inline.Encode(b.Index(), layers)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`[{"inputs":[[{"link":0}]]}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, diffIDs := image("a", "b")
		cfg, err := json.Marshal(map[string]any{"rootfs": map[string]any{"diff_ids": diffIDs}, inline.Field: data})
		if err != nil {
			t.Fatal(err)
		}
		idx, err := inline.Decode(cfg, descs)
		if err != nil {
			return
		}
		again, err := idx.EncodeRecords()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := remotecache.NewGraph(idx); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(again, nil) {
			t.Error("nothing is encoded")
		}
	})
}
