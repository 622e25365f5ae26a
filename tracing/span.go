package tracing

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// A Trace is what a build has come to: its root span and those below it.
type Trace struct {
	ID     trace.TraceID
	Parent trace.SpanContext // of the root; may be invalid
	Spans  []Span            // the root first, then by their beginning

	Result      string        // success, failure or cancellation
	Duration    time.Duration // of the root
	Cached, Ran int           // vertices with inputs, that is without sources
	BytesIn     int64         // read from registries
	BytesOut    int64         // written to registries
	flags       trace.TraceFlags
}

// A Span is a piece of work with its time.
type Span struct {
	ID, Parent trace.SpanID
	Name       string
	Start, End time.Time
	Attrs      []attribute.KeyValue
	Events     []Event
	Failed     bool
	Error      string // when Failed
}

// An Event is something that happened at one moment of a Span.
type Event struct {
	Name  string
	Time  time.Time
	Attrs []attribute.KeyValue
}

// The keys of our attributes. BuildKit's spans have "vertex" too.
const (
	keyVertex   = "vertex" // digest
	keyKind     = "mayfly.kind"
	keyCached   = "mayfly.cached"
	keySeconds  = "mayfly.seconds"  // between a vertex's begins and ends
	keyAttempts = "mayfly.attempts" // how often a vertex ran
	keyRunning  = "mayfly.unfinished"

	keyBlob  = "mayfly.blob" // digest
	keyLayer = "mayfly.layer"
	keyImage = "mayfly.image"
	keySize  = "mayfly.size"  // bytes there are
	keyBytes = "mayfly.bytes" // bytes moved

	keyCache   = "mayfly.cache.name"
	keyAction  = "mayfly.cache.action" // import or export
	keyOutcome = "mayfly.cache.outcome"
	keyReason  = "mayfly.cache.reason"
	keyBlobs   = "mayfly.cache.blobs"
	keyMoved   = "mayfly.cache.bytes"
	keyCarried = "mayfly.cache.carried"

	keyRef    = "mayfly.build.ref"
	keyResult = "mayfly.result"
	keyDigest = "mayfly.image.digest"
	keyNames  = "mayfly.image.names"
	keyHits   = "mayfly.steps.cached"
	keyRan    = "mayfly.steps.ran"
	keyIn     = "mayfly.bytes.pulled"
	keyOut    = "mayfly.bytes.pushed"
)

// Finish ends the build and returns what it has come to. What has not ended
// ends with it. It may be called once the stream has no more events.
func (r *Recorder) Finish(res Result) *Trace {
	r.mu.Lock()
	defer r.mu.Unlock()
	if res.Ended.IsZero() {
		res.Ended = time.Now()
	}
	t := &Trace{
		ID: r.id, Parent: r.cfg.Parent, flags: r.flags(), Result: res.word(),
		Duration: res.Ended.Sub(r.cfg.Began), BytesIn: res.BytesIn, BytesOut: res.BytesOut,
	}
	caches := slices.Clone(res.Caches)
	var below []Span
	for _, v := range r.order {
		if v.name == warningsStep || v.first.IsZero() {
			continue
		}
		if v.inputs > 0 && v.cached {
			t.Cached++
		} else if v.inputs > 0 && v.runs > 0 {
			t.Ran++
		}
		s := r.vertexSpan(v, res.Ended)
		if name, export, ok := cacheOf(v.name); ok && v.inputs == 0 {
			i := slices.IndexFunc(caches, func(c Cache) bool { return c.Name == name && c.Export == export })
			if i >= 0 {
				s.cache(caches[i])
				caches = slices.Delete(caches, i, i+1)
			}
		}
		below = append(below, s)
		for i, p := range v.parts {
			below = append(below, r.partSpan(v, i, p, s))
		}
	}
	slices.SortStableFunc(below, func(a, b Span) int { return a.Start.Compare(b.Start) })
	t.Spans = append([]Span{r.rootSpan(t, res, caches)}, below...)
	for i := range t.Spans {
		t.Spans[i].redact(r.cfg.Redact)
	}
	return t
}

