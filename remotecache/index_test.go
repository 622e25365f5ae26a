package remotecache_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

func TestValidate(t *testing.T) {
	d := digest.FromString("x")
	layer := func(parent int) remotecache.Layer {
		return remotecache.Layer{Blob: remotecache.Blob{Digest: d}, Parent: parent}
	}
	record := func(links ...int) remotecache.Record {
		r := remotecache.Record{Digest: d}
		for _, l := range links {
			r.Inputs = append(r.Inputs, []remotecache.Input{{Link: l}})
		}
		return r
	}
	for _, tt := range []struct {
		name string
		idx  remotecache.Index
	}{
		{"blob without digest", remotecache.Index{Layers: []remotecache.Layer{{Parent: -1}}}},
		{"blob with a path for a digest", remotecache.Index{Layers: []remotecache.Layer{{Blob: remotecache.Blob{Digest: "sha256:../../x"}, Parent: -1}}}},
		{"blob with a digest in capitals", remotecache.Index{Layers: []remotecache.Layer{{Blob: remotecache.Blob{Digest: digest.Digest("sha256:" + strings.Repeat("A", 64))}, Parent: -1}}}},
		{"blob with a digest too short", remotecache.Index{Layers: []remotecache.Layer{{Blob: remotecache.Blob{Digest: d[:70]}, Parent: -1}}}},
		{"diff ID", remotecache.Index{Layers: []remotecache.Layer{{Blob: remotecache.Blob{Digest: d, DiffID: "x"}, Parent: -1}}}},
		{"size", remotecache.Index{Layers: []remotecache.Layer{{Blob: remotecache.Blob{Digest: d, Size: -1}, Parent: -1}}}},
		{"parent beyond", remotecache.Index{Layers: []remotecache.Layer{layer(1)}}},
		{"parent below -1", remotecache.Index{Layers: []remotecache.Layer{layer(-2)}}},
		{"layer on itself", remotecache.Index{Layers: []remotecache.Layer{layer(0)}}},
		{"layers in a loop", remotecache.Index{Layers: []remotecache.Layer{layer(-1), layer(2), layer(3), layer(1)}}},
		{"record without digest", remotecache.Index{Records: []remotecache.Record{{}}}},
		{"link beyond", remotecache.Index{Records: []remotecache.Record{record(1)}}},
		{"link before", remotecache.Index{Records: []remotecache.Record{record(-1)}}},
		{"input without links", remotecache.Index{Records: []remotecache.Record{{Digest: d, Inputs: [][]remotecache.Input{{}}}}}},
		{"record on itself", remotecache.Index{Records: []remotecache.Record{record(0)}}},
		{"records in a loop", remotecache.Index{Records: []remotecache.Record{record(), record(0, 2), record(3), record(1)}}},
		{"result beyond", remotecache.Index{Records: []remotecache.Record{{Digest: d, Results: []remotecache.Result{{Layer: 0}}}}}},
		{"chain beyond", remotecache.Index{Layers: []remotecache.Layer{layer(-1)}, Records: []remotecache.Record{{Digest: d, Chains: []remotecache.Chain{{Layers: []int{0, 1}}}}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.idx.Validate(); !errors.Is(err, remotecache.ErrCorrupt) {
				t.Errorf("%v, want ErrCorrupt", err)
			}
			if _, err := tt.idx.Encode(); err == nil {
				t.Error("it is encoded all the same")
			}
		})
	}
	sound := remotecache.Index{
		Layers:  []remotecache.Layer{layer(2), layer(-1), layer(1)},
		Records: []remotecache.Record{record(2, 1), record(2), record(), {Digest: "random:x"}},
	}
	if err := sound.Validate(); err != nil {
		t.Error(err)
	}
}

func TestDecodeNone(t *testing.T) {
	for _, doc := range []string{``, `x`, `[]`, `{"layers":{}}`, `{"layers":[{"blob":"x","parent":-1}]}`, `{"records":[{"digest":"sha256:x"}]}`} {
		if idx, err := remotecache.Decode([]byte(doc)); !errors.Is(err, remotecache.ErrCorrupt) {
			t.Errorf("%s: %+v, %v", doc, idx, err)
		}
	}
}

// TestAttachmentsForBuildKit: each stored layer has a diff ID, without which
// BuildKit rejects an index as a whole.
func TestAttachmentsForBuildKit(t *testing.T) {
	desc, _ := remotecachetest.Blob(1, 10)
	idx := remotecachetest.IndexOf("x", desc)
	idx.Attach(remotecache.Blob{Digest: digest.FromString("note"), Size: 4, MediaType: remotecache.AttachmentPrefix + "note"})
	data, err := idx.EncodeAnnotated()
	if err != nil {
		t.Fatal(err)
	}
	if layers, ids := strings.Count(string(data), `"blob"`), strings.Count(string(data), `"diffID"`); layers != 2 || ids != layers {
		t.Errorf("%d diff IDs for %d layers in %s", ids, layers, data)
	}
}
