package tracing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-build/mayfly/ci"
)

func built() *Trace {
	f := newFeed(Config{Parent: Parse(parent, "")})
	v := vtx("[1/1] RUN make", 1)
	f.begin(v, 1)
	f.end(v, 1, 5, "exit code: 1")
	return f.r.Finish(Result{Ended: *at(9), Err: errors.New("exit code: 1")})
}

// A sink takes spans and metrics as it is told.
type sink struct {
	sdkmetric.Exporter
	err    error
	hangs  bool // until the context is done
	got    *metricdata.ResourceMetrics
	closed bool
}

func (s *sink) ExportSpans(ctx context.Context, _ []sdktrace.ReadOnlySpan) error {
	if s.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.err
}

func (s *sink) Export(_ context.Context, m *metricdata.ResourceMetrics) error {
	s.got = m
	return s.err
}

func (s *sink) Shutdown(context.Context) error { s.closed = true; return nil }

func (s *sink) spans(context.Context) (sdktrace.SpanExporter, error) { return s, nil }
func (s *sink) metrics(context.Context) (sdkmetric.Exporter, error)  { return s, nil }

func TestSendToAll(t *testing.T) {
	kept := tracetest.NewInMemoryExporter()
	refused, too := &sink{err: errors.New("refused")}, &sink{err: errors.New("refused")}
	absent, counted := errors.New("no such host"), &sink{}
	err := built().Send(t.Context(), Resource("1", ci.Info{}), []Exporter{
		{Name: "A", Spans: refused.spans, Metrics: too.metrics},
		{Name: "B", Spans: func(context.Context) (sdktrace.SpanExporter, error) { return unclosed{kept}, nil }},
		{Name: "C", Spans: func(context.Context) (sdktrace.SpanExporter, error) { return nil, absent }},
		{Name: "D", Metrics: counted.metrics},
	})
	if err == nil || err.Error() != "A: refused\nC: no such host" || !errors.Is(err, absent) {
		t.Errorf("the error is %v", err)
	}
	if !refused.closed || !too.closed || !counted.closed || counted.got == nil {
		t.Errorf("closed %v, %v and %v; metrics %v", refused.closed, too.closed, counted.closed, counted.got)
	}
	spans := kept.GetSpans()
	if len(spans) != 2 || spans[1].Parent.SpanID() != spans[0].SpanContext.SpanID() || spans[1].Status.Description != "exit code: 1" {
		t.Errorf("the spans are %+v", spans)
	}
}

// unclosed keeps what a Shutdown would drop.
type unclosed struct{ *tracetest.InMemoryExporter }

func (unclosed) Shutdown(context.Context) error { return nil }

func TestSendEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		err := built().Send(ctx, nil, []Exporter{{Name: "A", Spans: (&sink{hangs: true}).spans}, {Name: "B", Spans: (&sink{hangs: true}).spans}})
		if took := time.Since(began); took != 2*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it takes %s and is %v", took, err)
		}
	})
}

func TestRefusedMetrics(t *testing.T) {
	for _, tt := range []struct {
		err  error
		fine bool
	}{
		{status.Error(codes.Unimplemented, "unknown service"), true},
		{fmt.Errorf("upload: %w", status.Error(codes.Unimplemented, "unknown service")), true},
		{errors.New("failed to send metrics to http://h/v1/metrics: 404 Not Found (body: x)"), true},
		{status.Error(codes.Unavailable, "down"), false},
		{errors.New("500"), false},
	} {
		for _, may := range []bool{true, false} {
			err := built().Send(t.Context(), nil, []Exporter{{Name: "X", Metrics: (&sink{err: tt.err}).metrics, MayRefuseMetrics: may}})
			if (err == nil) != (tt.fine && may) {
				t.Errorf("%v, may be refused %v: %v", tt.err, may, err)
			}
		}
	}
}

// The file is what OTLP says of JSON: IDs in hex, enums as numbers, 64-bit
// numbers as strings, on one line.
func TestJSON(t *testing.T) {
	var line []byte
	trace := built()
	err := trace.Send(t.Context(), Resource("1", ci.Info{RunID: "7"}), []Exporter{{Name: "file", Spans: func(context.Context) (sdktrace.SpanExporter, error) {
		return NewJSON(func(dt []byte) error { line = dt; return nil }), nil
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(line, []byte("\n")) != 1 || !bytes.HasSuffix(line, []byte("}\n")) {
		t.Errorf("it is no line: %s", line)
	}
	var got struct {
		ResourceSpans []struct {
			Resource   struct{ Attributes []struct{ Key string } }
			ScopeSpans []struct {
				Spans []struct {
					TraceID, SpanID, ParentSpanID, Name, StartTimeUnixNano, EndTimeUnixNano string
					Kind                                                                    int
					Status                                                                  struct {
						Code    int
						Message string
					}
				}
			}
		}
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	if err := dec.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if n := len(got.ResourceSpans[0].Resource.Attributes); n != 3 {
		t.Errorf("the resource has %d attributes", n)
	}
	for i, s := range got.ResourceSpans[0].ScopeSpans[0].Spans {
		want := trace.Spans[i]
		if s.TraceID != trace.ID.String() || s.SpanID != want.ID.String() || s.ParentSpanID != want.Parent.String() ||
			s.Name != want.Name || s.Kind != 1 || s.Status.Code != 2 || s.Status.Message != want.Error ||
			s.StartTimeUnixNano != fmt.Sprint(want.Start.UnixNano()) || s.EndTimeUnixNano != fmt.Sprint(want.End.UnixNano()) {
			t.Errorf("span %d is %+v, not %+v", i, s, want)
		}
	}
	broken := errors.New("no space")
	err = trace.Send(t.Context(), nil, []Exporter{{Name: "file", Spans: func(context.Context) (sdktrace.SpanExporter, error) {
		return NewJSON(func([]byte) error { return broken }), nil
	}}})
	if !errors.Is(err, broken) || strings.Count(err.Error(), "file: ") != 1 {
		t.Errorf("the error is %v", err)
	}
}
