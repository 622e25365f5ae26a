package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	//nolint:staticcheck // deprecated for OTLP, and still what JAEGER_TRACE means: BuildKit sends by the same package
	"go.opentelemetry.io/otel/exporters/jaeger"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/mayfly-build/mayfly/tracing"
)

// A traceConfig says who is to hear of a build. Which exporters there are is
// decided here; endpoints, headers, certificates, compression and insecure are
// read by the exporters themselves, as OpenTelemetry specifies.
type traceConfig struct {
	w         world
	file      string // of --trace; "" for none
	unsampled bool   // who started the build does not want its spans

	wrong []string // what is configured and cannot be done
}

// The variables that name exporters, and where OTLP goes.
const (
	tracesExporter  = "OTEL_TRACES_EXPORTER"
	metricsExporter = "OTEL_METRICS_EXPORTER"
	otlpEndpoint    = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tracesEndpoint  = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	metricsEndpoint = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
)

// exporters returns who is configured.
func (c *traceConfig) exporters() (to []tracing.Exporter) {
	if off, _ := strconv.ParseBool(c.w.env("OTEL_SDK_DISABLED")); !off {
		traces, metrics := c.named(tracesExporter, "otlp", "jaeger"), c.named(metricsExporter, "otlp")
		if !c.isSet(tracesExporter) && c.isSet(otlpEndpoint, tracesEndpoint) {
			traces = append(traces, "otlp")
		}
		if !c.isSet(tracesExporter) && c.isSet("JAEGER_TRACE", "OTEL_EXPORTER_JAEGER_AGENT_HOST", "OTEL_EXPORTER_JAEGER_ENDPOINT") {
			traces = append(traces, "jaeger")
		}
		if !c.isSet(metricsExporter) && c.isSet(otlpEndpoint, metricsEndpoint) {
			metrics = append(metrics, "otlp")
		}
		to = append(to, c.otlp(slices.Contains(traces, "otlp"), slices.Contains(metrics, "otlp"))...)
		if slices.Contains(traces, "jaeger") {
			to = append(to, c.jaeger()...)
		}
	}
	if c.file != "" {
		to = append(to, tracing.Exporter{Name: "--trace " + c.file, Spans: func(context.Context) (sdktrace.SpanExporter, error) {
			return tracing.NewJSON(func(dt []byte) error { return writeWhole(c.file, dt) }), nil
		}})
	}
	return to
}

func (c *traceConfig) isSet(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return c.w.env(name) != "" })
}

// named returns the exporters that a variable names.
func (c *traceConfig) named(variable string, known ...string) (names []string) {
	for name := range strings.SplitSeq(c.w.env(variable), ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		switch {
		case name == "" || name == "none":
		case slices.Contains(known, name):
			names = append(names, name)
		default:
			c.fail("%s: %q is none of %s, none", variable, name, strings.Join(known, ", "))
		}
	}
	return names
}

func (c *traceConfig) fail(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// otlp makes the exporter of OTLP; none when neither signal is sent.
func (c *traceConfig) otlp(traces, metrics bool) []tracing.Exporter {
	if !traces && !metrics {
		return nil
	}
	for _, name := range []string{otlpEndpoint, tracesEndpoint, metricsEndpoint} {
		if v := c.w.env(name); v != "" && !strings.Contains(v, "://") {
			c.fail("%s=%s is no URL: put http:// or https:// before it", name, v)
			return nil
		}
	}
	// A collector of traces alone, such as Jaeger, is no reason to complain
	// unless metrics were asked for by name.
	x := tracing.Exporter{Name: "OTLP to " + c.endpoint(traces), MayRefuseMetrics: !c.isSet(metricsExporter, metricsEndpoint)}
	r := retries()
	if traces && !c.unsampled {
		switch p := c.protocol("TRACES"); p {
		case "grpc":
			x.Spans = func(ctx context.Context) (sdktrace.SpanExporter, error) {
				return otlptrace.New(ctx, otlptracegrpc.NewClient(otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig(r))))
			}
		case "http/protobuf":
			x.Spans = func(ctx context.Context) (sdktrace.SpanExporter, error) {
				return otlptrace.New(ctx, otlptracehttp.NewClient(otlptracehttp.WithRetry(otlptracehttp.RetryConfig(r))))
			}
		}
	}
	if metrics {
		switch p := c.protocol("METRICS"); p {
		case "grpc":
			x.Metrics = func(ctx context.Context) (sdkmetric.Exporter, error) {
				return otlpmetricgrpc.New(ctx, otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig(r)))
			}
		case "http/protobuf":
			x.Metrics = func(ctx context.Context) (sdkmetric.Exporter, error) {
				return otlpmetrichttp.New(ctx, otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig(r)))
			}
		}
	}
	if x.Spans == nil && x.Metrics == nil {
		return nil
	}
	return []tracing.Exporter{x}
}

