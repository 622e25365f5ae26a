package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/explain"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/progress"
)

// A Step is what became of one vertex.
type Step struct {
	Name    string
	Digest  digest.Digest
	Cached  bool    // its result came from a cache, or was not needed
	Seconds float64 // spent on it; 0 when cached
	Failed  bool

	// Why says in one line why a step ran, and Reason in full; "" and nil for
	// one that did not, and for sources.
	Why    string
	Reason *explain.Reason

	spent time.Duration
	began time.Time
}

// An observer turns what the solver tells into progress and steps.
type observer struct {
	stream *progress.Stream
	why    *why // nil: nobody asks

	mu       sync.Mutex
	vertices map[digest.Digest]*progress.Vertex
	steps    map[digest.Digest]*Step
	order    []*Step
	warnings []string
}

func newObserver(stream *progress.Stream) *observer {
	return &observer{stream: stream, vertices: map[digest.Digest]*progress.Vertex{}, steps: map[digest.Digest]*Step{}}
}

func (o *observer) vertex(v *llb.Vertex) (*progress.Vertex, *Step) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p, ok := o.vertices[v.Digest]; ok {
		return p, o.steps[v.Digest]
	}
	cv := client.Vertex{Digest: v.Digest, Name: v.Name, ProgressGroup: v.Metadata.ProgressGroup}
	for _, in := range v.Inputs {
		cv.Inputs = append(cv.Inputs, in.Vertex.Digest)
	}
	p := o.stream.Vertex(cv)
	s := &Step{Name: v.Name, Digest: v.Digest}
	o.vertices[v.Digest], o.steps[v.Digest] = p, s
	o.order = append(o.order, s)
	return p, s
}

// Begin starts the clock of v.
func (o *observer) Begin(ctx context.Context, v *llb.Vertex) context.Context {
	p, s := o.vertex(v)
	o.mu.Lock()
	s.began, s.Cached = time.Now(), false
	o.mu.Unlock()
	p.Begin()
	if o.why != nil && isStep(v) {
		o.why.begin(ctx, v, p)
	}
	return progress.With(ctx, p)
}

// End stops the clock of v.
func (o *observer) End(_ context.Context, v *llb.Vertex, err error) {
	p, s := o.vertex(v)
	if o.why != nil && isStep(v) {
		o.why.end(v)
	}
	o.mu.Lock()
	s.spent += time.Since(s.began)
	s.Failed = err != nil
	o.mu.Unlock()
	p.End(err)
}

// Cached notes that v did not run.
func (o *observer) Cached(v *llb.Vertex) {
	p, s := o.vertex(v)
	o.mu.Lock()
	s.Cached = true
	o.mu.Unlock()
	p.Cached()
}

// Warn shows trouble with v that costs only time.
func (o *observer) Warn(v *llb.Vertex, err error) { o.warn(fmt.Errorf("%s: %w", v.Name, err)) }

// warn shows trouble that costs only time, and keeps it for the result.
func (o *observer) warn(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.warnings = append(o.warnings, err.Error())
	step := o.stream.Step("warnings")
	step.Begin()
	fmt.Fprintln(step.Log(2), "warning:", err)
	step.End(nil)
}

// became says what became of a vertex so far.
func (o *observer) became(d digest.Digest) Step {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s, ok := o.steps[d]; ok {
		return *s
	}
	return Step{}
}

func (o *observer) result() (steps []Step, warnings []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.order {
		c := *s
		if !c.Cached {
			c.Seconds = c.spent.Seconds()
		}
		steps = append(steps, c)
	}
	return steps, append([]string(nil), o.warnings...)
}
