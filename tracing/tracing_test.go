package tracing

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/attribute"
)

// epoch is when the builds of the tests begin.
func epoch() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func at(ms int) *time.Time {
	t := epoch().Add(time.Duration(ms) * time.Millisecond)
	return &t
}

// A feed tells a Recorder of a build, as engine/progress does it.
type feed struct{ r *Recorder }

func newFeed(cfg Config) feed {
	cfg.Began = epoch()
	return feed{NewRecorder(cfg)}
}

func vtx(name string, inputs int) client.Vertex {
	return client.Vertex{Digest: digest.FromString(name), Name: name, Inputs: make([]digest.Digest, inputs)}
}

func (f feed) vertex(v client.Vertex) { f.r.Event(&client.SolveStatus{Vertexes: []*client.Vertex{&v}}) }

func (f feed) begin(v client.Vertex, ms int) {
	v.Started = at(ms)
	f.vertex(v)
}

func (f feed) end(v client.Vertex, from, to int, err string) {
	v.Started, v.Completed, v.Error = at(from), at(to), err
	f.vertex(v)
}

func (f feed) cached(v client.Vertex, started, ms int) {
	v.Started, v.Completed, v.Cached = at(started), at(ms), true
	f.vertex(v)
}

func (f feed) part(v client.Vertex, id string, from, now int, current, total int64, done bool) {
	s := client.VertexStatus{ID: id, Vertex: v.Digest, Timestamp: *at(now), Started: at(from), Current: current, Total: total}
	if done {
		s.Completed = at(now)
	}
	f.r.Event(&client.SolveStatus{Statuses: []*client.VertexStatus{&s}})
}

// tree shows a trace: a line per span, indented, with its milliseconds.
func tree(t *Trace) string {
	var out strings.Builder
	var show func(parent Span, indent string)
	line := func(s Span, indent string) {
		fmt.Fprintf(&out, "%s%s %d-%d", indent, s.Name, s.Start.Sub(epoch()).Milliseconds(), s.End.Sub(epoch()).Milliseconds())
		attrs := slices.Clone(s.Attrs)
		slices.SortFunc(attrs, func(a, b attribute.KeyValue) int { return cmp.Compare(a.Key, b.Key) })
		for _, a := range attrs {
			if a.Key != keyVertex {
				fmt.Fprintf(&out, " %s=%s", strings.TrimPrefix(string(a.Key), "mayfly."), a.Value.String())
			}
		}
		if s.Failed {
			fmt.Fprintf(&out, " FAILED %s", s.Error)
		}
		for _, e := range s.Events {
			fmt.Fprintf(&out, " (%s %d", e.Name, e.Time.Sub(epoch()).Milliseconds())
			for _, a := range e.Attrs {
				fmt.Fprintf(&out, " %s=%s", strings.TrimPrefix(string(a.Key), "mayfly."), a.Value.String())
			}
			out.WriteString(")")
		}
		out.WriteString("\n")
	}
	show = func(parent Span, indent string) {
		line(parent, indent)
		for _, s := range t.Spans {
			if s.Parent == parent.ID {
				show(s, indent+"  ")
			}
		}
	}
	show(t.Spans[0], "")
	return out.String()
}

func check(t *testing.T, got *Trace, want string) {
	t.Helper()
	if s := tree(got); s != want {
		t.Errorf("the spans are\n%s, not\n%s", s, want)
	}
	if n := strings.Count(want, "\n"); n != len(got.Spans) {
		t.Errorf("%d spans, %d of them below the root or it", len(got.Spans), n)
	}
}

