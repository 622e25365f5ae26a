package remotecache

import (
	"slices"

	"github.com/opencontainers/go-digest"
)

// Without returns idx without the results that need one of the blobs.
func (idx *Index) Without(blobs map[digest.Digest]bool) *Index {
	out := idx.Clone()
	if len(blobs) == 0 {
		return out
	}
	out.Attachments = slices.DeleteFunc(out.Attachments, func(b Blob) bool { return blobs[b.Digest] })
	at := idx.positionsWithout(blobs)
	out.Layers = out.Layers[:0]
	for i, l := range idx.Clone().Layers {
		if at[i] < 0 {
			continue
		}
		if l.Parent != NoParent {
			l.Parent = at[l.Parent]
		}
		out.Layers = append(out.Layers, l)
	}
	for i := range out.Records {
		r := &out.Records[i]
		r.Results = slices.DeleteFunc(r.Results, func(res Result) bool { return at[res.Layer] < 0 })
		for j := range r.Results {
			r.Results[j].Layer = at[r.Results[j].Layer]
		}
		r.Chains = slices.DeleteFunc(r.Chains, func(c Chain) bool {
			return slices.ContainsFunc(c.Layers, func(l int) bool { return at[l] < 0 })
		})
		for _, c := range r.Chains {
			for j := range c.Layers {
				c.Layers[j] = at[c.Layers[j]]
			}
		}
	}
	return out
}

// positionsWithout returns where each layer goes once the layers with the
// blobs, and those on top of them, are gone; -1 for those.
func (idx *Index) positionsWithout(blobs map[digest.Digest]bool) []int {
	const unseen, gone, stays = 0, 1, 2
	state := make([]byte, len(idx.Layers))
	var path []int
	for i := range idx.Layers {
		path = path[:0]
		at := i
		for ; at != NoParent && state[at] == unseen; at = idx.Layers[at].Parent {
			path = append(path, at)
		}
		below := at == NoParent || state[at] == stays
		for _, l := range slices.Backward(path) {
			below = below && !blobs[idx.Layers[l].Digest]
			state[l] = gone
			if below {
				state[l] = stays
			}
		}
	}
	pos, n := make([]int, len(state)), 0
	for i, s := range state {
		pos[i] = -1
		if s == stays {
			pos[i] = n
			n++
		}
	}
	return pos
}
