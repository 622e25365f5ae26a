package solver

import (
	"context"
	"sync"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/internal/memo"
)

// A node is a vertex being solved.
type node[R any] struct {
	s      *Solver[R]
	v      *llb.Vertex
	inputs []*edge[R]
	fresh  bool // the user wants it to run

	op   memo.Memo[Op[R]]
	cmap memo.Memo[cachekey.Map]
	ran  memo.Memo[[]R]

	mu       sync.Mutex
	edges    map[int]*edge[R]
	contents []*memo.Memo[digest.Digest] // per input
	noted    bool                        // told the observer that it is cached
	lost     error                       // why the result that a cache promised is not used
}

// An edge is one output of a node.
type edge[R any] struct {
	node  *node[R]
	index int

	byDef   memo.Memo[plan[R]]
	planned memo.Memo[plan[R]]
	res     memo.Memo[*result[R]]
	whole   memo.Memo[*Key]
}

func (e *edge[R]) llbEdge() llb.Edge { return llb.Edge{Vertex: e.node.v, Index: e.index} }

// A plan is what is known of an edge before it runs.
type plan[R any] struct {
	key   *Key
	known bool // by some cache
	hit   *Hit[R]
}

func (n *node[R]) edge(i int) *edge[R] {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	return n.edgeLocked(i)
}

func (n *node[R]) edgeLocked(i int) *edge[R] {
	e, ok := n.edges[i]
	if !ok {
		e = &edge[R]{node: n, index: i}
		n.edges[i] = e
	}
	return e
}

func (n *node[R]) getOp(ctx context.Context) (Op[R], error) {
	return n.op.Get(ctx, func(context.Context) (Op[R], error) { return n.s.cfg.Op(n.v) })
}

func (n *node[R]) getMap(ctx context.Context) (cachekey.Map, error) {
	return n.cmap.Get(ctx, func(ctx context.Context) (cachekey.Map, error) {
		op, err := n.getOp(ctx)
		if err != nil {
			return cachekey.Map{}, stepError(n.v, err)
		}
		if len(n.v.Inputs) > 0 {
			m, err := op.Map(ctx)
			return m, stepError(n.v, err)
		}
		// A source may ask the network what it stands for: that is work to show.
		octx := n.s.cfg.Observer.Begin(ctx, n.v)
		m, err := op.Map(octx)
		n.s.cfg.Observer.End(octx, n.v, err)
		return m, stepError(n.v, err)
	})
}

// content returns the digest of what the operation reads of input i.
func (n *node[R]) content(ctx context.Context, i int) (digest.Digest, error) {
	n.mu.Lock()
	if n.contents == nil {
		n.contents = make([]*memo.Memo[digest.Digest], len(n.inputs))
		for j := range n.contents {
			n.contents[j] = &memo.Memo[digest.Digest]{}
		}
	}
	done := n.contents[i]
	n.mu.Unlock()
	return done.Get(ctx, func(ctx context.Context) (digest.Digest, error) {
		op, err := n.getOp(ctx)
		if err != nil {
			return "", err
		}
		for {
			in, err := n.inputs[i].result(ctx)
			if err != nil {
				return "", err
			}
			d, err := op.Content(ctx, i, in)
			if n.s.lost(err) && n.s.ForgetLost(err) > 0 {
				continue
			}
			return d, stepError(n.v, err)
		}
	})
}

// find asks every cache.
func (e *edge[R]) find(ctx context.Context, k *Key) plan[R] {
	p := plan[R]{key: k}
	if e.node.fresh {
		return p
	}
	for _, c := range e.node.s.cfg.Caches {
		m := c.Find(ctx, k)
		p.known = p.known || m.Known
		if m.Hit != nil {
			p.hit, p.key = m.Hit, m.Hit.Key
			break
		}
	}
	return p
}

func (e *edge[R]) keyOf(m cachekey.Map, inputs []plan[R]) *Key {
	k := &Key{Record: cachekey.Output(m.Digest, e.index), Fresh: e.node.fresh, Inputs: make([][]Link, len(inputs))}
	for i, in := range inputs {
		k.Inputs[i] = []Link{{Selector: m.Inputs[i].Selector, Key: in.key}}
	}
	return k
}

// definition plans by definition alone.
func (e *edge[R]) definition(ctx context.Context) (plan[R], error) {
	return e.byDef.Get(ctx, func(ctx context.Context) (plan[R], error) {
		ins, err := planAll(ctx, e.node.inputs, (*edge[R]).definition)
		if err != nil {
			return plan[R]{}, err
		}
		m, err := e.node.getMap(ctx)
		if err != nil {
			return plan[R]{}, err
		}
		return e.find(ctx, e.keyOf(m, ins)), nil
	})
}

// plan plans by definition and, where that is unknown to every cache, by
// content. It runs nothing but the inputs whose content it needs.
func (e *edge[R]) plan(ctx context.Context) (plan[R], error) {
	return e.planned.Get(ctx, func(ctx context.Context) (plan[R], error) {
		p, err := e.definition(ctx)
		if err != nil || p.known || len(e.node.inputs) == 0 {
			return p, err
		}
		m, err := e.node.getMap(ctx)
		if err != nil {
			return p, err
		}
		if e.node.fresh || !e.anyKnows(p.key.Record) {
			return p, nil
		}
		ins, err := planAll(ctx, e.node.inputs, (*edge[R]).plan)
		if err != nil {
			return p, err
		}
		p = e.find(ctx, e.keyOf(m, ins))
		if p.known {
			return p, nil
		}
		return e.planByContent(ctx, m, ins, p)
	})
}

// planByContent takes the content of inputs that no cache knows, then of the
// rest, until a cache knows the key.
func (e *edge[R]) planByContent(ctx context.Context, m cachekey.Map, ins []plan[R], p plan[R]) (plan[R], error) {
	for _, unknown := range []bool{true, false} {
		var which []int
		for i := range ins {
			if m.Inputs[i].ByContent && !ins[i].known == unknown {
				which = append(which, i)
			} else if unknown && !ins[i].known && !m.Inputs[i].ByContent {
				return p, nil // can be known to no cache, whatever the content
			}
		}
		if len(which) == 0 {
			continue
		}
		k, err := e.withContent(ctx, p.key, which)
		if err != nil {
			return p, err
		}
		if p = e.find(ctx, k); p.known {
			break
		}
	}
	return p, nil
}

// withContent returns k with the inputs named by content too.
func (e *edge[R]) withContent(ctx context.Context, k *Key, which []int) (*Key, error) {
	digests := make([]digest.Digest, len(which))
	g, gctx := errgroup.WithContext(ctx)
	for j, i := range which {
		g.Go(func() (err error) {
			digests[j], err = e.node.content(gctx, i)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	k = k.clone()
	for j, i := range which {
		k.Inputs[i] = append(k.Inputs[i], contentLink(digests[j]))
	}
	return k, nil
}

func (e *edge[R]) anyKnows(record digest.Digest) bool {
	for _, c := range e.node.s.cfg.Caches {
		if c.Knows(record) {
			return true
		}
	}
	return false
}

func planAll[R any](ctx context.Context, edges []*edge[R], f func(*edge[R], context.Context) (plan[R], error)) ([]plan[R], error) {
	out := make([]plan[R], len(edges))
	if len(edges) == 1 {
		var err error
		out[0], err = f(edges[0], ctx)
		return out, err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, e := range edges {
		g.Go(func() (err error) {
			out[i], err = f(e, ctx)
			return err
		})
	}
	return out, g.Wait()
}
