// Package solver decides what has to run.
//
//	frontend ──llb.Graph──▶ solver ──Op.Run──▶ op, executor ──R──▶ exporter
//	                          └──Key──▶ buildcache (hit: the Op never runs)
//
// In: vertices. Out: one result R per requested edge. Equal vertices run once.
// The solver knows no file, image or registry: those live in op, and R is
// whatever op makes (a *layer.State).
//
// An edge is asked in up to three steps, each dearer than the one before:
// by its definition (needs no result of any input), by the content of what it
// reads (needs the results of some inputs), and at last it runs.
package solver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/llb"
)

// An Op is what a vertex does. Its methods may be called at once.
type Op[R any] interface {
	// Map returns the operation's digest and what it reads of each input. It
	// may ask the network, e.g. what an image tag stands for.
	Map(ctx context.Context) (cachekey.Map, error)

	// Content returns the digest of the part of input i that the operation
	// reads. It is called only for inputs that Map says count by content.
	Content(ctx context.Context, i int, input R) (digest.Digest, error)

	// Run does the work, given one result per input, and returns one result
	// per output.
	Run(ctx context.Context, inputs []R) ([]R, error)
}

// A Cache finds results by key.
type Cache[R any] interface {
	// Knows reports whether the cache has any record of an operation; when it
	// has none, no key of the operation is worth the work of completing it.
	Knows(record digest.Digest) bool

	// Find looks up a key. It does no more I/O than a look-up needs: the
	// result of a hit is loaded when it is used.
	Find(ctx context.Context, k *Key) Match[R]
}

// A Match is what one cache says of a key.
type Match[R any] struct {
	// Known says that the cache holds the key, so that edges which use this
	// one may be found through it, with or without a result of its own.
	Known bool
	Hit   *Hit[R] // nil when there is no result
}

// A Hit is a result found in a cache.
type Hit[R any] struct {
	Cache string // names the cache in reports

	// Key is the key asked for, completed by what the record knows of the
	// inputs' content.
	Key *Key

	// Load returns the result. An error means that it cannot be had any more:
	// the vertex then runs.
	Load func(ctx context.Context) (R, error)
}

// An Observer hears what happens to vertices, from several goroutines at once.
type Observer interface {
	// Begin says that work on v starts; the context returned is given to the
	// Op and End closes what Begin opened.
	Begin(ctx context.Context, v *llb.Vertex) context.Context
	End(ctx context.Context, v *llb.Vertex, err error)
	// Cached says that v's result came from a cache, or is not needed because
	// the result of a vertex that uses it did.
	Cached(v *llb.Vertex)
	// Warn reports trouble that costs time but not the build.
	Warn(v *llb.Vertex, err error)
}

// Config is what a Solver needs.
type Config[R any] struct {
	Op       func(v *llb.Vertex) (Op[R], error)
	Caches   []Cache[R] // asked in this order
	Observer Observer

	// Save files a result that was just made under its complete key. It is
	// called beside the build; nil means that nothing is filed.
	Save func(ctx context.Context, k *Key, v *llb.Vertex, r R) error

	// Made is told of results as soon as an operation has made them; nil means
	// that nobody is.
	Made func(v *llb.Vertex, outputs []R)

	// Lost reports whether an error says that a result which a cache promised
	// cannot be had any more: evicted, expired or corrupt. Whatever made the
	// result is then run. nil means that no error does.
	Lost func(err error) bool

	// Usable reports whether a result that came from a cache can still be
	// had, as far as is known; nil means that all can.
	Usable func(r R) bool

	Parallel int // operations running at once; 0 means 8
}

// A Solver solves the edges of one build. Its methods may be called at once.
type Solver[R any] struct {
	cfg   Config[R]
	slots chan struct{}

	mu    sync.Mutex
	nodes map[digest.Digest]*node[R]
	order []*node[R] // inputs first

	beside sync.WaitGroup // saves under way
}

// New returns a Solver that has solved nothing.
func New[R any](cfg Config[R]) *Solver[R] {
	if cfg.Parallel == 0 {
		cfg.Parallel = 8
	}
	return &Solver[R]{
		cfg:   cfg,
		slots: make(chan struct{}, cfg.Parallel),
		nodes: map[digest.Digest]*node[R]{},
	}
}

// Solve returns the result of an edge, making it if need be. The error of a
// vertex is a *StepError. All calls of one build share ctx's cancellation.
func (s *Solver[R]) Solve(ctx context.Context, e llb.Edge) (R, error) {
	return s.edge(e).result(ctx)
}

// Wait waits until every result made so far is filed.
func (s *Solver[R]) Wait() { s.beside.Wait() }

// A Record is an edge that the build came by.
type Record[R any] struct {
	Edge   llb.Edge
	Key    *Key
	Made   bool                                 // by running, in this build
	Cached bool                                 // found in a cache
	At     time.Time                            // when it was made, if Made
	Load   func(ctx context.Context) (R, error) // nil when no result is at hand
}

// Records returns every edge reached from edges that has a key, each once,
// inputs first. It is called when the build is done.
func (s *Solver[R]) Records(ctx context.Context, edges ...llb.Edge) []Record[R] {
	var out []Record[R]
	seen := map[*edge[R]]bool{}
	var visit func(*edge[R])
	visit = func(e *edge[R]) {
		if seen[e] {
			return
		}
		seen[e] = true
		for i := range e.node.v.Inputs {
			visit(s.edge(e.node.v.Inputs[i]))
		}
		if r, ok := e.record(ctx); ok {
			out = append(out, r)
		}
	}
	for _, e := range edges {
		visit(s.edge(e))
	}
	return out
}

func (s *Solver[R]) edge(le llb.Edge) *edge[R] {
	s.mu.Lock()
	n := s.node(le.Vertex)
	s.mu.Unlock()
	return n.edge(le.Index)
}

// node returns the node of v; s.mu is held.
func (s *Solver[R]) node(v *llb.Vertex) *node[R] {
	if n, ok := s.nodes[v.Digest]; ok {
		if v.Metadata.IgnoreCache {
			n.fresh = true
		}
		return n
	}
	n := &node[R]{s: s, v: v, fresh: v.Metadata.IgnoreCache, edges: map[int]*edge[R]{}}
	s.nodes[v.Digest] = n
	for _, in := range v.Inputs {
		n.inputs = append(n.inputs, s.node(in.Vertex).edgeLocked(in.Index))
	}
	s.order = append(s.order, n)
	return n
}

// A StepError says which step went wrong.
type StepError struct {
	Vertex *llb.Vertex
	Err    error
}

func (e *StepError) Error() string { return fmt.Sprintf("%s: %v", e.Vertex.Name, e.Err) }
func (e *StepError) Unwrap() error { return e.Err }

func stepError(v *llb.Vertex, err error) error {
	if err == nil {
		return nil
	}
	var se *StepError
	if errors.As(err, &se) {
		return err
	}
	return &StepError{Vertex: v, Err: err}
}
