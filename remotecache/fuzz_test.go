package remotecache_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/remotecache"
)

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
