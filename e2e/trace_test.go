package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
)

const traceDockerfile = `ARG BASE
FROM $BASE AS build
COPY hello.txt /in
RUN sleep 0.2 && head -c 300000 /dev/urandom > /big
FROM $BASE
COPY --from=build /big /big
RUN cp /big /again
`

// traced is what a build is traced with in these tests.
type traced struct {
	jaeger   *services.Jaeger
	registry *services.Registry
	dir      string // the context
}

func newTraced(t *testing.T) traced {
	t.Helper()
	services.NeedRoot(t)
	j, err := services.StartJaeger(services.JaegerConfig{})
	x := traced{jaeger: services.Use(t, j, err), registry: services.NewRegistry(t), dir: t.TempDir()}
	x.write(t, "Dockerfile", traceDockerfile)
	x.write(t, "hello.txt", "hi\n")
	return x
}

func (x traced) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(x.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// args are those of a build that pushes an image and a cache.
func (x traced) args(name string, more ...string) []string {
	ref := x.registry.Addr + "/" + name
	return append(more, "--build-arg", "BASE="+x.registry.Addr+"/base", "-t", ref, "--push",
		"--cache-from", "type=registry,ref="+ref+":cache", "--cache-to", "type=registry,ref="+ref+":cache,mode=max", x.dir)
}

// traceMetadata is what these tests compare with.
type traceMetadata struct {
	Ref    string `json:"buildx.build.ref"`
	Digest string `json:"containerimage.digest"`
	Steps  []struct {
		Name, Digest string
		Cached       bool
		Seconds      float64
	} `json:"mayfly.steps"`
	Bytes struct{ Pulled, Pushed int64 } `json:"mayfly.bytes"`
	Cache []struct {
		Name, Action, Outcome string
		Blobs, Bytes          int64
	} `json:"mayfly.cache"`
}

func readMetadata(t *testing.T, path string) traceMetadata {
	t.Helper()
	dt, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m traceMetadata
	if err := json.Unmarshal(dt, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestTrace sends builds to a Jaeger in every way there is, and compares what
// it has kept with the metadata file.
func TestTrace(t *testing.T) {
	x := newTraced(t)
	j, err := services.StartJaeger(services.JaegerConfig{TLS: true})
	secure := services.Use(t, j, err)
	for _, tt := range []struct {
		name   string
		jaeger *services.Jaeger
		env    []string
	}{
		{"grpc", x.jaeger, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + x.jaeger.OTLPGRPC}},
		{"http", x.jaeger, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + x.jaeger.OTLPHTTP, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"}},
		{"tls", secure, []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=" + secure.OTLPGRPC, "OTEL_EXPORTER_OTLP_CERTIFICATE=" + secure.CAFile}},
		{"agent", x.jaeger, []string{"JAEGER_TRACE=" + x.jaeger.Agent}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := append(tt.env, "GITHUB_ACTIONS=true", "GITHUB_RUN_ID=77", "GITHUB_SERVER_URL=https://github.com",
				"GITHUB_REPOSITORY=acme/app", "GITHUB_REF=refs/heads/main", "GITHUB_SHA=5d1c0a")
			for _, cached := range []bool{false, true} {
				file := filepath.Join(t.TempDir(), "trace.json")
				b, err := mayfly(t.Context(), t, filepath.Join(t.TempDir(), "state"), env, x.args(tt.name, "--trace", file)...)
				if err != nil {
					t.Fatal(err)
				}
				meta := readMetadata(t, b.metadata)
				spans := x.find(t, tt.jaeger, file, "mayfly.build.ref", strings.TrimPrefix(meta.Ref, "mayfly/mayfly/"))
				compareTrace(t, spans, meta)
				if cached != (spanWith(spans, "mayfly.steps.ran", "0") != nil) {
					t.Errorf("cached %v, and the root's tags are %v", cached, rootOf(spans).Tags)
				}
				for key, want := range map[string]string{
					"service.name": "mayfly", "cicd.pipeline.run.id": "77", "cicd.pipeline.run.url.full": "https://github.com/acme/app/actions/runs/77",
					"vcs.repository.url.full": "https://github.com/acme/app", "vcs.ref.head.name": "main", "vcs.ref.head.revision": "5d1c0a",
				} {
					if got := spans[0].Process[key]; got != want {
						t.Errorf("the resource's %s is %q, not %q", key, got, want)
					}
				}
			}
		})
	}
}

// find returns the spans of a build, of which a file has all too.
func (x traced) find(t *testing.T, j *services.Jaeger, file, tag, value string) []services.JaegerSpan {
	t.Helper()
	dt, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	spans, err := j.Find(t.Context(), tag, value, bytes.Count(dt, []byte(`"spanId":`)))
	if err != nil {
		t.Fatal(err)
	}
	return spans
}

func rootOf(spans []services.JaegerSpan) *services.JaegerSpan {
	for i := range spans {
		if spans[i].Name == "mayfly build" {
			return &spans[i]
		}
	}
	return &services.JaegerSpan{}
}

func spanWith(spans []services.JaegerSpan, tag, value string) *services.JaegerSpan {
	for i := range spans {
		if spans[i].Tags[tag] == value {
			return &spans[i]
		}
	}
	return nil
}

// clocks is how many seconds lie at most between the two moments at which the
// end of a step is noted: for the metadata, and for the stream.
const clocks = 0.1

// compareTrace looks for everything in the metadata among the spans.
func compareTrace(t *testing.T, spans []services.JaegerSpan, meta traceMetadata) {
	t.Helper()
	root, ids := rootOf(spans), map[string]services.JaegerSpan{}
	for _, s := range spans {
		ids[s.ID] = s
	}
	for key, want := range map[string]string{
		"mayfly.result": "success", "mayfly.image.digest": meta.Digest,
		"mayfly.bytes.pulled": fmt.Sprint(meta.Bytes.Pulled), "mayfly.bytes.pushed": fmt.Sprint(meta.Bytes.Pushed),
	} {
		if root.Parent != "" || root.Tags[key] != want {
			t.Errorf("the root below %q has %s=%s, not %s", root.Parent, key, root.Tags[key], want)
		}
	}
	ran := 0
	for _, s := range spans {
		switch parent, ok := ids[s.Parent]; {
		case s.ID == root.ID:
			continue
		case !ok, s.Tags["vertex"] != "" && s.Parent != root.ID, s.Tags["vertex"] == "" && parent.Tags["vertex"] == "":
			t.Errorf("%s is below %q", s.Name, parent.Name)
		}
		if s.Start.Before(root.Start) || s.Start.Add(s.Duration).After(root.Start.Add(root.Duration+time.Millisecond)) {
			t.Errorf("%s is from %s for %s, and the build from %s for %s", s.Name, s.Start, s.Duration, root.Start, root.Duration)
		}
	}
	for _, step := range meta.Steps {
		s := spanWith(spans, "vertex", step.Digest)
		if s == nil || s.Name != step.Name || s.Tags["mayfly.cached"] != fmt.Sprint(step.Cached) {
			t.Errorf("step %+v is the span %+v", step, s)
			continue
		}
		if step.Cached {
			continue
		}
		got, err := strconv.ParseFloat(s.Tags["mayfly.seconds"], 64)
		if err != nil || math.Abs(got-step.Seconds) > clocks || s.Duration.Seconds() < got-0.001 {
			t.Errorf("%s took %gs; its span has %s and %gs, %v", step.Name, step.Seconds, s.Duration, got, err)
		}
		if s.Tags["mayfly.kind"] == "exec" {
			ran++
			if math.Abs(s.Duration.Seconds()-step.Seconds) > clocks {
				t.Errorf("%s took %gs; its span %s", step.Name, step.Seconds, s.Duration)
			}
		}
	}
	for _, c := range meta.Cache {
		found := false
		for _, s := range spans {
			found = found || s.Tags["mayfly.cache.name"] == c.Name && s.Tags["mayfly.cache.action"] == c.Action &&
				s.Tags["mayfly.cache.outcome"] == c.Outcome && s.Tags["mayfly.cache.blobs"] == fmt.Sprint(c.Blobs) && s.Tags["mayfly.cache.bytes"] == fmt.Sprint(c.Bytes)
		}
		if !found {
			t.Errorf("no span says %+v", c)
		}
	}
	if ran == 2 && (spanWith(spans, "mayfly.kind", "unpack") == nil || spanWith(spans, "mayfly.kind", "push") == nil) {
		t.Errorf("no span of unpacking or pushing among %d", len(spans))
	}
}

// TestTraceOfFailure: what fails or is stopped is sent too, and no secret is.
func TestTraceOfFailure(t *testing.T) {
	x := newTraced(t)
	x.write(t, "Dockerfile", `ARG BASE
FROM $BASE
ARG API_TOKEN
RUN --mount=type=secret,id=s echo ${API_TOKEN} $(cat /run/secrets/s) wide-secret && exit 3
`)
	env := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + x.jaeger.OTLPGRPC, "S=wide-secret"}
	file := filepath.Join(t.TempDir(), "trace.json")
	_, err := mayfly(t.Context(), t, filepath.Join(t.TempDir(), "state"), env,
		x.args("failed", "--secret", "id=s,env=S", "--build-arg", "API_TOKEN=arg-secret", "--trace", file)...)
	if err == nil {
		t.Fatal("the build succeeds")
	}
	spans := x.find(t, x.jaeger, file, "mayfly.result", "failure")
	root, step := rootOf(spans), spanWith(spans, "mayfly.kind", "exec")
	for _, s := range []*services.JaegerSpan{root, step} {
		if s == nil || s.Tags["error"] != "true" || !strings.Contains(s.Tags["otel.status_description"], "exit") {
			t.Errorf("the span is %+v", s)
		}
	}
	dt, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"wide-secret", "arg-secret"} {
		if text := fmt.Sprint(spans); strings.Contains(text, secret) || bytes.Contains(dt, []byte(secret)) {
			t.Errorf("%s is in the trace: %s\n%s", secret, text, dt)
		}
	}
	if !strings.Contains(step.Name, "echo *** $(cat /run/secrets/s) *** && exit 3") {
		t.Errorf("the step is called %s", step.Name)
	}

	// a collector that is told by file has the same
	resp, err := http.Post(x.jaeger.OTLPHTTP+"/v1/traces", "application/json", bytes.NewReader(bytes.ReplaceAll(dt, []byte(root.TraceID), []byte(strings.Repeat("ab", 16)))))
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the collector takes no file: %s: %s", resp.Status, answer)
	}
	if _, err := x.jaeger.Find(t.Context(), "mayfly.result", "failure", 2*len(spans)); err != nil {
		t.Error(err)
	}
}

