package tracing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// scope names what made the spans and metrics.
const scope = "github.com/mayfly-build/mayfly/tracing"

// An Exporter is a place that spans or metrics go to. Its functions make what
// sends them, once there is something to send, and may return when ctx is done.
type Exporter struct {
	Name    string                                               // begins its errors
	Spans   func(context.Context) (sdktrace.SpanExporter, error) // nil: it takes no spans
	Metrics func(context.Context) (sdkmetric.Exporter, error)    // nil: it takes no metrics

	// MayRefuseMetrics says that a service which knows no metrics is no error.
	MayRefuseMetrics bool
}

// ReadOnly returns the spans as exporters take them.
func (t *Trace) ReadOnly(res *resource.Resource) []sdktrace.ReadOnlySpan {
	stubs := make(tracetest.SpanStubs, len(t.Spans))
	for i, s := range t.Spans {
		stubs[i] = tracetest.SpanStub{
			Name: s.Name, SpanKind: trace.SpanKindInternal, StartTime: s.Start, EndTime: s.End,
			SpanContext: t.contextOf(s.ID), Parent: t.contextOf(s.Parent), Attributes: s.Attrs,
			Resource: res, InstrumentationScope: instrumentation.Scope{Name: scope},
		}
		if i == 0 {
			stubs[i].Parent = t.Parent
		}
		for _, e := range s.Events {
			stubs[i].Events = append(stubs[i].Events, sdktrace.Event{Name: e.Name, Time: e.Time, Attributes: e.Attrs})
		}
		if s.Failed {
			stubs[i].Status = sdktrace.Status{Code: codes.Error, Description: s.Error}
		}
	}
	return stubs.Snapshots()
}

func (t *Trace) contextOf(id trace.SpanID) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: t.ID, SpanID: id, TraceFlags: t.flags, TraceState: t.Parent.TraceState(),
	})
}

// Send gives the trace and its metrics to all exporters at once, and returns
// when each is done or ctx is. The error names every exporter that failed.
func (t *Trace) Send(ctx context.Context, res *resource.Resource, to []Exporter) error {
	errs := make([]error, len(to))
	var work sync.WaitGroup
	for i, x := range to {
		work.Go(func() {
			if err := t.sendTo(ctx, res, x); err != nil {
				errs[i] = fmt.Errorf("%s: %w", x.Name, err)
			}
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// sendTo sends spans and metrics to one place. When both fail for one reason,
// such as nobody being there, it is told once.
func (t *Trace) sendTo(ctx context.Context, res *resource.Resource, x Exporter) error {
	var metrics error
	var work sync.WaitGroup
	if x.Metrics != nil {
		work.Go(func() { metrics = sendMetrics(ctx, t.Metrics(res), x) })
	}
	var spans error
	if x.Spans != nil {
		spans = sendSpans(ctx, t.ReadOnly(res), x)
	}
	work.Wait()
	if spans != nil {
		return spans
	}
	return metrics
}

func sendSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan, x Exporter) error {
	e, err := x.Spans(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = e.Shutdown(ctx) }() // nothing is left to flush
	return e.ExportSpans(ctx, spans)
}

func sendMetrics(ctx context.Context, m *metricdata.ResourceMetrics, x Exporter) error {
	e, err := x.Metrics(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = e.Shutdown(ctx) }() // nothing is left to flush
	err = e.Export(ctx, m)
	if x.MayRefuseMetrics && refuses(err) {
		return nil
	}
	return err
}

// refuses reports whether there is a collector that does not take what it was
// sent. The exporter of OTLP over HTTP has no type for its errors.
func refuses(err error) bool {
	return err != nil && (status.Code(err) == grpccodes.Unimplemented || strings.Contains(err.Error(), ": 404 Not Found"))
}