// endpoint returns what a warning calls the collector.
func (c *traceConfig) endpoint(traces bool) string {
	own := metricsEndpoint
	if traces {
		own = tracesEndpoint
	}
	return cmp.Or(c.w.env(own), c.w.env(otlpEndpoint), "this machine")
}

// retryConfig has the fields of each exporter's RetryConfig.
type retryConfig struct {
	Enabled                                      bool
	InitialInterval, MaxInterval, MaxElapsedTime time.Duration
}

// retries is for collectors that ask for patience, within sendTimeout; one
// that is not there is given up sooner.
func retries() retryConfig {
	return retryConfig{true, 200 * time.Millisecond, 400 * time.Millisecond, time.Second}
}

// protocol returns how a signal is sent: grpc unless the variables say, as
// BuildKit has it.
func (c *traceConfig) protocol(signal string) string {
	own, all := "OTEL_EXPORTER_OTLP_"+signal+"_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
	p := cmp.Or(c.w.env(own), c.w.env(all), "grpc")
	if p != "grpc" && p != "http/protobuf" {
		c.fail("OTLP protocol %q of %s is none of grpc, http/protobuf", p, strings.ToLower(signal))
	}
	return p
}

// jaeger makes the exporter of JAEGER_TRACE: HOST:PORT of an agent, or the URL
// of a collector that takes Thrift.
func (c *traceConfig) jaeger() []tracing.Exporter {
	to := cmp.Or(c.w.env("JAEGER_TRACE"), c.w.env("OTEL_EXPORTER_JAEGER_ENDPOINT"), net.JoinHostPort(
		cmp.Or(c.w.env("OTEL_EXPORTER_JAEGER_AGENT_HOST"), "localhost"), cmp.Or(c.w.env("OTEL_EXPORTER_JAEGER_AGENT_PORT"), "6831")))
	x := tracing.Exporter{Name: "Jaeger at " + to}
	host, port, err := net.SplitHostPort(to)
	switch {
	case strings.HasPrefix(to, "http://") || strings.HasPrefix(to, "https://"):
		x.Spans = func(context.Context) (sdktrace.SpanExporter, error) {
			return jaeger.New(jaeger.WithCollectorEndpoint(jaeger.WithEndpoint(to)))
		}
	case err != nil:
		c.fail("JAEGER_TRACE=%s is neither HOST:PORT nor a URL", to)
		return nil
	default:
		x.Spans = func(ctx context.Context) (sdktrace.SpanExporter, error) {
			// The exporter would look the name up for as long as it takes.
			addrs, err := net.DefaultResolver.LookupHost(ctx, host)
			if err != nil {
				return nil, err
			}
			return jaeger.New(jaeger.WithAgentEndpoint(
				jaeger.WithAgentHost(addrs[0]), jaeger.WithAgentPort(port), jaeger.WithDisableAttemptReconnecting()))
		}
	}
	if c.unsampled {
		return nil
	}
	return []tracing.Exporter{x}
}