func TestTraceOfStoppedBuild(t *testing.T) {
	x := newTraced(t)
	x.write(t, "Dockerfile", "ARG BASE\nFROM $BASE\nRUN echo now-sleeping && sleep 60\n")
	file := filepath.Join(t.TempDir(), "trace.json")
	cmd := exec.Command(mayflyBin, append([]string{"build", "--progress", "plain", "--trace", file, "--root", filepath.Join(t.TempDir(), "state")}, x.args("stopped")...)...)
	cmd.Env = append(os.Environ(), "OTEL_EXPORTER_OTLP_ENDPOINT="+x.jaeger.OTLPGRPC)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	buf := make([]byte, 4096)
	for stopped := false; ; {
		n, err := out.Read(buf)
		said.Write(buf[:n])
		if !stopped && strings.Contains(said.String(), " now-sleeping\n") {
			stopped = true
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Errorf("a build that was stopped succeeds: %s", &said)
	}
	spans := x.find(t, x.jaeger, file, "mayfly.result", "cancellation")
	if step := spanWith(spans, "mayfly.kind", "exec"); step == nil || step.Duration > 30*time.Second || rootOf(spans).Tags["error"] != "true" {
		t.Errorf("the step is %+v and the root %+v", step, rootOf(spans))
	}
}

// A collector that cannot be reached costs two seconds and a line.
func TestTraceUnreachable(t *testing.T) {
	services.NeedRoot(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY Dockerfile /\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tarpit, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tarpit.Close()
	build := func(env ...string) (time.Duration, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, mayflyBin, "build", "--progress", "plain", "--root", filepath.Join(t.TempDir(), "state"), "-o", "type=local,dest="+t.TempDir(), dir)
		cmd.Env = append(os.Environ(), env...)
		began := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v: %s", env, err, out)
		}
		return time.Since(began), string(out)
	}
	const most = 2500 * time.Millisecond
	alone, out := build()
	if strings.Contains(out, "trace") {
		t.Errorf("nobody asked for a trace: %s", out)
	}
	for _, to := range []string{"http://127.0.0.1:1", "http://" + tarpit.Addr().String()} {
		for _, protocol := range []string{"grpc", "http/protobuf"} {
			env := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + to, "OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol}
			took, out := build(env...)
			for tries := 1; tries < 3 && took-alone > most; tries++ { // the machine may have been busy
				took, out = build(env...)
			}
			t.Logf("%s over %s: %s more", to, protocol, took-alone)
			if took-alone > most {
				t.Errorf("%s over %s: %s more than %s", to, protocol, took-alone, alone)
			}
			if strings.Count(out, "warning:") != 1 || strings.Count(out, "warning: trace: OTLP to "+to) != 1 {
				t.Errorf("%s over %s: %s", to, protocol, out)
			}
		}
	}
}

