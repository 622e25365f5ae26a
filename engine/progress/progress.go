// Package progress is the one stream of events of a build.
//
//	solver, op, layer, exporter, buildcache ──Vertex──▶ Stream ──SolveStatus──▶ plain, tty, rawjson,
//	                                                                          metadata, trace
//
// Events have BuildKit's client.SolveStatus shape, so that its progressui
// renders them and its control API carries them. Whoever works on a vertex has
// it in the context; who reads the stream is not the worker's business.
package progress

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// A Stream hands each event to every sink, in order. Its methods may be
// called from several goroutines at once.
type Stream struct {
	now   func() time.Time
	mu    sync.Mutex // held while the sinks read an event
	sinks []func(*client.SolveStatus)
}

// New returns a Stream to the sinks. A sink is called for one event at a time
// and keeps what it is given.
func New(sinks ...func(*client.SolveStatus)) *Stream {
	return &Stream{now: time.Now, sinks: sinks}
}

func (s *Stream) send(st *client.SolveStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sink := range s.sinks {
		sink(st)
	}
}

// Vertex returns the handle of a vertex; only the descriptive fields of v count.
func (s *Stream) Vertex(v client.Vertex) *Vertex {
	return &Vertex{s: s, v: v}
}

// Step returns the handle of a piece of work that is no vertex of the graph,
// such as an export: its digest is made from its name.
func (s *Stream) Step(name string) *Vertex {
	return s.Vertex(client.Vertex{Digest: digest.FromString("step:" + name), Name: name})
}

// A Vertex is a piece of work that shows as a step.
type Vertex struct {
	s *Stream

	mu sync.Mutex
	v  client.Vertex
}

func (v *Vertex) update(f func(*client.Vertex)) {
	if v == nil {
		return
	}
	v.mu.Lock()
	f(&v.v)
	c := v.v
	c.Inputs = slices.Clone(c.Inputs)
	v.mu.Unlock()
	v.s.send(&client.SolveStatus{Vertexes: []*client.Vertex{&c}})
}

// Begin says that work starts now.
func (v *Vertex) Begin() {
	v.update(func(c *client.Vertex) {
		now := v.s.now()
		c.Started, c.Completed, c.Cached, c.Error = &now, nil, false, ""
	})
}

// End says that work ended, with err or well.
func (v *Vertex) End(err error) {
	v.update(func(c *client.Vertex) {
		now := v.s.now()
		if c.Started == nil {
			c.Started = &now
		}
		c.Completed = &now
		if err != nil {
			c.Error = err.Error()
		}
	})
}

// Cached says that the work need not be done.
func (v *Vertex) Cached() {
	v.update(func(c *client.Vertex) {
		now := v.s.now()
		if c.Started == nil {
			c.Started = &now
		}
		c.Completed, c.Cached = &now, true
	})
}

// Warn attaches a warning.
func (v *Vertex) Warn(w client.VertexWarning) {
	if v == nil {
		return
	}
	w.Vertex = v.v.Digest
	v.s.send(&client.SolveStatus{Warnings: []*client.VertexWarning{&w}})
}

// Warn reports a warning about the vertex with digest d; where says the place
// in a source file and may be nil.
func (s *Stream) Warn(d digest.Digest, level int, short string, detail [][]byte, url string, info *pb.SourceInfo, where []*pb.Range) {
	s.send(&client.SolveStatus{Warnings: []*client.VertexWarning{{
		Vertex: d, Level: level, Short: []byte(short), Detail: detail, URL: url, SourceInfo: info, Range: where,
	}}})
}

// Log returns a writer whose bytes show as the step's output: stream 1 is
// standard output, 2 standard error.
func (v *Vertex) Log(stream int) io.Writer { return logWriter{v, stream} }

type logWriter struct {
	v      *Vertex
	stream int
}

func (w logWriter) Write(p []byte) (int, error) {
	if w.v == nil {
		return len(p), nil
	}
	w.v.s.send(&client.SolveStatus{Logs: []*client.VertexLog{{
		Vertex: w.v.v.Digest, Stream: w.stream, Data: slices.Clone(p), Timestamp: w.v.s.now(),
	}}})
	return len(p), nil
}

// Start shows a part of the step, such as one blob, until the function it
// returns is called. Total is in bytes, 0 when unknown.
func (v *Vertex) Start(id string, total int64) *Part {
	if v == nil {
		return nil
	}
	p := &Part{v: v, id: id, total: total, began: v.s.now()}
	p.send(0, false)
	return p
}

// A Part is a part of a step. A nil *Part shows nothing.
type Part struct {
	v     *Vertex
	id    string
	total int64
	began time.Time

	mu      sync.Mutex
	current int64
	shown   time.Time
}

const partInterval = 150 * time.Millisecond // between two events of one part

// Add counts n more bytes.
func (p *Part) Add(n int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.current += int64(n)
	cur, now := p.current, p.v.s.now()
	show := now.Sub(p.shown) > partInterval
	if show {
		p.shown = now
	}
	p.mu.Unlock()
	if show {
		p.send(cur, false)
	}
}

// Done ends the part.
func (p *Part) Done() {
	if p == nil {
		return
	}
	p.mu.Lock()
	cur := p.current
	p.mu.Unlock()
	p.send(cur, true)
}

func (p *Part) send(cur int64, done bool) {
	now := p.v.s.now()
	st := &client.VertexStatus{ID: p.id, Vertex: p.v.v.Digest, Name: p.id, Total: p.total, Current: cur, Timestamp: now, Started: &p.began}
	if done {
		st.Completed = &now
	}
	p.v.s.send(&client.SolveStatus{Statuses: []*client.VertexStatus{st}})
}

type key struct{}

// With returns a context whose work belongs to v.
func With(ctx context.Context, v *Vertex) context.Context { return context.WithValue(ctx, key{}, v) }

// From returns the vertex that ctx's work belongs to; nil, whose methods do
// nothing, when there is none.
func From(ctx context.Context) *Vertex {
	v, _ := ctx.Value(key{}).(*Vertex)
	return v
}
