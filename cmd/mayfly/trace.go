package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"

	"github.com/mayfly-build/mayfly/ci"
	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/tracing"
)

// A tracer follows one build for whoever is configured to hear of it. When
// that is nobody it has no recorder and costs nothing.
type tracer struct {
	w       world
	quiet   bool
	began   time.Time
	parent  trace.SpanContext // from TRACEPARENT
	steps   bool              // RUN steps are told their span
	to      []tracing.Exporter
	wrong   []string // what is configured and cannot be done
	rec     *tracing.Recorder
	redact  *redactor
	traffic *registry.Client // nil before there is one
}

// newTracer reads the flags and variables. Trouble with them is a warning at
// the end: no build fails for its trace.
func newTracer(w world, o buildOptions) *tracer {
	t := &tracer{
		w: w, quiet: !talks(o), began: time.Now(), steps: o.traceSteps,
		parent: tracing.Parse(w.env("TRACEPARENT"), w.env("TRACESTATE")),
	}
	c := traceConfig{w: w, file: o.trace, unsampled: t.parent.IsValid() && !t.parent.IsSampled()}
	t.to = c.exporters()
	t.wrong = c.wrong
	if len(t.to) > 0 || len(t.wrong) > 0 {
		t.redact = newRedactor(w, o)
	}
	if len(t.to) > 0 {
		t.rec = tracing.NewRecorder(tracing.Config{Parent: t.parent, Began: t.began, Redact: t.redact.text})
	}
	return t
}

// follow makes a request one whose build is recorded.
func (t *tracer) follow(req *engine.Request) {
	t.traffic = req.Registry
	switch {
	case t.rec == nil && t.steps && t.parent.IsValid():
		// Nothing of ours is between the steps and who started the build.
		env := tracing.Env(t.parent)
		req.StepEnv = func(digest.Digest) []string { return env }
	case t.rec != nil && t.steps:
		req.StepEnv = t.rec.Env
	}
	if t.rec != nil {
		req.Secrets = t.redact.watch(req.Secrets)
	}
}

// sinks returns who else reads the build's events.
func (t *tracer) sinks() []func(*client.SolveStatus) {
	if t.rec == nil {
		return nil
	}
	return []func(*client.SolveStatus){t.rec.Event}
}

// sendTimeout is what sending may add to a build, unless
// OTEL_EXPORTER_OTLP_TIMEOUT says how long a collector is waited for.
const sendTimeout = 2 * time.Second

// finish sends the trace of a build that is over, whatever came of it: res is
// nil when it failed. What goes wrong is one line of warning.
func (t *tracer) finish(ctx context.Context, res *engine.Result, err error) {
	wrong := t.wrong
	if t.rec != nil {
		if err := t.send(ctx, t.rec.Finish(t.result(ctx, res, err))); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	if len(wrong) > 0 && !t.quiet {
		line := strings.Join(strings.Fields(strings.Join(wrong, "; ")), " ")
		fmt.Fprintf(t.w.stderr, "warning: trace: %s\n", t.redact.text(line))
	}
}

func (t *tracer) send(ctx context.Context, built *tracing.Trace) error {
	// The packages of OpenTelemetry read their variables themselves, and
	// would print what they do not like about them, values included.
	otel.SetLogger(logr.Discard())
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.timeout())
	defer cancel()
	res, err := resource.Merge(tracing.Resource(version, ci.Detect(t.w.env, os.ReadFile)), resource.Environment())
	if err != nil && !errors.Is(err, resource.ErrSchemaURLConflict) {
		return fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return built.Send(ctx, res, t.to)
}

func (t *tracer) timeout() time.Duration {
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"} {
		if ms, err := strconv.Atoi(t.w.env(name)); err == nil && ms > 0 {
			return time.Duration(ms) * time.Millisecond
		}
	}
	return sendTimeout
}

// result says what came of the build.
func (t *tracer) result(ctx context.Context, res *engine.Result, err error) tracing.Result {
	out := tracing.Result{Err: err, Cancelled: err != nil && ctx.Err() != nil}
	if t.traffic != nil {
		s := t.traffic.Stats()
		out.BytesIn, out.BytesOut = s.BytesIn, s.BytesOut
	}
	if res == nil {
		return out
	}
	out.Ref, out.Digest, out.Names = res.Ref, res.Digest, res.Names
	for _, c := range res.Caches {
		out.Caches = append(out.Caches, tracing.Cache{
			Name: c.Name, Export: c.Export, Outcome: c.Outcome, Reason: c.Reason, Blobs: c.Blobs, Bytes: c.Bytes, Carried: c.Carried,
		})
	}
	return out
}
