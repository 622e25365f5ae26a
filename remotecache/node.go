package remotecache

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Node is a record of a Graph or Builder. Its pointer is its identity: two
// records that are the same to a lookup are one Node.
type Node struct {
	owner    *Builder
	digest   digest.Digest
	inputs   [][]Link // each link once; the Node may since have been merged
	results  []result
	children map[childKey][]*Node // what has this as an input; may since have been merged
	into     *Node                // the Node that took this one's place
}

// A childKey is how a record is found from one of its inputs.
type childKey struct {
	input    int
	selector string
	digest   digest.Digest // of the record that is looked for
}

// A Link names an input of a record.
type Link struct {
	Node     *Node
	Selector string // which part of the input the key is about; "" for all
}

// ResultLayers is what an operation made, as layers.
type ResultLayers struct {
	Layers    []Blob // bottom first
	CreatedAt time.Time
}

// result is a ResultLayers with the layers shared.
type result struct {
	top       *chain
	createdAt time.Time
}

// A chain is a blob on top of others. In one Builder, equal chains are one.
type chain struct {
	below *chain
	blob  *Blob
	depth int // blobs in all
}

func (c *chain) blobs() []Blob {
	out := make([]Blob, c.depth)
	for ; c != nil; c = c.below {
		out[c.depth-1] = *c.blob
	}
	return out
}

// rep returns the Node that stands for n now.
func (n *Node) rep() *Node {
	for n.into != nil {
		n = n.into
	}
	return n
}

// Digest returns the record's digest: OutputKey of its operation.
func (n *Node) Digest() digest.Digest { return n.digest }

// Inputs returns what names each of the record's inputs; nothing for a record
// that its digest alone names.
func (n *Node) Inputs() [][]Link {
	n = n.rep()
	out := make([][]Link, len(n.inputs))
	for i, links := range n.inputs {
		seen := make(map[Link]bool, len(links))
		for _, l := range links {
			if l.Node = l.Node.rep(); !seen[l] {
				seen[l] = true
				out[i] = append(out[i], l)
			}
		}
	}
	return out
}

// Results returns what the record leads to, newest first, each list of layers
// once.
func (n *Node) Results() []ResultLayers {
	var out []ResultLayers
	seen := map[*chain]bool{}
	for _, r := range n.rep().newestFirst() {
		if !seen[r.top] {
			seen[r.top] = true
			out = append(out, ResultLayers{Layers: r.top.blobs(), CreatedAt: r.createdAt})
		}
	}
	return out
}

// HasResults reports whether the record leads to anything by itself.
func (n *Node) HasResults() bool { return len(n.rep().results) > 0 }

func (n *Node) newestFirst() []result {
	return slices.SortedStableFunc(slices.Values(n.results), func(a, b result) int {
		return b.createdAt.Compare(a.createdAt)
	})
}

// leadsTo reports whether to is n or has n among its inputs' inputs.
func (n *Node) leadsTo(to *Node) bool {
	if n == to {
		return true
	}
	if len(n.children) == 0 {
		return false
	}
	seen := map[*Node]bool{to: true}
	for queue := []*Node{to}; len(queue) > 0; {
		at := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, links := range at.inputs {
			for _, l := range links {
				in := l.Node.rep()
				if in == n {
					return true
				}
				if !seen[in] {
					seen[in] = true
					queue = append(queue, in)
				}
			}
		}
	}
	return false
}

// link makes src, with the selector, name input i of n.
func (n *Node) link(i int, src *Node, selector string) {
	l := Link{Node: src, Selector: selector}
	at := linkOf{n, i, l}
	if n.owner.links[at] {
		return
	}
	n.owner.links[at] = true
	key := childKey{input: i, selector: selector, digest: n.digest}
	if src.children == nil {
		src.children = map[childKey][]*Node{}
	}
	src.children[key] = append(src.children[key], n)
	for len(n.inputs) <= i {
		n.inputs = append(n.inputs, nil)
	}
	n.inputs[i] = append(n.inputs[i], l)
}