func TestSpansOfABuild(t *testing.T) {
	f := newFeed(Config{})
	imp := vtx("importing cache manifest from registry r/app:cache", 0)
	from, copied := vtx("[build 1/3] FROM r/base@sha256:1", 0), vtx("[build 2/3] COPY . /src", 2)
	run, last := vtx("[build 3/3] RUN make", 1), vtx("[stage-1 2/2] RUN true", 1)
	push, exp := vtx("pushing image", 0), vtx("exporting cache to gha main", 0)
	f.begin(imp, 1)
	f.begin(from, 2) // what does it name?
	f.end(from, 2, 5, "")
	f.end(imp, 1, 6, "")
	f.begin(copied, 10)
	f.part(copied, "extracting sha256:aa", 11, 11, 0, 500, false)
	f.part(copied, "extracting sha256:aa", 11, 15, 200, 500, false)
	f.part(copied, "extracting sha256:aa", 11, 19, 500, 500, true)
	f.end(copied, 10, 20, "")
	f.begin(run, 20)
	f.end(run, 20, 120, "")
	f.cached(last, 121, 121)
	f.cached(from, 2, 122) // known only now
	f.begin(push, 130)
	f.part(push, "compressing layer RUN make", 131, 140, 70, 0, true)
	f.part(push, "pushing layer sha256:bb", 140, 150, 0, 30, true)
	f.part(push, "pushing manifest for r/app:1@sha256:cc", 151, 155, 0, 7, true)
	f.end(push, 130, 160, "")
	f.begin(exp, 130)
	f.part(exp, "writing layer sha256:bb", 135, 145, 0, 30, true)
	f.end(exp, 130, 170, "")
	got := f.r.Finish(Result{
		Ended: *at(200), Ref: "ref", Digest: "sha256:cc", Names: []string{"r/app:1"}, BytesIn: 500, BytesOut: 37,
		Caches: []Cache{
			{Name: "registry r/app:cache", Outcome: "skipped", Reason: "cold cache"},
			{Name: "gha main", Export: true, Outcome: "ok", Blobs: 1, Bytes: 30, Carried: 4},
			{Name: "inline", Export: true, Outcome: "failed", Reason: "no config"},
		},
	})
	check(t, got, `mayfly build 0-200 build.ref=ref bytes.pulled=500 bytes.pushed=37 image.digest=sha256:cc image.names=["r/app:1"] result=success steps.cached=1 steps.ran=2 (cache 200 cache.name=inline cache.action=export cache.outcome=failed cache.reason=no config cache.blobs=0 cache.bytes=0 cache.carried=0)
  importing cache manifest from registry r/app:cache 1-6 cache.action=import cache.blobs=0 cache.bytes=0 cache.name=registry r/app:cache cache.outcome=skipped cache.reason=cold cache cached=false kind=cache import seconds=0.005
  [build 1/3] FROM r/base@sha256:1 2-5 cached=true kind=source
  [build 2/3] COPY . /src 10-20 cached=false kind=file seconds=0.01
    unpack layer 11-19 blob=sha256:aa bytes=500 kind=unpack size=500
  [build 3/3] RUN make 20-120 cached=false kind=exec seconds=0.1
  [stage-1 2/2] RUN true 121-121 cached=true kind=exec
  pushing image 130-160 cached=false kind=push seconds=0.03
    compress layer 131-140 bytes=70 kind=compress layer=RUN make
    push layer 140-150 blob=sha256:bb kind=push size=30
    push manifest 151-155 image=r/app:1@sha256:cc kind=push size=7
  exporting cache to gha main 130-170 cache.action=export cache.blobs=1 cache.bytes=30 cache.carried=4 cache.name=gha main cache.outcome=ok cached=false kind=cache export seconds=0.04
    write to cache 135-145 blob=sha256:bb kind=cache export size=30
`)
}

func TestSpansOfABuildThatFails(t *testing.T) {
	f := newFeed(Config{Name: "other"})
	good, bad, cut := vtx("[1/3] RUN a", 1), vtx("[2/3] RUN b", 1), vtx("[3/3] ADD c /", 1)
	for range 2 { // a lost blob: it runs again
		f.begin(good, 10)
		f.end(good, 10, 20, "")
	}
	f.begin(good, 30)
	f.end(good, 30, 40, "")
	f.begin(bad, 40)
	f.begin(cut, 41)
	f.part(cut, "reading sha256:dd", 42, 43, 5, 50, false)
	f.end(bad, 40, 50, "exit code: 1")
	warnings := vtx(warningsStep, 0)
	f.begin(warnings, 45)
	f.r.Event(&client.SolveStatus{Logs: []*client.VertexLog{
		{Vertex: warnings.Digest, Data: []byte("warning: cache import x: 503\n"), Timestamp: *at(46)},
		{Vertex: bad.Digest, Data: []byte("what a step says is not of interest"), Timestamp: *at(46)},
	}})
	f.end(warnings, 45, 46, "")
	got := f.r.Finish(Result{Ended: *at(60), Err: errors.New("RUN b: exit code: 1")})
	check(t, got, `other 0-60 bytes.pulled=0 bytes.pushed=0 result=failure steps.cached=0 steps.ran=3 FAILED RUN b: exit code: 1 (warning 46 message=cache import x: 503)
  [1/3] RUN a 10-40 attempts=3 cached=false kind=exec seconds=0.03
  [2/3] RUN b 40-50 cached=false kind=exec seconds=0.01 FAILED exit code: 1
  [3/3] ADD c / 41-60 cached=false kind=file seconds=0 unfinished=true
    read from cache 42-60 blob=sha256:dd bytes=5 kind=cache import size=50 unfinished=true
`)
	if got := f.r.Finish(Result{Ended: *at(60), Err: errors.New("stopped"), Cancelled: true}); got.Result != cancelled {
		t.Errorf("a build that was stopped is a %s", got.Result)
	}
}

