package remotecache_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
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

func TestBuilderMerges(t *testing.T) {
	b := remotecache.NewBuilder()
	def, content := b.Add(key("def"), nil, nil), b.Add(key("content"), nil, nil)
	if again := b.Add(key("def"), nil, nil); again != def {
		t.Error("an equal root is another Node")
	}
	byDef := b.Add(key("run"), [][]link{on(def)}, []remotecache.ResultLayers{made(1, "x")})
	byContent := b.Add(key("run"), [][]link{on(content)}, []remotecache.ResultLayers{made(2, "y")})
	afterDef := b.Add(key("then"), [][]link{on(byDef)}, nil)
	afterContent := b.Add(key("then"), [][]link{on(byContent)}, []remotecache.ResultLayers{made(3, "y", "z")})
	if got := len(b.Index().Records); got != 6 {
		t.Fatalf("%d records before they are known to be the same, want 6", got)
	}

	// Now both names of the input are seen together.
	both := b.Add(key("run"), [][]link{on(def, content)}, nil)
	if got := len(b.Index().Records); got != 4 {
		t.Fatalf("%d records, want 4: run and then are one each", got)
	}
	for _, n := range []*node{byDef, byContent, both} {
		if got := len(n.Results()); got != 2 {
			t.Errorf("%d results by a Node from before, want 2", got)
		}
		if got := n.Inputs(); len(got) != 1 || len(got[0]) != 2 {
			t.Errorf("inputs %v", got)
		}
	}
	if !afterDef.HasResults() || !afterContent.HasResults() {
		t.Error("what comes after is not the same")
	}
	// Nodes from before the merge still may be linked to.
	b.Add(key("last"), [][]link{on(byDef)}, nil)
	b.Add(key("last"), [][]link{on(byContent)}, nil)
	if got := len(b.Index().Records); got != 5 {
		t.Errorf("%d records, want 5", got)
	}
}

func TestBuilderDrops(t *testing.T) {
	b := remotecache.NewBuilder()
	if n := b.Add("random:abc", nil, []remotecache.ResultLayers{made(1, "x")}); n != nil {
		t.Error("a random record is added")
	}
	base := b.Add(key("base"), nil, nil)
	for _, inputs := range [][][]link{{nil}, {on(base), nil}, {on(nil)}, {on(base), on(nil, nil)}} {
		if n := b.Add(key("run"), inputs, nil); n != nil {
			t.Errorf("%v: a record with an input without a name is added", inputs)
		}
	}
	n := b.Add(key("run"), [][]link{on(nil, base)}, []remotecache.ResultLayers{
		{CreatedAt: epoch},
		{CreatedAt: epoch, Layers: []remotecache.Blob{{Digest: digest.FromString("unknown")}}},
	})
	if n == nil || n.HasResults() {
		t.Errorf("%+v: results without layers, or with unknown ones, do not count", n)
	}
	if idx := b.Index(); len(idx.Records) != 2 || len(idx.Layers) != 0 {
		t.Errorf("%+v", idx)
	}
}

// TestBuilderLoops: one step done twice in a row, where the second is thought
// to have the same input as the first.
func TestBuilderLoops(t *testing.T) {
	b := remotecache.NewBuilder()
	base := b.Add(key("base"), nil, nil)
	first := b.Add(key("run"), [][]link{on(base)}, nil)
	second := b.Add(key("run"), [][]link{on(first)}, nil)
	third := b.Add(key("run"), [][]link{on(second)}, nil)
	b.Add(key("run"), [][]link{on(base, first, second, third)}, []remotecache.ResultLayers{made(1, "x")})
	idx := b.Index()
	if err := idx.Validate(); err != nil {
		t.Fatal(err)
	}
	if len(idx.Records) != 4 {
		t.Errorf("%d records, want 4", len(idx.Records))
	}
	g := graph(t, idx)
	if got := g.Match([][]link{on(root(t, g, "base"))}, key("run")); len(got) != 1 || !got[0].HasResults() {
		t.Errorf("%v", got)
	}
}

