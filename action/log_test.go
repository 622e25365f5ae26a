package action

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/progress/steplog"
)

// TestLog holds what the runner is told. Its commands are GitHub's.
func TestLog(t *testing.T) {
	var out bytes.Buffer
	dir := t.TempDir()
	outputs, summary := filepath.Join(dir, "outputs"), filepath.Join(dir, "summary")
	l := NewLog(&out, lookup(map[string]string{"GITHUB_OUTPUT": outputs, "GITHUB_STEP_SUMMARY": summary}))
	l.Mask([]string{"s3cret", "two\nlines"})
	l.Note(Note{Info, "plain"})
	l.Note(Note{Notice, "50% off"})
	l.Note(Note{Warning, "careful"})
	l.Group("Inputs", "  ::add-mask::x\n##[error]y")
	l.Tail(steplog.Step{Name: "[2/3] RUN make", Tail: []string{"::set-output name=a::b"}})
	l.Error(Annotation{File: "web/Dockerfile", Start: 3, End: 4, Title: "RUN a,b: c", Text: "exit\n100%"})
	l.Error(Annotation{Text: "no place"})
	l.Lint(steplog.Warning{Text: "Rule: text", Detail: "detail", URL: "https://docs.test/x", File: "Dockerfile", Start: 7, End: 7}, "web/Dockerfile")
	if err := errors.Join(l.Output("digest", "Digest", "sha256:abc"), l.Output("metadata", "Metadata", "{\n  \"a\": 1\n}"), l.Output("imageid", "ImageID", ""), l.Summary("# hi")); err != nil {
		t.Fatal(err)
	}
	token := regexp.MustCompile(`[0-9a-f]{32}`)
	if tokens := token.FindAllString(out.String(), -1); len(slices.Compact(slices.Sorted(slices.Values(tokens)))) != 4 || len(tokens) != 8 {
		t.Errorf("tokens %q", tokens)
	}
	want := `::add-mask::s3cret
::add-mask::two%0Alines
plain
::notice::50%25 off
::warning::careful
::group::Inputs
::stop-commands::TOKEN
  ::add-mask::x
##[error]y
::TOKEN::
::endgroup::
::stop-commands::TOKEN
[2/3] RUN make
::set-output name=a::b
::TOKEN::
::error endLine=4,file=web/Dockerfile,line=3,title=RUN a%2Cb%3A c::exit%0A100%25
::error::no place
::warning endLine=7,file=web/Dockerfile,line=7::Rule: text%0Adetail%0AMore: https://docs.test/x
::group::Digest
::stop-commands::TOKEN
sha256:abc
::TOKEN::
::endgroup::
::group::Metadata
::stop-commands::TOKEN
{
  "a": 1
}
::TOKEN::
::endgroup::
`
	if got := token.ReplaceAllString(out.String(), "TOKEN"); got != want {
		t.Errorf("the log is\n%s\nwant\n%s", got, want)
	}
	data, err := os.ReadFile(outputs)
	if err != nil || !strings.Contains(string(data), "\nsha256:abc\n") || !strings.HasPrefix(string(data), "digest<<") || !strings.Contains(string(data), "metadata<<") || strings.Contains(string(data), "imageid") {
		t.Errorf("outputs %q, %v", data, err)
	}
	if data, err := os.ReadFile(summary); err != nil || string(data) != "# hi\n" {
		t.Errorf("summary %q, %v", data, err)
	}

	gone := NewLog(&out, lookup(map[string]string{"GITHUB_OUTPUT": dir}))
	if err := gone.Output("digest", "Digest", "x"); err == nil {
		t.Error("an output went into a directory")
	}
	nowhere := NewLog(&out, lookup(nil))
	if err := errors.Join(nowhere.Output("digest", "Digest", "x"), nowhere.Summary("x")); err != nil {
		t.Errorf("outside of a runner: %v", err)
	}
}