// rootSpan makes the span of the build. Caches are those that no step of the
// stream is about.
func (r *Recorder) rootSpan(t *Trace, res Result, caches []Cache) Span {
	s := Span{ID: r.root, Parent: r.cfg.Parent.SpanID(), Name: r.cfg.Name, Start: r.cfg.Began, End: res.Ended}
	s.Events = slices.Clone(r.warnings)
	slices.SortStableFunc(s.Events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	s.text(keyResult, t.Result)
	s.text(keyRef, res.Ref)
	s.text(keyDigest, res.Digest.String())
	if len(res.Names) > 0 {
		s.Attrs = append(s.Attrs, attribute.StringSlice(keyNames, res.Names))
	}
	s.number(keyHits, int64(t.Cached))
	s.number(keyRan, int64(t.Ran))
	s.number(keyIn, res.BytesIn)
	s.number(keyOut, res.BytesOut)
	if res.Err != nil {
		s.Failed, s.Error = true, res.Err.Error()
	}
	for _, c := range caches {
		var e Span
		e.cache(c)
		s.Events = append(s.Events, Event{Name: "cache", Time: res.Ended, Attrs: e.Attrs})
	}
	return s
}

func (r *Recorder) vertexSpan(v *vertex, ended time.Time) Span {
	s := Span{
		ID: r.spanID(v.digest.String()), Parent: r.root, Name: v.name, Start: v.first, End: v.last,
		Failed: v.err != "", Error: v.err,
	}
	s.text(keyVertex, v.digest.String())
	s.text(keyKind, kindOf(v.name, v.inputs))
	s.Attrs = append(s.Attrs, attribute.Bool(keyCached, v.cached))
	if !v.cached {
		s.Attrs = append(s.Attrs, attribute.Float64(keySeconds, v.spent.Seconds()))
	}
	if v.inputs > 0 && v.runs > 1 { // a source that is asked what it names and then read begins twice
		s.number(keyAttempts, int64(v.runs))
	}
	s.endAt(v.open, ended)
	return s
}

func (r *Recorder) partSpan(v *vertex, i int, p *part, of Span) Span {
	name, kind, key, value := ofPart(p.id)
	s := Span{ID: r.spanID(v.digest.String(), strconv.Itoa(i), p.id), Parent: of.ID, Name: name, Start: p.began, End: p.ended}
	s.text(keyKind, kind)
	if key != "" {
		s.text(key, value)
	}
	if p.total > 0 {
		s.number(keySize, p.total)
	}
	if p.current > 0 {
		s.number(keyBytes, p.current)
	}
	s.endAt(p.ended.IsZero(), of.End)
	return s
}

// endAt ends a span that was still going on at the end of the build.
func (s *Span) endAt(open bool, ended time.Time) {
	if open {
		s.End = ended
		s.Attrs = append(s.Attrs, attribute.Bool(keyRunning, true))
	}
	if s.End.Before(s.Start) {
		s.End = s.Start
	}
}

func (s *Span) cache(c Cache) {
	s.text(keyCache, c.Name)
	s.text(keyAction, map[bool]string{false: "import", true: "export"}[c.Export])
	s.text(keyOutcome, c.Outcome)
	s.text(keyReason, c.Reason)
	s.number(keyBlobs, int64(c.Blobs))
	s.number(keyMoved, c.Bytes)
	if c.Export {
		s.number(keyCarried, int64(c.Carried))
	}
	if c.Outcome == "failed" {
		s.Failed, s.Error = true, cmp.Or(s.Error, c.Reason)
	}
}

func (s *Span) text(key, value string) {
	if value != "" {
		s.Attrs = append(s.Attrs, attribute.String(key, value))
	}
}

func (s *Span) number(key string, n int64) { s.Attrs = append(s.Attrs, attribute.Int64(key, n)) }

// maxText bounds a text in bytes: Jaeger's agent drops a span that does not
// fit into a datagram.
const maxText = 4 << 10

// redact removes secrets from every text of the span.
func (s *Span) redact(secret func(string) string) {
	clean := func(text string) string { return cut(secret(text)) }
	s.Name, s.Error = clean(s.Name), clean(s.Error)
	redactAttrs(s.Attrs, clean)
	for i := range s.Events {
		redactAttrs(s.Events[i].Attrs, clean)
	}
}

func redactAttrs(attrs []attribute.KeyValue, clean func(string) string) {
	for i, kv := range attrs {
		switch kv.Value.Type() {
		case attribute.STRING:
			attrs[i] = kv.Key.String(clean(kv.Value.AsString()))
		case attribute.STRINGSLICE:
			list := slices.Clone(kv.Value.AsStringSlice())
			for j := range list {
				list[j] = clean(list[j])
			}
			attrs[i] = kv.Key.StringSlice(list)
		}
	}
}

// cut makes a text valid UTF-8 of at most maxText bytes, which OTLP requires.
func cut(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxText {
		return s
	}
	n := maxText - len("…")
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
