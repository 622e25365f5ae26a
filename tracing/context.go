package tracing

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Parse reads the span that a build belongs to from the values of TRACEPARENT
// and TRACESTATE, in W3C's form. A value that is empty or malformed gives a
// context that is not valid, as the specification wants it.
func Parse(traceparent, tracestate string) trace.SpanContext {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{
		"traceparent": traceparent, "tracestate": tracestate,
	})
	return trace.SpanContextFromContext(ctx)
}

// Env returns the variables from which Parse reads parent, as NAME=VALUE; none
// when it is not valid.
func Env(parent trace.SpanContext) (env []string) {
	m := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), parent), m)
	if v := m["traceparent"]; v != "" {
		env = append(env, "TRACEPARENT="+v)
	}
	if v := m["tracestate"]; v != "" {
		env = append(env, "TRACESTATE="+v)
	}
	return env
}
