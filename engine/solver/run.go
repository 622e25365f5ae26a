package solver

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/engine/cachekey"
)

// A result is an edge's result and how it came about.
type result[R any] struct {
	value R
	made  bool // by running
	at    time.Time
	key   *Key // of the hit; nil when made
}

func (e *edge[R]) result(ctx context.Context) (R, error) {
	r, err := e.res.Get(ctx, e.solve)
	if err != nil {
		var zero R
		return zero, err
	}
	return r.value, nil
}

func (e *edge[R]) solve(ctx context.Context) (*result[R], error) {
	p, err := e.plan(ctx)
	if err != nil {
		return nil, err
	}
	if p.known && p.hit == nil {
		// Known without a result: content may lead to one, and running needs
		// the inputs anyway.
		if p, err = e.planFully(ctx, p); err != nil {
			return nil, err
		}
	}
	if p.hit != nil {
		v, err := p.hit.Load(ctx)
		switch {
		case err == nil && e.node.s.usable(v):
			e.node.markCached()
			return &result[R]{value: v, key: p.hit.Key}, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			e.node.s.cfg.Observer.Warn(e.node.v, fmt.Errorf("cache %s: %w; the step runs again", p.hit.Cache, err))
		}
		e.node.lose(err)
	}
	outs, err := e.node.run(ctx)
	if err != nil {
		return nil, err
	}
	if e.index >= len(outs) {
		return nil, stepError(e.node.v, fmt.Errorf("has %d outputs, output %d is asked for", len(outs), e.index))
	}
	r := &result[R]{value: outs[e.index], made: true, at: time.Now()}
	e.save(ctx, r.value)
	return r, nil
}

func (e *edge[R]) planFully(ctx context.Context, p plan[R]) (plan[R], error) {
	m, err := e.node.getMap(ctx)
	if err != nil {
		return p, err
	}
	k, err := e.contentOfRest(ctx, m, p.key)
	if err != nil || k == p.key {
		return p, err
	}
	return e.find(ctx, k), nil
}

// contentOfRest returns k with every input that counts by content named by it.
func (e *edge[R]) contentOfRest(ctx context.Context, m cachekey.Map, k *Key) (*Key, error) {
	var which []int
	for i, in := range m.Inputs[:len(k.Inputs)] {
		if in.ByContent && !k.HasContent(i) {
			which = append(which, i)
		}
	}
	if len(which) == 0 {
		return k, nil
	}
	return e.withContent(ctx, k, which)
}

// run runs the operation, once for all its outputs.
func (n *node[R]) run(ctx context.Context) ([]R, error) {
	return n.ran.Get(ctx, func(ctx context.Context) ([]R, error) {
		op, err := n.getOp(ctx)
		if err != nil {
			return nil, stepError(n.v, err)
		}
		for {
			outs, err := n.runOnce(ctx, op)
			if n.s.lost(err) && n.s.ForgetLost(err) > 0 {
				continue // what was lost is made again
			}
			return outs, stepError(n.v, err)
		}
	})
}

func (n *node[R]) runOnce(ctx context.Context, op Op[R]) ([]R, error) {
	inputs := make([]R, len(n.inputs))
	g, gctx := errgroup.WithContext(ctx)
	for i, in := range n.inputs {
		g.Go(func() (err error) {
			inputs[i], err = in.result(gctx)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	select {
	case n.s.slots <- struct{}{}:
		defer func() { <-n.s.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	octx := n.s.cfg.Observer.Begin(ctx, n.v)
	outs, err := op.Run(octx, inputs)
	if n.s.lost(err) {
		n.s.cfg.Observer.Warn(n.v, err)
		n.s.cfg.Observer.End(octx, n.v, nil)
		return nil, err
	}
	n.s.cfg.Observer.End(octx, n.v, err)
	if err == nil && n.s.cfg.Made != nil {
		n.s.cfg.Made(n.v, outs)
	}
	return outs, err
}

// Forget is ForgetLost when it is not known what was lost.
func (s *Solver[R]) Forget() int { return s.ForgetLost(nil) }

// ForgetLost drops every result that came from a cache and is not usable any
// more, and returns how many there were. The edges are solved anew, without
// the cache that promised them. The error, which may be nil, is the one that
// said so; it stands in the Trace of what runs again.
func (s *Solver[R]) ForgetLost(err error) int {
	if s.cfg.Usable == nil {
		return 0
	}
	n := 0
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, node := range s.order {
		for _, e := range node.edges {
			if r, ok := e.res.Peek(); ok && !r.made && !s.cfg.Usable(r.value) {
				e.res.Forget()
				node.lose(err)
				n++
			}
		}
	}
	return n
}

func (s *Solver[R]) lost(err error) bool {
	return err != nil && s.cfg.Lost != nil && s.cfg.Lost(err)
}

func (s *Solver[R]) usable(v R) bool { return s.cfg.Usable == nil || s.cfg.Usable(v) }

// complete returns the key of an edge that has a result.
func (e *edge[R]) complete(ctx context.Context) (*Key, error) {
	return e.whole.Get(ctx, func(ctx context.Context) (*Key, error) {
		r, err := e.res.Get(ctx, e.solve)
		if err != nil {
			return nil, err
		}
		if !r.made {
			return r.key, nil
		}
		m, err := e.node.getMap(ctx)
		if err != nil {
			return nil, err
		}
		ins := make([]plan[R], len(e.node.inputs))
		for i, in := range e.node.inputs {
			if ins[i].key, err = in.complete(ctx); err != nil {
				return nil, err
			}
		}
		return e.contentOfRest(ctx, m, e.keyOf(m, ins))
	})
}

// save files a result beside the build.
func (e *edge[R]) save(ctx context.Context, v R) {
	if e.node.s.cfg.Save == nil {
		return
	}
	ctx = context.WithoutCancel(ctx) // it may be that of one of several inputs
	e.node.s.beside.Add(1)
	go func() {
		defer e.node.s.beside.Done()
		k, err := e.complete(ctx)
		if err == nil {
			err = e.node.s.cfg.Save(ctx, k, e.node.v, v)
		}
		if err != nil {
			e.node.s.cfg.Observer.Warn(e.node.v, fmt.Errorf("keep the result for later builds: %w", err))
		}
	}()
}

// markCached tells the observer that n and what only n needed did not run.
func (n *node[R]) markCached() {
	n.mu.Lock()
	told := n.noted
	n.noted = true
	n.mu.Unlock()
	if told {
		return
	}
	for _, in := range n.inputs {
		in.node.markCached()
	}
	if _, ran := n.ran.Peek(); !ran {
		n.s.cfg.Observer.Cached(n.v)
	}
}

// record describes the edge for an export.
func (e *edge[R]) record(ctx context.Context) (Record[R], bool) {
	rec := Record[R]{Edge: e.llbEdge()}
	if r, ok := e.res.Peek(); ok {
		k, err := e.complete(ctx)
		if err != nil {
			return rec, false
		}
		rec.Key, rec.Made, rec.Cached, rec.At = k, r.made, !r.made, r.at
		rec.Load = func(context.Context) (R, error) { return r.value, nil }
		return rec, true
	}
	p, ok := e.planned.Peek()
	if !ok {
		if p, ok = e.byDef.Peek(); !ok {
			return rec, false
		}
	}
	rec.Key = p.key
	if p.hit != nil {
		rec.Cached, rec.Load = true, p.hit.Load
	}
	return rec, true
}