func TestCacheMountsFindTheirStep(t *testing.T) {
	for step, want := range map[string]Cache{
		"importing cache manifest from s3 bucket": {Name: "s3 bucket"},
		"exporting cache to s3 bucket":            {Name: "s3 bucket", Export: true},
		"restoring cache mount /go from s3 b":     {Name: "mounts /go s3 b"},
		"exporting cache mount /go to s3 b":       {Name: "mounts /go s3 b", Export: true},
	} {
		name, export, ok := cacheOf(step)
		if !ok || name != want.Name || export != want.Export {
			t.Errorf("%s is about %q, export %v, %v", step, name, export, ok)
		}
	}
	if _, _, ok := cacheOf("exporting to image"); ok {
		t.Error("an image is a cache")
	}
}

// Everything that is a text goes through Redact, wherever it comes from.
func TestNoSecretInASpan(t *testing.T) {
	const word = "s3cr3t"
	f := newFeed(Config{Name: "n " + word, Redact: func(s string) string { return strings.ReplaceAll(s, word, "***") }})
	run, exp := vtx("[1/2] RUN "+word, 1), vtx("exporting cache to "+word, 0)
	f.begin(run, 1)
	f.part(run, "compressing layer "+word, 2, 3, 0, 0, true)
	f.part(run, word, 2, 3, 0, 0, true)
	f.end(run, 1, 4, "no "+word)
	f.begin(exp, 5)
	f.end(exp, 5, 6, "")
	f.r.Event(&client.SolveStatus{Warnings: []*client.VertexWarning{{Short: []byte("SecretsUsedInArg " + word)}}})
	got := f.r.Finish(Result{
		Ended: *at(9), Err: errors.New("err " + word), Ref: word, Digest: digest.Digest("sha256:" + word), Names: []string{"r/" + word},
		Caches: []Cache{{Name: word, Export: true, Outcome: "failed", Reason: word}, {Name: "other", Reason: word}},
	})
	text := fmt.Sprint(tree(got), got.Spans)
	if n := strings.Count(text, word); n > 0 {
		t.Errorf("the secret is there %d times:\n%s", n, text)
	}
	if n := strings.Count(tree(got), "***"); n < 14 {
		t.Errorf("only %d places had the secret:\n%s", n, tree(got))
	}
}

func TestLongTextsAreCut(t *testing.T) {
	f := newFeed(Config{})
	v := vtx("[1/1] RUN x", 1)
	f.begin(v, 1)
	f.end(v, 1, 2, "\xff"+strings.Repeat("ü", 5000))
	s := f.r.Finish(Result{Ended: *at(3)}).Spans[1]
	if len(s.Error) > maxText || len(s.Error) < maxText-3 || !utf8.ValidString(s.Error) || !strings.HasSuffix(s.Error, "ü…") {
		t.Errorf("the error has %d bytes, valid %v, and ends in %q", len(s.Error), utf8.ValidString(s.Error), s.Error[len(s.Error)-8:])
	}
}

// A vertex of another stream, without a start or of no step, is no trouble.
func TestOddEvents(t *testing.T) {
	f := newFeed(Config{})
	f.vertex(vtx("never began", 1))
	f.part(vtx("unknown", 0), "x", 1, 2, 0, 0, true)
	late := vtx("[1/1] RUN ends only", 1)
	f.end(late, 7, 5, "") // and before it began
	check(t, f.r.Finish(Result{Ended: *at(9)}), `mayfly build 0-9 bytes.pulled=0 bytes.pushed=0 result=success steps.cached=0 steps.ran=1
  [1/1] RUN ends only 7-7 cached=false kind=exec seconds=0
`)
}
