package remotecache

import (
	"slices"

	"github.com/opencontainers/go-digest"
)

// A Builder makes an Index out of records, added inputs first. Records that
// are the same to a lookup become one: those with the same digest that, for
// every input, share a name. It is for one goroutine at a time.
type Builder struct {
	roots  map[digest.Digest]*Node
	nodes  []*Node         // in the order added, merged ones too
	links  map[linkOf]bool // what Node.link has done
	blobs  map[digest.Digest]*Blob
	chains map[chainStep]*chain

	// Of other owners' nodes and chains.
	copies      map[*Node]*Node
	chainCopies map[*chain]*chain
}

// A linkOf says that a Link names an input of a Node.
type linkOf struct {
	node  *Node
	input int
	Link
}

type chainStep struct {
	below  *chain
	digest digest.Digest
}

// NewBuilder returns an empty Builder.
func NewBuilder() *Builder {
	return &Builder{
		roots:  map[digest.Digest]*Node{},
		links:  map[linkOf]bool{},
		blobs:  map[digest.Digest]*Blob{},
		chains: map[chainStep]*chain{},
		copies: map[*Node]*Node{},

		chainCopies: map[*chain]*chain{},
	}
}

// Add adds a record with what it leads to, and returns the Node that other
// records link to; nil when the record has no place in a cache because its
// digest is random or because an input has no links (links whose Node is nil
// do not count). Nodes of a Graph or of another Builder may be linked to:
// they are copied, without results. Results without layers, or with blobs
// that are not Known, are left out, as are links that would close a loop.
func (b *Builder) Add(dgst digest.Digest, inputs [][]Link, results []ResultLayers) *Node {
	if IsRandom(dgst) {
		return nil
	}
	inputs = b.own(inputs)
	if slices.ContainsFunc(inputs, func(links []Link) bool { return len(links) == 0 }) {
		return nil
	}
	n := b.find(dgst, inputs)
	known := n != nil
	if !known {
		n = &Node{owner: b, digest: dgst}
		b.nodes = append(b.nodes, n)
		if len(inputs) == 0 {
			b.roots[dgst] = n
		}
	}
	more := false
	for i, links := range inputs {
		for _, l := range links {
			l.Node = l.Node.rep()
			if !b.links[linkOf{n, i, l}] && !n.leadsTo(l.Node) {
				n.link(i, l.Node, l.Selector)
				more = true
			}
		}
	}
	if known && more {
		b.unify(n)
	}
	b.AddResults(n, results...)
	return n.rep()
}

// AddResults adds to what a record leads to.
func (b *Builder) AddResults(n *Node, results ...ResultLayers) {
	n = n.rep()
	for _, r := range results {
		if top := b.chain(r.Layers); top != nil {
			n.addResult(result{top: top, createdAt: r.CreatedAt.UTC()})
		}
	}
}

func (n *Node) addResult(r result) {
	for _, old := range n.results {
		if old.top == r.top && old.createdAt.Equal(r.createdAt) {
			return
		}
	}
	n.results = append(n.results, r)
}

// Copy adds a record of a Graph or of another Builder with all the records it
// depends on, and returns its Node here, which is nil only for a nil n. With
// results set, what they lead to comes along.
func (b *Builder) Copy(n *Node, results bool) *Node {
	if n == nil {
		return nil
	}
	n = n.rep()
	if n.owner == b {
		return n
	}
	// Depth first without recursion: foreign records may form long chains.
	for stack := []*Node{n}; len(stack) > 0; {
		at := stack[len(stack)-1]
		if b.copies[at] != nil {
			stack = stack[:len(stack)-1]
			continue
		}
		ready := true
		inputs := at.Inputs()
		for _, links := range inputs {
			for i, l := range links {
				c := b.copies[l.Node]
				if c == nil {
					stack = append(stack, l.Node)
					ready = false
				}
				links[i].Node = c
			}
		}
		if !ready {
			continue
		}
		stack = stack[:len(stack)-1]
		b.copies[at] = b.Add(at.digest, inputs, nil)
	}
	if results {
		b.copyResults(n, map[*Node]bool{})
	}
	return b.copies[n].rep()
}

func (b *Builder) copyResults(n *Node, done map[*Node]bool) {
	for stack := []*Node{n}; len(stack) > 0; {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if done[at] {
			continue
		}
		done[at] = true
		for _, r := range at.results {
			b.copies[at].rep().addResult(result{top: b.copyChain(r.top), createdAt: r.createdAt})
		}
		for _, links := range at.Inputs() {
			for _, l := range links {
				stack = append(stack, l.Node)
			}
		}
	}
}

