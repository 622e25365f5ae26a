package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-build/mayfly/engine"
)

// Which variables configure what, as OpenTelemetry and BuildKit document them.
func TestTraceExporters(t *testing.T) {
	const at = "http://h:1"
	tests := []struct {
		env  map[string]string
		file string
		want string // exporters, each with what it takes
		warn string // part of the warning
	}{
		{want: ""},
		{file: "f", want: "--trace f (spans)"},
		{env: map[string]string{otlpEndpoint: at}, want: "OTLP to http://h:1 (spans metrics)"},
		{env: map[string]string{tracesEndpoint: at}, want: "OTLP to http://h:1 (spans)"},
		{env: map[string]string{metricsEndpoint: at}, want: "OTLP to http://h:1 (metrics)"},
		{env: map[string]string{tracesExporter: "otlp"}, want: "OTLP to this machine (spans)"},
		{env: map[string]string{tracesExporter: "none", otlpEndpoint: at}, want: "OTLP to http://h:1 (metrics)"},
		{env: map[string]string{metricsExporter: "none", otlpEndpoint: at}, want: "OTLP to http://h:1 (spans)"},
		{env: map[string]string{tracesExporter: "none", metricsExporter: "none", otlpEndpoint: at, "JAEGER_TRACE": "h:1"}, want: ""},
		{env: map[string]string{"OTEL_SDK_DISABLED": "true", otlpEndpoint: at, "JAEGER_TRACE": "h:1"}, want: ""},
		{env: map[string]string{"OTEL_SDK_DISABLED": "true", otlpEndpoint: at}, file: "f", want: "--trace f (spans)"},
		{env: map[string]string{"JAEGER_TRACE": "h:1"}, want: "Jaeger at h:1 (spans)"},
		{env: map[string]string{"JAEGER_TRACE": "https://h/api/traces"}, want: "Jaeger at https://h/api/traces (spans)"},
		{env: map[string]string{"JAEGER_TRACE": "h:1", tracesExporter: "otlp"}, want: "OTLP to this machine (spans)"},
		{env: map[string]string{tracesExporter: "jaeger"}, want: "Jaeger at localhost:6831 (spans)"},
		{env: map[string]string{"OTEL_EXPORTER_JAEGER_AGENT_HOST": "j"}, want: "Jaeger at j:6831 (spans)"},
		{env: map[string]string{otlpEndpoint: at, "JAEGER_TRACE": "h:1"}, file: "f", want: "OTLP to http://h:1 (spans metrics), Jaeger at h:1 (spans), --trace f (spans)"},
		{env: map[string]string{tracesExporter: "otlp, jaeger"}, want: "OTLP to this machine (spans), Jaeger at localhost:6831 (spans)"},
		{env: map[string]string{tracesExporter: "zipkin", otlpEndpoint: at}, want: "OTLP to http://h:1 (metrics)", warn: `"zipkin" is none of otlp, jaeger, none`},
		{env: map[string]string{"JAEGER_TRACE": "h"}, want: "", warn: "neither HOST:PORT nor a URL"},
		{env: map[string]string{otlpEndpoint: "h:4317"}, want: "", warn: "h:4317 is no URL"},
		{env: map[string]string{otlpEndpoint: "token=abc@h:4317"}, want: "", warn: "token=*** is no URL"},
		{env: map[string]string{otlpEndpoint: at, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, want: "", warn: `protocol "http/json" of traces is none of`},
		{env: map[string]string{otlpEndpoint: at, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, want: "OTLP to http://h:1 (spans metrics)"},
		// Who started the build does not sample: a file is asked for all the same.
		{
			env:  map[string]string{otlpEndpoint: at, "JAEGER_TRACE": "h:1", "TRACEPARENT": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"},
			file: "f", want: "OTLP to http://h:1 (metrics), --trace f (spans)",
		},
	}
	for _, tt := range tests {
		w := worldOf(tt.env, "")
		tr := newTracer(w, buildOptions{trace: tt.file})
		var got []string
		for _, x := range tr.to {
			var takes []string
			if x.Spans != nil {
				takes = append(takes, "spans")
			}
			if x.Metrics != nil {
				takes = append(takes, "metrics")
			}
			got = append(got, x.Name+" ("+strings.Join(takes, " ")+")")
		}
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("%v: %s, not %s", tt.env, s, tt.want)
		}
		if (tr.rec != nil) != (tt.want != "") || (len(tr.sinks()) > 0) != (tt.want != "") {
			t.Errorf("%v: recorder %v, %d sinks", tt.env, tr.rec, len(tr.sinks()))
		}
		tr.to = nil
		tr.finish(t.Context(), nil, nil)
		said := w.stderr.(*bytes.Buffer).String()
		if tt.warn == "" && said != "" || !strings.Contains(said, tt.warn) || tt.warn != "" && strings.Count(said, "\n") != 1 {
			t.Errorf("%v: the warning is %q", tt.env, said)
		}
	}
}

// Without an exporter a build is what it was.
func TestNoTrace(t *testing.T) {
	tr := newTracer(worldOf(nil, ""), buildOptions{})
	var req engine.Request
	tr.follow(&req)
	if tr.rec != nil || tr.redact != nil || req.StepEnv != nil || req.Secrets != nil {
		t.Errorf("the tracer is %+v and the request %+v", tr, req)
	}
}

// RUN steps are children of the span that started the build where there is
// none of ours, and only when it is asked for.
func TestTraceSteps(t *testing.T) {
	env := map[string]string{"TRACEPARENT": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	for _, tt := range []struct {
		o    buildOptions
		want string // prefix of the variable
	}{
		{buildOptions{}, ""},
		{buildOptions{trace: "f"}, ""},
		{buildOptions{traceSteps: true}, "TRACEPARENT=" + env["TRACEPARENT"]},
		{buildOptions{traceSteps: true, trace: "f"}, "TRACEPARENT=00-4bf92f3577b34da6a3ce929d0e0e4736-"},
	} {
		var req engine.Request
		tr := newTracer(worldOf(env, ""), tt.o)
		tr.follow(&req)
		var got []string
		if req.StepEnv != nil {
			got = req.StepEnv("sha256:1")
		}
		if tt.want == "" && got != nil || tt.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tt.want)) {
			t.Errorf("%+v: %q", tt.o, got)
		}
		if tr.rec != nil && got != nil && strings.Contains(got[0], "00f067aa0ba902b7") {
			t.Errorf("the step is told of its grandparent: %s", got)
		}
	}
}

// A collector takes OTLP over HTTP.
type collector struct {
	*httptest.Server
	mu      sync.Mutex
	spans   []string
	metrics []string
	auth    []string
	status  int // to answer with; 0 means 200
}

func newCollector(t *testing.T) *collector {
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dt, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.status != 0 {
			w.WriteHeader(c.status)
			return
		}
		c.auth = append(c.auth, r.Header.Get("Authorization"))
		switch r.URL.Path {
		case "/v1/traces":
			var req collectortrace.ExportTraceServiceRequest
			if err := proto.Unmarshal(dt, &req); err != nil {
				t.Error(err)
			}
			for _, s := range req.ResourceSpans[0].ScopeSpans[0].Spans {
				c.spans = append(c.spans, s.Name)
			}
		case "/v1/metrics":
			var req collectormetrics.ExportMetricsServiceRequest
			if err := proto.Unmarshal(dt, &req); err != nil {
				t.Error(err)
			}
			for _, m := range req.ResourceMetrics[0].ScopeMetrics[0].Metrics {
				c.metrics = append(c.metrics, m.Name)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// build runs a build with variables, which the exporters read themselves.
func (c *collector) build(t *testing.T, env map[string]string, args ...string) (code int, stderr string) {
	t.Helper()
	all := map[string]string{otlpEndpoint: c.URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
	for k, v := range env {
		all[k] = v
	}
	for k, v := range all {
		t.Setenv(k, v)
	}
	code, _, stderr = mayfly(t, all, "", append([]string{"build", "--root", t.TempDir(), "--progress", "plain", "-o", "type=local,dest=" + t.TempDir()}, args...)...)
	return code, stderr
}

func TestTraceAndMetricsOverOTLP(t *testing.T) {
	c := newCollector(t)
	code, stderr := c.build(t, map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer abc"}, contextDir(t))
	if code != exitOK || strings.Contains(stderr, "warning: trace") {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if c.spans[0] != "mayfly build" || !slices.Contains(c.spans, "[1/1] COPY f /") || !slices.Contains(c.spans, "exporting to local") {
		t.Errorf("the spans are %q", c.spans)
	}
	if len(c.metrics) != 5 || !slices.Contains(c.metrics, "mayfly.build.duration") {
		t.Errorf("the metrics are %q", c.metrics)
	}
	if !slices.Equal(c.auth, []string{"Bearer abc", "Bearer abc"}) {
		t.Errorf("the header is %q", c.auth)
	}
}

func TestTraceOfAnAction(t *testing.T) {
	c := newCollector(t)
	dir := contextDir(t)
	env := map[string]string{
		otlpEndpoint: c.URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
		"INPUT_CONTEXT": dir, "INPUT_ROOT": t.TempDir(), "INPUT_CACHE": "off", "INPUT_OUTPUTS": "type=local,dest=" + t.TempDir(),
		"GITHUB_OUTPUT": filepath.Join(dir, "output"), "GITHUB_STEP_SUMMARY": filepath.Join(dir, "summary"), "GITHUB_WORKSPACE": dir,
	}
	for k, v := range env {
		t.Setenv(k, v)
	}
	if code, stdout, stderr := mayfly(t, env, "", "action"); code != exitOK || !slices.Contains(c.spans, "[1/1] COPY f /") {
		t.Errorf("exit %d, spans %q: %s%s", code, c.spans, stdout, stderr)
	}
}

// A build that cannot even begin has a trace; trouble with it is a line.
func TestTraceOfAFailedBuild(t *testing.T) {
	c := newCollector(t)
	code, stderr := c.build(t, nil, filepath.Join(t.TempDir(), "nothing"))
	if code != exitFailed || !slices.Equal(c.spans, []string{"mayfly build"}) || strings.Contains(stderr, "trace") {
		t.Errorf("exit %d, spans %q: %s", code, c.spans, stderr)
	}
}

func TestCollectorThatFails(t *testing.T) {
	c := newCollector(t)
	for _, status := range []int{http.StatusInternalServerError, http.StatusUnauthorized, http.StatusServiceUnavailable} {
		c.status = status
		began := time.Now()
		code, stderr := c.build(t, nil, contextDir(t))
		if code != exitOK || strings.Count(stderr, "warning: trace:") != 1 || !strings.Contains(stderr, c.URL) {
			t.Errorf("%d: exit %d: %s", status, code, stderr)
		}
		if took := time.Since(began); took > 2*sendTimeout {
			t.Errorf("%d: it takes %s", status, took)
		}
	}
	if _, stderr := c.build(t, nil, "--progress", "quiet", contextDir(t)); strings.Contains(stderr, "warning") {
		t.Errorf("it is not quiet: %s", stderr)
	}
}

func TestTraceFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace.json")
	env := map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_RUN_ID": "77", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "acme/app"}
	code, _, stderr := mayfly(t, env, "", "build", "--root", t.TempDir(), "--trace", file, "-o", "type=local,dest="+t.TempDir(), contextDir(t))
	if code != exitOK {
		t.Fatal(stderr)
	}
	dt, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		ResourceSpans []struct{ Resource json.RawMessage }
	}
	if err := json.Unmarshal(dt, &got); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"cicd.pipeline.run.id","value":{"stringValue":"77"}`, "https://github.com/acme/app"} {
		if !bytes.Contains(got.ResourceSpans[0].Resource, []byte(want)) {
			t.Errorf("the resource has no %s: %s", want, got.ResourceSpans[0].Resource)
		}
	}
	code, _, stderr = mayfly(t, nil, "", "build", "--root", t.TempDir(), "--trace", "/dev/null/x", "-o", "type=local,dest="+t.TempDir(), contextDir(t))
	if code != exitOK || strings.Count(stderr, "warning: trace: --trace /dev/null/x: ") != 1 {
		t.Errorf("a file that cannot be written: exit %d: %s", code, stderr)
	}
}

func TestTraceTimeout(t *testing.T) {
	for _, tt := range []struct {
		env  map[string]string
		want time.Duration
	}{
		{nil, sendTimeout},
		{map[string]string{"OTEL_EXPORTER_OTLP_TIMEOUT": "500"}, 500 * time.Millisecond},
		{map[string]string{"OTEL_EXPORTER_OTLP_TIMEOUT": "500", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "7000"}, 7 * time.Second},
		{map[string]string{"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, sendTimeout},
		{map[string]string{"OTEL_EXPORTER_OTLP_TIMEOUT": "0"}, sendTimeout},
	} {
		if got := (&tracer{w: worldOf(tt.env, "")}).timeout(); got != tt.want {
			t.Errorf("%v: %s", tt.env, got)
		}
	}
}
