package solver

import (
	"errors"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/llb"
)

// A Trace is what is known of a vertex: what it was looked up by, and what
// came of it.
type Trace[R any] struct {
	Vertex *llb.Vertex
	Op     Op[R] // nil when it was not needed

	Map     cachekey.Map    // without a Digest when it was not needed
	Key     *Key            // of its first edge that has one, as complete as is known; nil for none
	Content []digest.Digest // per input: the record of the content that is read; "" when not taken

	Ran   bool  // to the end, without an error
	Fresh bool  // the user wanted it to run
	Known bool  // a cache has the key, without a result
	Lost  error // why the result that a cache promised was not used; nil when none was promised
}

// errUnusable stands for the error of a result that has blobs no longer.
var errUnusable = errors.New("a blob of it is lost")

// lose notes that a promised result cannot be had; the error that says most
// comes first, and stays.
func (n *node[R]) lose(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err == nil && n.lost == nil:
		n.lost = errUnusable
	case err != nil && (n.lost == nil || n.lost == errUnusable):
		n.lost = err
	}
}

// Traces returns the Trace of every vertex that was come by, inputs first. It
// waits for nothing and asks nobody: during a build it is what is known then.
func (s *Solver[R]) Traces() []Trace[R] {
	s.mu.Lock()
	nodes := slices.Clone(s.order)
	s.mu.Unlock()
	out := make([]Trace[R], len(nodes))
	for i, n := range nodes {
		out[i] = n.trace()
	}
	return out
}

// Trace returns the Trace of one vertex; ok is false when nobody came by it.
func (s *Solver[R]) Trace(v *llb.Vertex) (t Trace[R], ok bool) {
	s.mu.Lock()
	n, ok := s.nodes[v.Digest]
	s.mu.Unlock()
	if !ok {
		return t, false
	}
	return n.trace(), true
}

func (n *node[R]) trace() Trace[R] {
	t := Trace[R]{Vertex: n.v, Content: make([]digest.Digest, len(n.inputs))}
	t.Op, _ = n.op.Peek()
	t.Map, _ = n.cmap.Peek()
	_, t.Ran = n.ran.Peek()
	n.s.mu.Lock()
	t.Fresh = n.fresh
	var edges []*edge[R]
	for _, e := range n.edges {
		edges = append(edges, e)
	}
	n.s.mu.Unlock()
	slices.SortFunc(edges, func(a, b *edge[R]) int { return a.index - b.index })
	for _, e := range edges {
		k, known := e.peek()
		t.Known = t.Known || known
		if k != nil && t.Key == nil {
			t.Key = k
		}
	}
	n.mu.Lock()
	t.Lost = n.lost
	contents := n.contents
	n.mu.Unlock()
	for i := range t.Content {
		if t.Key != nil {
			for _, l := range t.Key.Inputs[i] {
				if l.Content {
					t.Content[i] = l.Key.Record
				}
			}
		}
		if contents != nil && t.Content[i] == "" {
			if d, ok := contents[i].Peek(); ok {
				t.Content[i] = cachekey.Output(d, -1)
			}
		}
	}
	return t
}

// peek returns the most complete key that the edge has so far, and whether a
// cache has it without a result.
func (e *edge[R]) peek() (k *Key, known bool) {
	p, ok := e.planned.Peek()
	if !ok {
		p, ok = e.byDef.Peek()
	}
	if ok {
		k, known = p.key, p.known && p.hit == nil
	}
	if r, ok := e.res.Peek(); ok && r.key != nil {
		k = r.key
	}
	if whole, ok := e.whole.Peek(); ok {
		k = whole
	}
	return k, known
}