func (b *Builder) copyChain(c *chain) *chain {
	var path []*chain
	at := c
	for ; at != nil && b.chainCopies[at] == nil; at = at.below {
		path = append(path, at)
	}
	top := b.chainCopies[at] // nil at the bottom
	for _, c := range slices.Backward(path) {
		top = b.push(top, *c.blob)
		b.chainCopies[c] = top
	}
	return top
}

// own returns inputs with Nodes that are b's and current.
func (b *Builder) own(inputs [][]Link) [][]Link {
	out := make([][]Link, len(inputs))
	for i, links := range inputs {
		for _, l := range links {
			if l.Node = b.Copy(l.Node, false); l.Node != nil {
				out[i] = append(out[i], l)
			}
		}
	}
	return out
}

// find returns a record that one with these inputs would be the same as, nil
// when there is none.
func (b *Builder) find(dgst digest.Digest, inputs [][]Link) *Node {
	if len(inputs) == 0 {
		return b.roots[dgst]
	}
	if found := match(inputs, dgst); len(found) > 0 {
		return found[0]
	}
	return nil
}

// unify merges n with the records that are the same, now that it has more
// links than before, and then those that are the same because of that.
func (b *Builder) unify(n *Node) {
	for queue := []*Node{n}; len(queue) > 0; {
		n := queue[0].rep()
		queue = queue[1:]
		for _, same := range match(n.inputs, n.digest) {
			// One step that is done twice in a row gives two records of which
			// one is the other's input: they stay two.
			if same = same.rep(); same == n || n.leadsTo(same) || same.leadsTo(n) {
				continue
			}
			queue = append(queue, b.merge(n, same)...)
			queue = append(queue, n)
		}
	}
}

// merge makes main stand for n too, and returns the records that got other
// links by that. Neither leads to the other.
func (b *Builder) merge(main, n *Node) []*Node {
	for i, links := range n.inputs {
		for _, l := range links {
			main.link(i, l.Node.rep(), l.Selector)
		}
	}
	var moved []*Node
	for key, children := range n.children {
		for _, c := range children {
			c = c.rep()
			c.link(key.input, main, key.selector)
			moved = append(moved, c)
		}
	}
	for _, r := range n.results {
		main.addResult(r)
	}
	n.into, n.inputs, n.children, n.results = main, nil, nil, nil
	return moved
}

// chain returns the shared form of layers, nil when there is none or when a
// blob is not known.
func (b *Builder) chain(layers []Blob) *chain {
	var top *chain
	for _, l := range layers {
		if top = b.push(top, l); top == nil {
			return nil
		}
	}
	return top
}

// push returns the chain with blob on top of below.
func (b *Builder) push(below *chain, blob Blob) *chain {
	if !blob.Known() {
		return nil
	}
	shared := b.blobs[blob.Digest]
	switch {
	case shared == nil:
		shared = &blob
		b.blobs[blob.Digest] = shared
	case shared.DiffID == "" && blob.DiffID != "":
		*shared = blob
	}
	step := chainStep{below, blob.Digest}
	if c := b.chains[step]; c != nil {
		return c
	}
	c := &chain{below: below, blob: shared, depth: 1}
	if below != nil {
		c.depth += below.depth
	}
	b.chains[step] = c
	return c
}

// match returns the records dgst that have, for every input, one of its links;
// in the order they were linked. It starts from the input that leads to
// fewest.
func match(inputs [][]Link, dgst digest.Digest) []*Node {
	first, fewest := -1, 0
	for i, links := range inputs {
		n := 0
		for _, l := range links {
			if l.Node != nil {
				n += len(l.Node.rep().children[childKey{i, l.Selector, dgst}])
			}
		}
		if n == 0 {
			return nil
		}
		if first < 0 || n < fewest {
			first, fewest = i, n
		}
	}
	if first < 0 {
		return nil
	}
	var found []*Node
	seen := map[*Node]bool{}
	for _, l := range inputs[first] {
		if l.Node == nil {
			continue
		}
		for _, c := range l.Node.rep().children[childKey{first, l.Selector, dgst}] {
			if c = c.rep(); !seen[c] && c.hasInputs(inputs, first) {
				found = append(found, c)
			}
			seen[c] = true
		}
	}
	return found
}

// hasInputs reports whether n has one of the links for every input, where it
// is known that it has one for input except.
func (n *Node) hasInputs(inputs [][]Link, except int) bool {
	if len(n.inputs) != len(inputs) {
		return false
	}
	for i, links := range inputs {
		if i != except && !slices.ContainsFunc(links, func(l Link) bool {
			return l.Node != nil && n.owner.links[linkOf{n, i, Link{l.Node.rep(), l.Selector}}]
		}) {
			return false
		}
	}
	return true
}
