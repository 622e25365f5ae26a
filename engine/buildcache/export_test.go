package buildcache

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/remotecache"
)

func TestExportModes(t *testing.T) {
	j := newJob(t)
	// A stage that the result only reads from.
	tool := key("tool", by(j.base))
	stage := made(vertex("tool", vertex("base")), tool, j.file(nil, "tool", "t"))
	records := slices.Insert(slices.Clone(j.records), 2, stage)
	for _, c := range []struct {
		name string
		max  bool
		want []string
	}{
		{"max", true, []string{"tool", "copy", "run"}},
		{"min", false, []string{"copy", "run"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			idx, _ := export(t, Exporter{Records: records, Results: []llb.Edge{records[len(records)-1].Edge}, Max: c.max})
			if got := results(idx, "base", "tool", "copy", "run"); !slices.Equal(got, c.want) {
				t.Errorf("results of %q, want %q", got, c.want)
			}
			if !slices.ContainsFunc(idx.Records, func(r remotecache.Record) bool { return r.Digest == record("tool") }) {
				t.Error("the key of tool is missing")
			}
		})
	}
}

func TestExportOfNothing(t *testing.T) {
	idx, _ := export(t, Exporter{})
	if len(idx.Records)+len(idx.Layers) > 0 {
		t.Errorf("%+v, want nothing", idx)
	}
}

func TestExportDropsRandomKeys(t *testing.T) {
	j := newJob(t)
	k := key("read", by(random("context"))) // only this build can have it
	last := made(vertex("read", vertex("context")), k, j.file(nil, "f", "x"))
	idx, _ := export(t, Exporter{Records: append(j.records, last), Max: true})
	for _, r := range idx.Records {
		if cachekey.IsRandom(r.Digest) || r.Digest == k.Record {
			t.Errorf("record %s is exported", r.Digest)
		}
	}
	if got := results(idx, "copy", "run"); len(got) != 2 {
		t.Errorf("results of %q, want of copy, which has a name by content, and run", got)
	}
}

func TestExportHonoursTheVertex(t *testing.T) {
	j := newJob(t)
	j.records[2].Edge.Vertex.Metadata.ExportCache = &pb.ExportCache{Value: false}
	idx, _ := export(t, Exporter{Records: j.records, Max: true})
	if got := results(idx, "copy", "run"); !slices.Equal(got, []string{"run"}) {
		t.Errorf("results of %q, want of run alone", got)
	}
}

// What a cache lost is left out, and so is what stands on it.
func TestExportLeavesLostResultsOut(t *testing.T) {
	old, o := export(t, Exporter{Records: newJob(t).records, Max: true})
	copied := key("copy", by(key("base")), by(random("x"))).WithContent(1, contentRecord("files"))
	both, other := []string{"test", "other"}, []string{"other"}
	for name, c := range map[string]struct {
		zstd       bool // every blob, whatever it is
		gone       bool // the blobs of copy
		unloadable bool
		want       []string
	}{
		"all there":             {want: both},
		"recompressed":          {zstd: true, want: both},
		"gone":                  {gone: true, want: other}, // the layer of test is written against those below
		"gone and recompressed": {zstd: true, gone: true, want: other},
		"not loadable":          {unloadable: true, want: other},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, t.TempDir())
			r := NewRemote("remote", p.layers)
			from := &origin{blobs: o.blobs}
			if c.gone {
				from = &origin{}
			}
			if err := r.Loaded([]*remotecache.Index{old}, from); err != nil {
				t.Fatal(err)
			}
			m := r.Find(t.Context(), copied)
			if m.Hit == nil {
				t.Fatal("the import has no copy")
			}
			s, err := m.Hit.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			base, in := vertex("base"), vertex("copy", vertex("base"))
			cached := made(in, copied, s)
			test := made(vertex("test", in), key("test", by(copied)), p.file(s, "t", "t"))
			if c.unloadable {
				cached.Load = func(context.Context) (*layer.State, error) { return nil, layer.ErrLost }
				test.Load = cached.Load
			}
			config := compression.Config{}
			if c.zstd {
				config.Type = compression.Zstd
			}
			e := Exporter{Max: true, Compression: config, ForceCompression: c.zstd, Records: []solver.Record[*layer.State]{
				made(base, key("base"), nil), cached, test,
				made(vertex("other", base), key("other", by(key("base"))), p.file(nil, "o", "o")),
			}}
			idx, sources, err := e.Index(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := results(idx, "test", "other"); !slices.Equal(got, c.want) {
				t.Errorf("results of %q, want %q", got, c.want)
			}
			for _, b := range idx.Blobs() {
				if _, ok := sources[b.Digest]; !ok {
					t.Errorf("blob %s has no source", b.Digest)
				}
				if c.zstd && b.MediaType != config.Type.MediaType() {
					t.Errorf("blob of type %s, want %s", b.MediaType, config.Type.MediaType())
				}
			}
		})
	}
}

func TestExportEndsWithItsContext(t *testing.T) {
	j := newJob(t)
	why := errors.New("the deadline of exports")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	for i := range j.records {
		j.records[i].Load = func(ctx context.Context) (*layer.State, error) { return nil, context.Cause(ctx) }
	}
	if _, _, err := (&Exporter{Records: j.records, Max: true}).Index(ctx); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
}

// A key that an imported cache knows by more names keeps them: a build that
// has one of the others finds what this build exported.
func TestExportCarriesAlternativesOn(t *testing.T) {
	// The first build knows the tool by definition and content, the second by
	// another definition and the same content.
	p := open(t, t.TempDir())
	one := key("tool", by(key("source v1"))).WithContent(0, contentRecord("same"))
	idx1, o1 := export(t, Exporter{Max: true, Records: []solver.Record[*layer.State]{
		made(vertex("tool", vertex("source v1")), one, p.file(nil, "tool", "1")),
	}})
	r1 := imported(t, idx1, o1)
	two := key("tool", by(key("source v2"))).WithContent(0, contentRecord("same"))
	m := r1.Find(t.Context(), two)
	if m.Hit == nil {
		t.Fatal("not found by content")
	}
	in := vertex("tool", vertex("source v2"))
	use := key("use", by(two))
	for name, c := range map[string]struct {
		remotes []*Remote
		found   bool
	}{"with the import": {[]*Remote{r1}, true}, "without": {nil, false}} {
		t.Run(name, func(t *testing.T) {
			idx2, o2 := export(t, Exporter{Max: true, Remotes: c.remotes, Records: []solver.Record[*layer.State]{
				{Edge: made(in, two, nil).Edge, Key: m.Hit.Key, Cached: true, Load: m.Hit.Load},
				made(vertex("use", in), use, p.file(nil, "used", "2")),
			}})
			r2 := imported(t, idx2, o2)
			wantFound(t, r2, key("use", by(key("tool", by(key("source v2"))))), "used", "2")
			got := r2.Find(t.Context(), key("use", by(key("tool", by(key("source v1")))))).Hit != nil
			if got != c.found {
				t.Errorf("found through the imported name: %v, want %v", got, c.found)
			}
		})
	}
}
