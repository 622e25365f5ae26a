package remotecache

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Index returns the records added so far, each with the newest of its
// results. Equal records in any order give the same Index, whose order is the
// one BuildKit puts a config in.
func (b *Builder) Index() *Index { return b.assemble(b.current(), nil) }

// assemble makes an Index of some of the Nodes: links to others are left out.
// pick chooses the result of a Node; nil means the newest.
func (b *Builder) assemble(nodes []*Node, pick func(*Node) (result, bool)) *Index {
	if pick == nil {
		pick = newest
	}
	recs := make([]*placed, 0, len(nodes))
	of := make(map[*Node]*placed, len(nodes))
	tops := map[*chain]bool{}
	for _, n := range nodes {
		p := &placed{node: n}
		recs = append(recs, p)
		of[n] = p
		if r, ok := pick(n); ok {
			p.result = &r
			for c := r.top; c != nil && !tops[c]; c = c.below {
				tops[c] = true
			}
		}
	}
	for _, p := range recs {
		p.inputs = make([][]placedLink, len(p.node.inputs))
		for i, links := range p.node.Inputs() {
			for _, l := range links {
				if src := of[l.Node]; src != nil {
					p.inputs[i] = append(p.inputs[i], placedLink{src, l.Selector})
				}
			}
		}
	}
	identify(recs)
	slices.SortFunc(recs, (*placed).compare)
	for i, p := range recs {
		p.at = i
	}

	layers := sortedChains(tops)
	out := &Index{}
	at := make(map[*chain]int, len(layers))
	for i, c := range layers {
		at[c] = i
	}
	for _, c := range layers {
		l := Layer{Blob: *c.blob, Parent: NoParent}
		if c.below != nil {
			l.Parent = at[c.below]
		}
		out.Layers = append(out.Layers, l)
	}
	for _, p := range recs {
		r := Record{Digest: p.node.digest}
		for _, links := range p.inputs {
			ins := make([]Input, len(links))
			for i, l := range links {
				ins[i] = Input{Selector: l.selector, Link: l.src.at}
			}
			slices.SortFunc(ins, func(a, b Input) int {
				return cmp.Or(cmp.Compare(a.Link, b.Link), strings.Compare(a.Selector, b.Selector))
			})
			r.Inputs = append(r.Inputs, ins)
		}
		if p.result != nil {
			r.Results = []Result{{Layer: at[p.result.top], CreatedAt: p.result.createdAt}}
		}
		out.Records = append(out.Records, r)
	}
	return out
}

// newest returns the newest result; of several, the one with the least
// digests.
func newest(n *Node) (best result, ok bool) {
	for _, r := range n.results {
		c := r.createdAt.Compare(best.createdAt)
		if !ok || c > 0 || c == 0 && slices.CompareFunc(r.top.blobs(), best.top.blobs(), compareBlobs) < 0 {
			best, ok = r, true
		}
	}
	return best, ok
}

func compareBlobs(a, b Blob) int { return strings.Compare(string(a.Digest), string(b.Digest)) }

// A placed is a Node on its way into an Index.
type placed struct {
	node   *Node
	inputs [][]placedLink
	result *result
	id     string // made of the digests and selectors of all it depends on
	at     int    // position
}

type placedLink struct {
	src      *placed
	selector string
}

// identify sets the id of each Node, that of its inputs first, and puts the
// links in order.
func identify(recs []*placed) {
	for _, p := range recs {
		for stack := []*placed{p}; len(stack) > 0; {
			at := stack[len(stack)-1]
			open := 0
			if at.id == "" {
				for _, links := range at.inputs {
					for _, l := range links {
						if l.src.id == "" {
							stack = append(stack, l.src)
							open++
						}
					}
				}
			}
			if open > 0 {
				continue
			}
			stack = stack[:len(stack)-1]
			if at.id == "" {
				at.identify()
			}
		}
	}
}

func (p *placed) identify() {
	h := sha256.New()
	h.Write([]byte(p.node.digest))
	for _, links := range p.inputs {
		slices.SortFunc(links, func(a, b placedLink) int {
			return cmp.Or(strings.Compare(a.selector, b.selector),
				strings.Compare(string(a.src.node.digest), string(b.src.node.digest)),
				strings.Compare(a.src.id, b.src.id))
		})
		h.Write([]byte{1})
		for _, l := range links {
			h.Write([]byte(l.src.id))
			h.Write([]byte(l.selector))
			h.Write([]byte{0})
		}
	}
	p.id = string(h.Sum(nil))
}

// compare orders records as BuildKit does: by digest, then by how many
// inputs and links they have, then by selectors and digests of the links.
func (p *placed) compare(q *placed) int {
	c := cmp.Or(strings.Compare(string(p.node.digest), string(q.node.digest)), cmp.Compare(len(p.inputs), len(q.inputs)))
	if c != 0 {
		return c
	}
	for i := range p.inputs {
		a, b := p.inputs[i], q.inputs[i]
		if c := cmp.Compare(len(a), len(b)); c != 0 {
			return c
		}
		for j := range a {
			c := cmp.Or(strings.Compare(a[j].selector, b[j].selector),
				strings.Compare(string(a[j].src.node.digest), string(b[j].src.node.digest)))
			if c != 0 {
				return c
			}
		}
	}
	return strings.Compare(p.id, q.id)
}

// sortedChains returns the chains by digest of their top; those on nothing
// first, then by what they are on.
func sortedChains(set map[*chain]bool) []*chain {
	ids := make(map[*chain]digest.Digest, len(set))
	for c := range set {
		var path []*chain
		for ; c != nil && ids[c] == ""; c = c.below {
			path = append(path, c)
		}
		for _, c := range slices.Backward(path) {
			ids[c] = digest.FromString(string(ids[c.below]) + string(c.blob.Digest))
		}
	}
	out := make([]*chain, 0, len(set))
	for c := range set {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *chain) int {
		return cmp.Or(strings.Compare(string(a.blob.Digest), string(b.blob.Digest)),
			cmp.Compare(a.depth, b.depth), strings.Compare(string(ids[a]), string(ids[b])))
	})
	return out
}
