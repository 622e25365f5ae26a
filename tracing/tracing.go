// Package tracing turns one build into OpenTelemetry's spans and metrics.
//
//	engine/progress ──client.SolveStatus──▶ Recorder ──Finish──▶ Trace ──Spans──▶ OTLP, Jaeger, a file
//	cmd ──Result (what the engine returned), ci.Info──▶ ─┘         └────Metrics──▶ OTLP
//
// In: the events of a build, then what came of it. Out: one root span, a child
// per vertex and step of the stream, and below those their parts: unpacking,
// compression, push, cache transfers. All times are those of the events.
//
// The package knows nothing of the engine, and nothing is sent before the
// build has ended. It reads no environment itself; the official exporters that
// its callers hand to Send do, as OpenTelemetry specifies.
package tracing

import (
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Config says what a Recorder starts from. The zero Config is usable.
type Config struct {
	Name   string            // of the root span; "" means "mayfly build"
	Parent trace.SpanContext // of the root span, from Parse; invalid means a trace of its own

	// Began is when the root span starts; zero means now.
	Began time.Time

	// Redact removes what is secret from a text. Every name, error and other
	// text of a span passes it. nil means that nothing is secret.
	Redact func(string) string
}

// A Recorder gathers the events of one build. Its methods may be called from
// several goroutines at once.
type Recorder struct {
	cfg  Config
	id   trace.TraceID
	root trace.SpanID

	mu       sync.Mutex
	vertices map[digest.Digest]*vertex
	order    []*vertex
	warnings []Event
}

// A vertex is a vertex of the graph, or another step of the stream.
type vertex struct {
	digest      digest.Digest
	name        string
	inputs      int
	first, last time.Time     // begin of the work, and its end so far
	spent       time.Duration // between begins and ends
	runs        int
	open        bool
	cached      bool
	err         string
	parts       []*part
}

// A part is a part of a step, such as one blob.
type part struct {
	id             string
	began, ended   time.Time // ended is zero while it is going on
	current, total int64     // bytes; total is 0 when unknown
}

// NewRecorder returns a Recorder of a build that begins.
func NewRecorder(cfg Config) *Recorder {
	if cfg.Name == "" {
		cfg.Name = "mayfly build"
	}
	if cfg.Began.IsZero() {
		cfg.Began = time.Now()
	}
	if cfg.Redact == nil {
		cfg.Redact = func(s string) string { return s }
	}
	r := &Recorder{cfg: cfg, id: cfg.Parent.TraceID(), vertices: map[digest.Digest]*vertex{}}
	if !cfg.Parent.IsValid() {
		rand.Read(r.id[:])
	}
	rand.Read(r.root[:])
	return r
}

// spanID returns the ID of a span below the root: it is known before the span
// is, so that a step can be told its own.
func (r *Recorder) spanID(of ...string) (id trace.SpanID) {
	sum := sha256.Sum256([]byte(r.root.String() + "\x00" + strings.Join(of, "\x00")))
	copy(id[:], sum[:])
	return id
}

// Env returns the variables that make what a vertex runs a child of its span,
// as NAME=VALUE: TRACEPARENT, and TRACESTATE when there was one.
func (r *Recorder) Env(vertex digest.Digest) []string {
	return Env(trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: r.id, SpanID: r.spanID(vertex.String()), TraceFlags: r.flags(), TraceState: r.cfg.Parent.TraceState(),
	}))
}

func (r *Recorder) flags() trace.TraceFlags {
	if r.cfg.Parent.IsValid() {
		return r.cfg.Parent.TraceFlags()
	}
	return trace.FlagsSampled
}

// Event takes an event of the build's stream.
func (r *Recorder) Event(st *client.SolveStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range st.Vertexes {
		r.vertex(v)
	}
	for _, s := range st.Statuses {
		r.status(s)
	}
	for _, l := range st.Logs {
		if v := r.vertices[l.Vertex]; v != nil && v.name == warningsStep {
			r.warn(l.Timestamp, string(l.Data))
		}
	}
	for _, w := range st.Warnings {
		r.warn(time.Time{}, string(w.Short))
	}
}

// warningsStep is the step of the stream whose output is the engine's warnings.
const warningsStep = "warnings"

func (r *Recorder) warn(at time.Time, text string) {
	if at.IsZero() {
		at = time.Now()
	}
	text = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(text), "warning:"))
	if text != "" {
		r.warnings = append(r.warnings, Event{Name: "warning", Time: at, Attrs: []attribute.KeyValue{attribute.String("message", text)}})
	}
}

func (r *Recorder) vertex(v *client.Vertex) {
	x := r.vertices[v.Digest]
	if x == nil {
		x = &vertex{digest: v.Digest}
		r.vertices[v.Digest] = x
		r.order = append(r.order, x)
	}
	x.name, x.inputs = v.Name, len(v.Inputs)
	if v.Started == nil {
		return
	}
	if x.first.IsZero() {
		x.first = *v.Started
	}
	switch {
	case v.Completed == nil:
		x.runs++
		x.open, x.cached, x.err = true, false, ""
	case v.Cached:
		// What was done before, such as asking what a source names, took its
		// time; being cached takes none.
		x.open, x.cached = false, true
		if x.last.IsZero() {
			x.last = *v.Completed
		}
	default:
		x.spent += max(v.Completed.Sub(*v.Started), 0)
		x.last, x.open, x.err = *v.Completed, false, v.Error
		x.runs = max(x.runs, 1)
	}
}

func (r *Recorder) status(s *client.VertexStatus) {
	x := r.vertices[s.Vertex]
	if x == nil {
		return
	}
	began := s.Timestamp
	if s.Started != nil {
		began = *s.Started
	}
	var p *part
	for _, q := range x.parts {
		if q.id == s.ID && q.began.Equal(began) {
			p = q
		}
	}
	if p == nil {
		p = &part{id: s.ID, began: began}
		x.parts = append(x.parts, p)
	}
	p.current, p.total = s.Current, s.Total
	if s.Completed != nil {
		p.ended = *s.Completed
	}
}
