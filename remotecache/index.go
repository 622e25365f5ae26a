package remotecache

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// An Index says which cache keys have which layers: BuildKit's cacheconfig v0
// in memory. Layers and Records refer to each other by position.
type Index struct {
	Layers  []Layer
	Records []Record
}

// A Layer is a blob on top of another one.
type Layer struct {
	Blob
	Parent int // position in Layers of the layer below; NoParent for none
}

// NoParent is the Parent of a layer at the bottom.
const NoParent = -1

// A Record is one cache key and what it leads to.
type Record struct {
	// Digest is OutputKey of the operation's digest. Keys that nothing can
	// match again begin with "random:".
	Digest digest.Digest

	// Inputs has, for each input of the operation, the records that name it;
	// any one of them suffices. A record without inputs is named by Digest
	// alone.
	Inputs [][]Input

	Results []Result // a layer with all below it
	Chains  []Chain  // layers named one by one
}

// An Input is a record that names an input of another one.
type Input struct {
	Selector string // which part of the input the key is about; "" for all
	Link     int    // position in Records
}

// A Result is what an operation made: a layer, with its parents.
type Result struct {
	Layer     int // position in Layers
	CreatedAt time.Time
}

// A Chain is a Result whose layers are listed, bottom first; their parents
// play no part.
type Chain struct {
	Layers    []int // positions in Layers
	CreatedAt time.Time
}

// OutputKey returns the digest a record has for output number index of an
// operation with digest dgst.
func OutputKey(dgst digest.Digest, index int) digest.Digest {
	return digest.FromString(fmt.Sprintf("%s@%d", dgst, index))
}

// IsRandom reports whether a key was made to match nothing, and so has no
// place in a cache.
func IsRandom(dgst digest.Digest) bool { return strings.HasPrefix(string(dgst), "random:") }

// Clone returns a copy that shares nothing with idx.
func (idx *Index) Clone() *Index {
	out := &Index{Layers: slices.Clone(idx.Layers), Records: slices.Clone(idx.Records)}
	for i := range out.Layers {
		out.Layers[i].Extra = maps.Clone(out.Layers[i].Extra)
	}
	for i := range out.Records {
		r := &out.Records[i]
		r.Results = slices.Clone(r.Results)
		r.Chains = slices.Clone(r.Chains)
		for j := range r.Chains {
			r.Chains[j].Layers = slices.Clone(r.Chains[j].Layers)
		}
		r.Inputs = slices.Clone(r.Inputs)
		for j := range r.Inputs {
			r.Inputs[j] = slices.Clone(r.Inputs[j])
		}
	}
	return out
}

// Blobs returns the blobs of the layers, each once, in the order of Layers.
func (idx *Index) Blobs() []Blob {
	seen := map[digest.Digest]bool{}
	var out []Blob
	for _, l := range idx.Layers {
		if !seen[l.Digest] {
			seen[l.Digest] = true
			out = append(out, l.Blob)
		}
	}
	return out
}

// Join returns an Index with the contents of all of them, as far as positions
// are concerned one after the other.
func Join(indexes ...*Index) *Index {
	out := &Index{}
	for _, idx := range indexes {
		layers, records := len(out.Layers), len(out.Records)
		c := idx.Clone()
		for _, l := range c.Layers {
			if l.Parent != NoParent {
				l.Parent += layers
			}
			out.Layers = append(out.Layers, l)
		}
		for _, r := range c.Records {
			for _, links := range r.Inputs {
				for i := range links {
					links[i].Link += records
				}
			}
			for i := range r.Results {
				r.Results[i].Layer += layers
			}
			for _, ch := range r.Chains {
				for i := range ch.Layers {
					ch.Layers[i] += layers
				}
			}
			out.Records = append(out.Records, r)
		}
	}
	return out
}