func TestBuilderTakesNodesOfGraphs(t *testing.T) {
	from := remotecache.NewBuilder()
	base := from.Add(key("base"), nil, nil)
	alt := from.Add(key("alt"), nil, []remotecache.ResultLayers{made(1, "z")})
	from.Add(key("run"), [][]link{on(base, alt)}, []remotecache.ResultLayers{made(1, "x")})
	g := graph(t, from.Index())
	known := g.Match([][]link{on(root(t, g, "base"))}, key("run"))[0]

	b := remotecache.NewBuilder()
	if b.Copy(nil, true) != nil {
		t.Error("a copy of nothing")
	}
	mine := b.Add(key("run"), [][]link{on(b.Add(key("base"), nil, nil))}, []remotecache.ResultLayers{made(5, "y")})
	next := b.Add(key("next"), [][]link{on(known)}, nil)
	if got := next.Inputs()[0][0].Node.Digest(); got != key("run") {
		t.Errorf("next is on %s", got)
	}
	if got := len(mine.Inputs()[0]); got != 2 {
		t.Errorf("%d names of the input, want both", got)
	}
	if got := len(mine.Results()); got != 1 {
		t.Errorf("%d results, want 1: those of the graph were not asked for", got)
	}
	if again := b.Copy(known, true); len(again.Results()) != 2 {
		t.Errorf("%d results, want 2", len(again.Results()))
	}
	if b.Copy(mine, true) != mine {
		t.Error("a copy of one's own is another one")
	}
	equivalentAfter := b.Index()
	if got := len(equivalentAfter.Records); got != 4 {
		t.Errorf("%d records, want base, alt, run, next", got)
	}
}

// TestBuilderOrder adds the same random records in many orders.
func TestBuilderOrder(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		type record struct {
			digest  digest.Digest
			inputs  [][]int
			results []remotecache.ResultLayers
		}
		var recs []record
		for i := range 60 {
			r := record{digest: key(fmt.Sprint(i))}
			if i >= 6 {
				// Few digests on each level, so that many are the same; never
				// one that is below itself.
				level := i / 6
				r.digest = key(fmt.Sprint("level", level, rng.IntN(2)))
				for range 1 + rng.IntN(2) {
					var links []int
					for range 1 + rng.IntN(3) {
						links = append(links, rng.IntN(level*6))
					}
					r.inputs = append(r.inputs, links)
				}
			}
			if rng.IntN(2) == 0 {
				r.results = append(r.results, made(i, fmt.Sprint("l", rng.IntN(9)), fmt.Sprint("l", rng.IntN(9))))
			}
			recs = append(recs, r)
		}
		var want string
		for n := range 6 {
			b := remotecache.NewBuilder()
			nodes := make([]*node, len(recs))
			var add func(i int)
			add = func(i int) {
				if nodes[i] != nil {
					return
				}
				inputs := make([][]link, len(recs[i].inputs))
				for j, links := range recs[i].inputs {
					for _, l := range links {
						add(l)
						inputs[j] = append(inputs[j], on(nodes[l])...)
					}
					rng.Shuffle(len(inputs[j]), func(a, b int) { inputs[j][a], inputs[j][b] = inputs[j][b], inputs[j][a] })
				}
				nodes[i] = b.Add(recs[i].digest, inputs, recs[i].results)
			}
			for _, i := range rng.Perm(len(recs)) {
				add(i)
			}
			data, err := b.Index().EncodeAnnotated()
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				want = string(data)
			} else if string(data) != want {
				t.Fatalf("seed %d, order %d: the index is\n%s\nand was\n%s", seed, n, data, want)
			}
			// What was built is found again, and is not built anew by loading.
			g := graph(t, b.Index())
			if len(g.Nodes()) != len(b.Index().Records) {
				t.Errorf("seed %d: %d nodes of %d records", seed, len(g.Nodes()), len(b.Index().Records))
			}
		}
	}
}

