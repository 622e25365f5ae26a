package remotecache_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/remotecache"
)

type (
	node = remotecache.Node
	link = remotecache.Link
)

func key(s string) digest.Digest { return remotecache.OutputKey(digest.FromString(s), 0) }

func on(nodes ...*node) []link {
	var out []link
	for _, n := range nodes {
		out = append(out, link{Node: n})
	}
	return out
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// made is a result of layers with the given names, made some seconds after
// epoch.
func made(seconds int, layers ...string) remotecache.ResultLayers {
	r := remotecache.ResultLayers{CreatedAt: epoch.Add(time.Duration(seconds) * time.Second)}
	for _, l := range layers {
		r.Layers = append(r.Layers, remotecache.Blob{
			Digest: digest.FromString(l), Size: int64(len(l)), DiffID: digest.FromString("diff " + l),
			MediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
		})
	}
	return r
}

func graph(t testing.TB, idx *remotecache.Index) *remotecache.Graph {
	t.Helper()
	g, err := remotecache.NewGraph(idx)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func root(t testing.TB, g *remotecache.Graph, name string) *node {
	t.Helper()
	n, ok := g.Root(key(name))
	if !ok {
		t.Fatalf("no root %s", name)
	}
	return n
}

func tops(n *node) []string {
	var out []string
	for _, r := range n.Results() {
		s := ""
		for _, l := range r.Layers {
			s += string(l.Digest.Encoded()[:4]) + " "
		}
		out = append(out, s)
	}
	return out
}

func TestOutputKey(t *testing.T) {
	// The digest of the text "sha256:2c26…e7ae@3", as sha256sum gives it.
	op := digest.FromString("foo")
	if got, want := remotecache.OutputKey(op, 3), digest.FromBytes([]byte("sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae@3")); got != want {
		t.Errorf("OutputKey = %s, want %s", got, want)
	}
}

func TestMatch(t *testing.T) {
	b := remotecache.NewBuilder()
	base, other, ctx := b.Add(key("base"), nil, nil), b.Add(key("other"), nil, nil), b.Add(key("ctx"), nil, nil)
	b.Add(key("copy"), [][]link{on(base), {{Node: ctx, Selector: "/a"}}}, []remotecache.ResultLayers{made(1, "a")})
	b.Add(key("copy"), [][]link{on(base), {{Node: ctx, Selector: "/b"}}}, []remotecache.ResultLayers{made(1, "b")})
	b.Add(key("copy"), [][]link{on(other), {{Node: ctx, Selector: "/a"}}}, nil)
	b.Add(key("run"), [][]link{on(base)}, []remotecache.ResultLayers{made(1, "a"), made(3, "a", "c"), made(2, "b")})
	g := graph(t, b.Index())
	base, other, ctx = root(t, g, "base"), root(t, g, "other"), root(t, g, "ctx")

	sel := func(n *node, s string) link { return link{Node: n, Selector: s} }
	for _, tt := range []struct {
		name   string
		inputs [][]link
		record string
		want   int
	}{
		{"one", [][]link{on(base), {sel(ctx, "/a")}}, "copy", 1},
		{"alternatives", [][]link{on(base), {sel(ctx, "/a"), sel(ctx, "/b")}}, "copy", 2},
		{"crossed alternatives", [][]link{on(base, other), {sel(ctx, "/a"), sel(ctx, "/b")}}, "copy", 3},
		{"the same twice", [][]link{on(base, base), {sel(ctx, "/a"), sel(ctx, "/a")}}, "copy", 1},
		{"unknown selector", [][]link{on(base), {sel(ctx, "/c")}}, "copy", 0},
		{"no selector", [][]link{on(base), on(ctx)}, "copy", 0},
		{"not together", [][]link{on(other), {sel(ctx, "/b")}}, "copy", 0},
		{"inputs swapped", [][]link{{sel(ctx, "/a")}, on(base)}, "copy", 0},
		{"fewer inputs", [][]link{on(base)}, "copy", 0},
		{"more inputs", [][]link{on(base), {sel(ctx, "/a")}, on(base)}, "copy", 0},
		{"an input without links", [][]link{on(base), nil}, "copy", 0},
		{"links to nothing", [][]link{on(base), on(nil)}, "copy", 0},
		{"no inputs", nil, "copy", 0},
		{"a root has none", nil, "base", 0},
		{"another record", [][]link{on(base)}, "run", 1},
		{"unknown record", [][]link{on(base)}, "walk", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := g.Match(tt.inputs, key(tt.record))
			if len(got) != tt.want {
				t.Errorf("%d matches, want %d", len(got), tt.want)
			}
			for _, n := range got {
				if n.Digest() != key(tt.record) {
					t.Errorf("matches %s", n.Digest())
				}
			}
		})
	}
	if _, ok := g.Root(key("run")); ok {
		t.Error("a record with inputs is a root")
	}
}

func TestResultsNewestFirst(t *testing.T) {
	idx := &remotecache.Index{}
	for i, name := range []string{"a", "b", "c"} {
		l := remotecache.Layer{Blob: made(0, name).Layers[0], Parent: remotecache.NoParent}
		if i == 1 {
			l.Parent = 0
		}
		idx.Layers = append(idx.Layers, l)
	}
	idx.Layers = append(idx.Layers, remotecache.Layer{Blob: remotecache.Blob{Digest: digest.FromString("unknown")}, Parent: 0})
	idx.Layers = append(idx.Layers, remotecache.Layer{Blob: made(0, "d").Layers[0], Parent: 3})
	at := func(s int) time.Time { return epoch.Add(time.Duration(s) * time.Second) }
	idx.Records = []remotecache.Record{{
		Digest: key("r"),
		Results: []remotecache.Result{
			{Layer: 0, CreatedAt: at(1)}, {Layer: 1, CreatedAt: at(3)}, {Layer: 0, CreatedAt: at(9)},
			{Layer: 3, CreatedAt: at(10)}, {Layer: 4, CreatedAt: at(11)}, // lead to a layer nothing is known of
		},
		Chains: []remotecache.Chain{{Layers: []int{2, 0}, CreatedAt: at(5)}, {Layers: nil, CreatedAt: at(12)}},
	}}
	n := root(t, graph(t, idx), "r")
	id := func(s string) string { return digest.FromString(s).Encoded()[:4] + " " }
	if got, want := tops(n), []string{id("a"), id("c") + id("a"), id("a") + id("b")}; !slices.Equal(got, want) {
		t.Errorf("results %v, want %v", got, want)
	}
	if got := n.Results()[0].CreatedAt; !got.Equal(at(9)) {
		t.Errorf("the newest is of %v", got)
	}
}

// TestGraphLong loads records and layers that form a chain too long for
// recursion to be a good idea.
func TestGraphLong(t *testing.T) {
	const n = 20_000
	idx := &remotecache.Index{}
	for i := range n {
		idx.Layers = append(idx.Layers, remotecache.Layer{Blob: made(0, fmt.Sprint(i)).Layers[0], Parent: i + 1})
		idx.Records = append(idx.Records, remotecache.Record{
			Digest:  key(fmt.Sprint(i)),
			Inputs:  [][]remotecache.Input{{{Link: i + 1}}},
			Results: []remotecache.Result{{Layer: i, CreatedAt: epoch}},
		})
	}
	idx.Layers[n-1].Parent = remotecache.NoParent
	idx.Records[n-1].Inputs = nil
	g := graph(t, idx)
	at := root(t, g, fmt.Sprint(n-1))
	for i := n - 2; i >= 0; i-- {
		found := g.Match([][]link{on(at)}, key(fmt.Sprint(i)))
		if len(found) != 1 {
			t.Fatalf("record %d: %d matches", i, len(found))
		}
		at = found[0]
	}
	if got := at.Results()[0].Layers; len(got) != n || got[0].Digest != idx.Layers[n-1].Digest {
		t.Errorf("%d layers", len(got))
	}
	b := remotecache.NewBuilder()
	b.Copy(at, true)
	if got := b.Index(); len(got.Records) != n || len(got.Layers) != n {
		t.Errorf("%d records, %d layers", len(got.Records), len(got.Layers))
	}
}

// TestGraphWide loads records that share a link and differ in another.
func TestGraphWide(t *testing.T) {
	const n = 8_000
	idx := &remotecache.Index{Records: []remotecache.Record{{Digest: key("base")}}}
	for i := range n {
		idx.Records = append(idx.Records,
			remotecache.Record{Digest: key(fmt.Sprint("file", i))},
			remotecache.Record{Digest: key("copy"), Inputs: [][]remotecache.Input{{{Link: 0}}, {{Link: 2*i + 1}}}})
	}
	start := time.Now()
	g := graph(t, idx)
	for i := range n {
		if got := g.Match([][]link{on(root(t, g, "base")), on(root(t, g, fmt.Sprint("file", i)))}, key("copy")); len(got) != 1 {
			t.Fatalf("%d matches", len(got))
		}
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

// BenchmarkImport is what an import costs besides round trips: 2,000 steps in
// chains of 20, with as many layers.
func BenchmarkImport(b *testing.B) {
	built := remotecache.NewBuilder()
	for c := range 100 {
		n := built.Add(key(fmt.Sprint("base", c)), nil, nil)
		var layers []string
		for i := range 20 {
			layers = append(layers, fmt.Sprint("layer", c, "/", i))
			n = built.Add(key(fmt.Sprint("step", c, "/", i)), [][]link{on(n)}, []remotecache.ResultLayers{made(i, layers...)})
		}
	}
	data, err := built.Index().EncodeAnnotated()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		idx, err := remotecache.Decode(data)
		if err != nil {
			b.Fatal(err)
		}
		graph(b, idx)
	}
}