// TestTraceParent: a build is part of the trace that started it; its steps are
// parts of the build when asked, and their keys are the same.
func TestTraceParent(t *testing.T) {
	x := newTraced(t)
	x.write(t, "Dockerfile", "ARG BASE\nFROM $BASE\nRUN echo ${TRACEPARENT:-none} > /parent\n")
	root := filepath.Join(t.TempDir(), "state")
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	env := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + x.jaeger.OTLPGRPC, "TRACEPARENT=00-" + trace + "-" + span + "-01"}
	out := t.TempDir()
	args := []string{"--build-arg", "BASE=" + x.registry.Addr + "/base", "-o", "type=local,dest=" + out, x.dir}
	parent := func() string {
		dt, err := os.ReadFile(filepath.Join(out, "parent"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(dt))
	}
	file := filepath.Join(t.TempDir(), "trace.json")
	if _, err := mayfly(t.Context(), t, root, env, append([]string{"--trace-steps", "--trace", file}, args...)...); err != nil {
		t.Fatal(err)
	}
	spans := x.find(t, x.jaeger, file, "mayfly.kind", "exec")
	if r := rootOf(spans); r.TraceID != trace || r.Parent != span {
		t.Errorf("the root is in trace %s below %s", r.TraceID, r.Parent)
	}
	if want := "00-" + trace + "-" + spanWith(spans, "mayfly.kind", "exec").ID + "-01"; parent() != want {
		t.Errorf("the step had %s, and its span is %s", parent(), want)
	}
	first := parent()
	env[1] = "TRACEPARENT=00-11111111111111111111111111111111-" + span + "-01"
	for _, more := range [][]string{{"--trace-steps"}, {}} {
		b, err := mayfly(t.Context(), t, root, env, append(more, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		if ran := uncached(b.steps); len(ran) > 0 || parent() != first {
			t.Errorf("%q: ran %q and has %s", more, ran, parent())
		}
	}
	if _, err := mayfly(t.Context(), t, root, env, append([]string{"--no-cache"}, args...)...); err != nil {
		t.Fatal(err)
	}
	if parent() != "none" {
		t.Errorf("a step that nobody asked to trace had %s", parent())
	}
}