// TestGraphLong loads records and layers that form a chain too long for
// recursion to be a good idea.
func TestGraphLong(t *testing.T) {
	const n = 50_000
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
	const n = 20_000
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

func TestValidate(t *testing.T) {
	d := digest.FromString("x")
	layer := func(parent int) remotecache.Layer { return remotecache.Layer{Blob: remotecache.Blob{Digest: d}, Parent: parent} }
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

// FuzzDecode: whatever is decoded can be loaded and, put in order, keeps its
// meaning.
func FuzzDecode(f *testing.F) {
	for _, c := range caches {
		idx := goldenIndex(f, c.name)
		data, err := idx.EncodeAnnotated()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(golden(f, c.name)["config.json"])
	}
	f.Add([]byte(`{"layers":[{"blob":"` + string(key("x")) + `"}],"records":[{"digest":"random:1"},{"inputs":[[{"link":0}]],"digest":"` + string(key("x")) + `"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		idx, err := remotecache.Decode(data)
		if err != nil {
			if !errors.Is(err, remotecache.ErrCorrupt) {
				t.Fatalf("%v is not ErrCorrupt", err)
			}
			return
		}
		g := graph(t, idx)
		b := remotecache.NewBuilder()
		for _, n := range g.Nodes() {
			b.Copy(n, true)
		}
		built := b.Index()
		first, err := built.EncodeAnnotated()
		if err != nil {
			t.Fatal(err)
		}
		again := remotecache.NewBuilder()
		for _, n := range graph(t, built).Nodes() {
			again.Copy(n, true)
		}
		second, err := again.Index().EncodeAnnotated()
		if err != nil {
			t.Fatal(err)
		}
		if string(first) != string(second) {
			t.Errorf("built anew, the index is\n%s\nand was\n%s", second, first)
		}
	})
}

// FuzzIndex makes an index of the bytes, which is how to get past JSON and
// digests: few of each, so that positions meet.
func FuzzIndex(f *testing.F) {
	f.Add([]byte{3, 0, 1, 2, 4, 0, 0, 1, 1, 0, 1, 0, 1, 1, 2, 1, 0})
	f.Add([]byte("one layer, some records, and then some more of them"))
	f.Fuzz(func(t *testing.T, data []byte) {
		next := func(n int) int {
			if len(data) == 0 {
				return 0
			}
			c := int(data[0]) % n
			data = data[1:]
			return c
		}
		idx := &remotecache.Index{}
		layers, records := next(8), 1+next(24)
		for range layers {
			l := remotecache.Layer{Blob: made(0, fmt.Sprint("l", next(5))).Layers[0], Parent: next(layers+2) - 1}
			if next(6) == 0 {
				l.Blob = remotecache.Blob{Digest: l.Digest}
			}
			idx.Layers = append(idx.Layers, l)
		}
		for i := range records {
			r := remotecache.Record{Digest: key(fmt.Sprint("r", next(5)))}
			if next(9) == 0 {
				r.Digest = "random:x"
			}
			for range next(4) {
				var links []remotecache.Input
				for range 1 + next(3) {
					links = append(links, remotecache.Input{Link: (i + 1 + next(records)) % (records + 1), Selector: []string{"", "s"}[next(2)]})
				}
				r.Inputs = append(r.Inputs, links)
			}
			if layers > 0 && next(2) == 0 {
				r.Results = append(r.Results, remotecache.Result{Layer: next(layers + 1), CreatedAt: epoch.Add(time.Duration(next(4)))})
			}
			if layers > 0 && next(3) == 0 {
				r.Chains = append(r.Chains, remotecache.Chain{Layers: []int{next(layers), next(layers)}, CreatedAt: epoch.Add(time.Duration(next(4)))})
			}
			idx.Records = append(idx.Records, r)
		}
		g, err := remotecache.NewGraph(idx)
		if (err != nil) != (idx.Validate() != nil) {
			t.Fatalf("NewGraph: %v, Validate: %v", err, idx.Validate())
		}
		if err != nil {
			return
		}
		checkGraph(t, g)
		b := remotecache.NewBuilder()
		for _, n := range g.Nodes() {
			b.Copy(n, true)
		}
		built := b.Index()
		if err := built.Validate(); err != nil {
			t.Fatal(err)
		}
		// Fewer are right where one step is on top of itself: which of these
		// are the same depends on the order they are met in.
		if len(built.Records) > len(g.Nodes()) {
			t.Errorf("%d records of %d nodes", len(built.Records), len(g.Nodes()))
		}
		for _, max := range []int{0, 3} {
			merged, err := remotecache.Merge(idx, built, remotecache.Limits{Now: epoch, MaxRecords: max})
			if err != nil {
				t.Fatal(err)
			}
			if len(merged.Records) > len(built.Records) {
				t.Errorf("merged with itself there are %d records of %d", len(merged.Records), len(built.Records))
			}
		}
		for _, l := range built.Layers {
			if err := built.Without(map[digest.Digest]bool{l.Digest: true}).Validate(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// checkGraph wants every record to be found by any one link of each input, and
// by its own inputs in all.
func checkGraph(t *testing.T, g *remotecache.Graph) {
	t.Helper()
	for _, n := range g.Nodes() {
		inputs := n.Inputs()
		if len(inputs) == 0 {
			if r, ok := g.Root(n.Digest()); !ok || r != n {
				t.Errorf("root %s is not found", n.Digest())
			}
			continue
		}
		if !slices.Contains(g.Match(inputs, n.Digest()), n) {
			t.Errorf("%s is not found by its inputs", n.Digest())
		}
		for _, pick := range []func([]link) link{func(l []link) link { return l[0] }, func(l []link) link { return l[len(l)-1] }} {
			one := make([][]link, len(inputs))
			for i, links := range inputs {
				one[i] = []link{pick(links)}
			}
			if !slices.Contains(g.Match(one, n.Digest()), n) {
				t.Errorf("%s is not found by one link of each input", n.Digest())
			}
		}
	}
}
