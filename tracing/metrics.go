package tracing

import (
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
)

// durations are the bounds of the histogram of build durations, in seconds.
var durations = []float64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600}

// Metrics returns the build's metrics. Their temporality is delta: a process
// that builds once has nothing to add to.
//
//	mayfly.build.duration   histogram, s     by mayfly.result
//	mayfly.steps            sum, {step}      by mayfly.cached; without sources
//	mayfly.cache.hit_ratio  gauge, 1         steps cached of all; absent without steps
//	mayfly.bytes.pulled     sum, By          read from registries
//	mayfly.bytes.pushed     sum, By          written to registries
func (t *Trace) Metrics(res *resource.Resource) *metricdata.ResourceMetrics {
	root := t.Spans[0]
	sum := func(name, unit, help string, points ...metricdata.DataPoint[int64]) metricdata.Metrics {
		return metricdata.Metrics{Name: name, Unit: unit, Description: help, Data: metricdata.Sum[int64]{
			Temporality: metricdata.DeltaTemporality, IsMonotonic: true, DataPoints: points,
		}}
	}
	point := func(n int64, attrs ...attribute.KeyValue) metricdata.DataPoint[int64] {
		return metricdata.DataPoint[int64]{Attributes: attribute.NewSet(attrs...), StartTime: root.Start, Time: root.End, Value: n}
	}
	ms := []metricdata.Metrics{
		{
			Name: "mayfly.build.duration", Unit: "s", Description: "Time that builds take.",
			Data: metricdata.Histogram[float64]{
				Temporality: metricdata.DeltaTemporality,
				DataPoints:  []metricdata.HistogramDataPoint[float64]{observed(t.Duration, root, attribute.String(keyResult, t.Result))},
			},
		},
		sum("mayfly.steps", "{step}", "Steps that were cached or ran, without sources.",
			point(int64(t.Cached), attribute.Bool(keyCached, true)), point(int64(t.Ran), attribute.Bool(keyCached, false))),
		sum("mayfly.bytes.pulled", "By", "Bytes read from registries.", point(t.BytesIn)),
		sum("mayfly.bytes.pushed", "By", "Bytes written to registries.", point(t.BytesOut)),
	}
	if all := t.Cached + t.Ran; all > 0 {
		ms = append(ms, metricdata.Metrics{
			Name: "mayfly.cache.hit_ratio", Unit: "1", Description: "Part of the steps that were cached.",
			Data: metricdata.Gauge[float64]{DataPoints: []metricdata.DataPoint[float64]{{
				Time: root.End, Value: float64(t.Cached) / float64(all),
			}}},
		})
	}
	return &metricdata.ResourceMetrics{Resource: res, ScopeMetrics: []metricdata.ScopeMetrics{{
		Scope: instrumentation.Scope{Name: scope}, Metrics: ms,
	}}}
}

// observed is a histogram of one value.
func observed(d time.Duration, root Span, attrs ...attribute.KeyValue) metricdata.HistogramDataPoint[float64] {
	at, _ := slices.BinarySearch(durations, d.Seconds()) // a bound is the last value of its bucket
	counts := make([]uint64, len(durations)+1)
	counts[at] = 1
	v := metricdata.NewExtrema(d.Seconds())
	return metricdata.HistogramDataPoint[float64]{
		Attributes: attribute.NewSet(attrs...), StartTime: root.Start, Time: root.End,
		Count: 1, Sum: d.Seconds(), Bounds: durations, BucketCounts: counts, Min: v, Max: v,
	}
}
