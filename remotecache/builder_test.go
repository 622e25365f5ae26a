package remotecache_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/remotecache"
)

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
