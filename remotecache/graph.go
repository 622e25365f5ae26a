package remotecache

import (
	"github.com/opencontainers/go-digest"
)

// A Graph finds records of an Index, from inputs to what has them as inputs.
// It does not change: all methods, and those of its Nodes, may be called from
// several goroutines at once.
type Graph struct {
	b *Builder
}

// NewGraph returns the Graph of idx. Records that are the same to a lookup are
// one Node; results with layers that are not Known, random records and what
// depends on them are left out. The error is ErrCorrupt when idx is not
// sound.
func NewGraph(idx *Index) (*Graph, error) {
	b := NewBuilder()
	if _, err := b.load(idx); err != nil {
		return nil, err
	}
	return &Graph{b: b}, nil
}

// load adds the records of idx and returns their Nodes by position.
func (b *Builder) load(idx *Index) ([]*Node, error) {
	if err := idx.Validate(); err != nil {
		return nil, err
	}
	order, err := idx.order()
	if err != nil {
		return nil, err
	}
	chains := b.loadLayers(idx.Layers)
	nodes := make([]*Node, len(idx.Records))
	for _, i := range order {
		r := idx.Records[i]
		inputs := make([][]Link, len(r.Inputs))
		for n, links := range r.Inputs {
			for _, l := range links {
				inputs[n] = append(inputs[n], Link{Node: nodes[l.Link], Selector: l.Selector})
			}
		}
		n := b.Add(r.Digest, inputs, nil)
		if n == nil {
			continue
		}
		nodes[i] = n
		for _, res := range r.Results {
			if top := chains[res.Layer]; top != nil {
				n.addResult(result{top: top, createdAt: res.CreatedAt})
			}
		}
		for _, ch := range r.Chains {
			var layers []Blob
			for _, l := range ch.Layers {
				layers = append(layers, idx.Layers[l].Blob)
			}
			if top := b.chain(layers); top != nil {
				n.addResult(result{top: top, createdAt: ch.CreatedAt})
			}
		}
	}
	return nodes, nil
}

// loadLayers returns the chain of each layer with its parents, nil where one
// of them is not known.
func (b *Builder) loadLayers(layers []Layer) []*chain {
	chains := make([]*chain, len(layers))
	done := make([]bool, len(layers))
	var path []int
	for i := range layers {
		path = path[:0]
		at := i
		for ; at != NoParent && !done[at]; at = layers[at].Parent {
			path = append(path, at)
		}
		for n := len(path) - 1; n >= 0; n-- {
			l := path[n]
			done[l] = true
			if p := layers[l].Parent; p == NoParent {
				chains[l] = b.push(nil, layers[l].Blob)
			} else if chains[p] != nil {
				chains[l] = b.push(chains[p], layers[l].Blob)
			}
		}
	}
	return chains
}

// Root returns the record dgst that has no inputs.
func (g *Graph) Root(dgst digest.Digest) (*Node, bool) {
	n, ok := g.b.roots[dgst]
	return n, ok
}

// Match returns the records dgst that have, for every input, at least one of
// its links, oldest in the Index first. The links' Nodes are of this Graph;
// nil ones are skipped. It looks at no more records than the links lead to.
// Records without inputs are found with Root instead.
func (g *Graph) Match(inputs [][]Link, dgst digest.Digest) []*Node {
	return match(inputs, dgst)
}

// Nodes returns all records, inputs before what they are inputs of unless
// records were merged.
func (g *Graph) Nodes() []*Node { return g.b.current() }

// current returns the Nodes that were not merged into others.
func (b *Builder) current() []*Node {
	var out []*Node
	for _, n := range b.nodes {
		if n.into == nil {
			out = append(out, n)
		}
	}
	return out
}