// TestReport compares with testdata/report*.md.
func TestReport(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(s * float64(time.Second))) }
	step := func(name string, from, to float64) steplog.Step {
		return steplog.Step{Name: name, Began: at(from), Ended: at(to), Spent: at(to).Sub(at(from))}
	}
	all := []steplog.Step{
		step("[internal] load build definition from Dockerfile", 0, 0.01),
		step("[build 1/4] FROM docker.io/library/golang", 0.1, 0.2),
		{Name: "[build 2/4] COPY go.mod .", Cached: true},
		step("[build 3/4] RUN --mount=type=cache,target=/x   go build | tee <log> `x`", 0.5, 9),
		step("pushing image", 9, 12),
		step("[final 2/2] RUN "+strings.Repeat("é", 200), 9, 9.001),
	}
	all[3].Why = "RUN --mount=type=cache,target=/x   go bui…: main.go changed"
	all[2].Why, all[1].Why = "COPY go.mod .: go.mod changed", "something else"
	good := Report{
		Image: "ghcr.io/acme/app:1.4", Elapsed: 12500 * time.Millisecond, Steps: all,
		Result: &engine.Result{
			Digest: "sha256:d1", Config: "sha256:c1", Size: 5 << 20, Names: []string{"ghcr.io/acme/app:1.4", "ghcr.io/acme/app:latest"},
			Descriptor: &ocispec.Descriptor{}, BytesIn: 1 << 20, BytesOut: 3 << 20, Warnings: []string{"a | <b>"},
			Caches: []engine.CacheOutcome{
				{Name: "gha app", Outcome: "ok", Blobs: 3, Bytes: 2048, Seconds: 0.25},
				{Name: "gha app", Export: true, Outcome: "partial", Reason: "2 blobs are too large", Blobs: 1, Bytes: 10, Seconds: 1},
			},
		},
	}
	bad := Report{Image: "app", Error: "Dockerfile:3: RUN make: exit status 2", Elapsed: time.Second, Steps: slices.Clone(all[:4])}
	bad.Steps[3].Error, bad.Steps[3].Digest, bad.Failed = "exit status 2", "sha256:f", "sha256:f"
	bad.Steps[3].Tail = []string{"main.go:3: ```", "*oops*"}
	bad.Steps = append(bad.Steps, steplog.Step{Name: "[other 1/1] RUN x", Error: "it was stopped", Began: at(1), Ended: at(9.1), Spent: at(9.1).Sub(at(1))})
	many := Report{Image: "app", Result: &engine.Result{}}
	for range maxRows + 7 {
		many.Steps = append(many.Steps, all[1])
	}
	huge := Report{Image: "app", Result: &engine.Result{}}
	for n := range 300 {
		st := step(fmt.Sprintf("[build %3d/301] RUN %d", n, n), float64(n)/100, float64(n+1)/100)
		switch {
		case n == 7:
			st.Why = "RUN 7: main.go changed"
		case n > 7:
			st.Why = fmt.Sprintf("RUN %d: after RUN 7: main.go changed", n)
		}
		st.Cached = n < 7
		huge.Steps = append(huge.Steps, st)
	}
	huge.Steps = append(huge.Steps, step("[build 300/301] RUN slow", 3, 9))
	if got := huge.Markdown(); strings.Count(got, "\n| ") != 5 || !strings.Contains(got, "RUN slow") || !strings.Contains(got, "| main.go changed |") ||
		!strings.Contains(got, "and 292 more") || !strings.Contains(got, "7 cached steps") {
		t.Errorf("of 300 steps: %s", got)
	}
	for name, r := range map[string]Report{"report.md": good, "report_failed.md": bad} {
		path := filepath.Join("testdata", name)
		got := r.Markdown()
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || got != string(want) {
			t.Errorf("%s, %v:\n%s", name, err, got)
		}
	}
	if got := many.Markdown(); !strings.Contains(got, "and 7 more") || strings.Count(got, "\n") > maxRows+20 {
		t.Errorf("%d lines", strings.Count(got, "\n"))
	}
}

// TestReportAllCached: the steps were found before the one that took its time
// began.
func TestReportAllCached(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1700000000, 0).Add(time.Duration(ms) * time.Millisecond) }
	r := Report{Image: "app", Result: &engine.Result{}, Steps: []steplog.Step{
		{Name: "[1/2] COPY f /", Cached: true, Began: at(0), Ended: at(0)},
		{Name: "exporting cache to gha main", Began: at(40), Ended: at(240), Spent: 200 * time.Millisecond},
	}}
	got := r.Markdown()
	for _, want := range []string{"**1 step**: 1 cached, 0 ran", "1 cached step<", "\n[1/2] COPY f /\n", "| 0.2\u00a0s | `████████████████` |"} {
		if !strings.Contains(got, want) {
			t.Errorf("the summary has no %q:\n%s", want, got)
		}
	}
}
