package report

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/ci"
	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/explain"
)

func of(name string) digest.Digest { return digest.FromString(name) }

// A story tells events to a Recorder; times are in milliseconds.
type story struct{ *Recorder }

func newStory(redact func(string) string) story {
	return story{NewRecorder(Config{Began: began, Redact: redact})}
}

func (s story) step(name string, from, to int, err error, inputs ...string) {
	v := &client.Vertex{Digest: of(name), Name: name}
	for _, in := range inputs {
		v.Inputs = append(v.Inputs, of(in))
	}
	start, end := at(from), at(to)
	v.Started = &start
	s.Event(&client.SolveStatus{Vertexes: []*client.Vertex{v}})
	done := *v
	done.Completed = &end
	if err != nil {
		done.Error = err.Error()
	}
	if to > 0 {
		s.Event(&client.SolveStatus{Vertexes: []*client.Vertex{&done}})
	}
}

func (s story) cached(name string, when int, inputs ...string) {
	v := &client.Vertex{Digest: of(name), Name: name, Cached: true}
	for _, in := range inputs {
		v.Inputs = append(v.Inputs, of(in))
	}
	t := at(when)
	v.Started, v.Completed = &t, &t
	s.Event(&client.SolveStatus{Vertexes: []*client.Vertex{v}})
}

func (s story) log(step, text string, when int) {
	s.Event(&client.SolveStatus{Logs: []*client.VertexLog{{Vertex: of(step), Stream: 2, Data: []byte(text), Timestamp: at(when)}}})
}

const (
	base    = "[build 1/3] FROM docker.io/library/golang:1@sha256:aa"
	context = "[internal] load build context"
	copySrc = "[build 2/3] COPY . /src"
	compile = "[build 3/3] RUN make"
	final   = "[stage-1 1/1] COPY --from=build /app /"
)

// built tells of a build in which compile ran.
func built(redact func(string) string) story {
	s := newStory(redact)
	s.step("[internal] load build definition from Dockerfile", 0, 1, nil)
	s.step("importing cache manifest from gha main", 0, 30, nil)
	s.step(context, 30, 40, nil)
	s.step(base, 30, 35, nil)
	s.cached(copySrc, 50, base, context)
	s.step(base, 60, 160, nil) // is read once something needs it
	s.step(compile, 160, 960, nil, copySrc)
	s.log(compile, "why: RUN make: arg V 1→2\n", 170)
	s.log(compile, "one\ntwo s3cret\n", 200)
	s.log(compile, "three </pre><script>alert(1)</script>", 300)
	s.step(final, 960, 970, nil, base, compile)
	s.step("warnings", 100, 100, nil)
	s.step("pushing image", 970, 1000, nil)
	for _, n := range []int64{0, 70, 100} {
		from, to := at(970), at(990)
		st := &client.VertexStatus{ID: "pushing layer sha256:ab", Vertex: of("pushing image"), Total: 100, Current: n, Started: &from}
		if n == 100 {
			st.Completed = &to
		}
		s.Event(&client.SolveStatus{Statuses: []*client.VertexStatus{st}})
	}
	warning := &client.VertexWarning{
		Vertex: of("x"), Short: []byte("FromAsCasing: s3cret"), Detail: [][]byte{[]byte("say AS")}, URL: "https://docs.docker.com/go/rule",
		SourceInfo: &pb.SourceInfo{Filename: "Dockerfile", Data: []byte("FROM a as b\nRUN x\n")},
		Range:      []*pb.Range{{Start: &pb.Position{Line: 1}, End: &pb.Position{Line: 1}}},
	}
	for range 2 { // the frontend runs twice
		s.Event(&client.SolveStatus{Warnings: []*client.VertexWarning{warning}})
	}
	return s
}

func result() *engine.Result {
	return &engine.Result{
		Ref: "r1", Digest: "sha256:d1", Config: "sha256:c1", Size: 5_000_000, Names: []string{"a:1", "b:2"}, Warnings: []string{"took long s3cret"},
		Steps: []engine.Step{{Name: compile, Digest: of(compile), Why: "RUN make: arg V 1→2; f changed (mode)", Reason: &explain.Reason{Causes: []explain.Detail{
			{Kind: explain.CauseField, Name: "arg V", Before: "1", After: "2"},
			{Kind: explain.CauseFiles, Files: []explain.FileChange{{Path: "f", What: []explain.Difference{{Kind: "mode", Before: "0644", After: "0755"}}}}},
		}}}},
		Caches: []engine.CacheOutcome{
			{Name: "gha main", Outcome: "ok", Blobs: 3, Bytes: 2000, Seconds: .03},
			{Name: "gha main", Export: true, Outcome: "failed", Reason: "503 s3cret", Hint: "wait", Carried: 4},
		},
	}
}

func redactSecret(s string) string { return strings.ReplaceAll(s, "s3cret", "***") }

func written(t *testing.T, p *Page) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (p *page) named(t *testing.T, name string) *stepBox {
	t.Helper()
	for _, s := range p.Steps {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("there is no step %s", name)
	return nil
}

func TestPage(t *testing.T) {
	job := ci.Info{Provider: ci.GitHubActions, ServerURL: "https://github.com", Repository: "acme/app", Ref: "refs/heads/main", RunID: "7", RunURL: "https://github.com/acme/app/actions/runs/7", Job: "image", Trusted: true}
	p := built(redactSecret).Page(Build{Ended: at(1000), Title: "a:1", Version: "v1", CI: job, Commit: "5d1c0a", Result: result(), BytesIn: 1000, BytesOut: 2000})
	if p.State != "built" || p.Spent != "1.00 s" || p.Failure != nil {
		t.Errorf("%s in %s, %v", p.State, p.Spent, p.Failure)
	}
	if want := (totals{Steps: 4, Ran: 3, Cached: 1, Other: 4, Pulled: "1kB", Pushed: "2kB", CacheIn: "2kB", CacheOut: "0B"}); p.Totals != want {
		t.Errorf("%+v", p.Totals)
	}
	s := p.named(t, compile)
	if s.State != ran || s.Kind != instruction || s.Spent != "800 ms" || s.Starts != "160 ms" || s.Stage != "build 3/3" || s.Text != "RUN make" || !s.Long {
		t.Errorf("%+v", s)
	}
	if s.Why != "arg V 1→2; f changed (mode 0644→0755)" || !strings.Contains(s.Causes, "mode 0644→0755") {
		t.Errorf("it ran since %q: %q", s.Why, s.Causes)
	}
	if len(s.Uses) != 1 || s.Uses[0].Name != copySrc || s.LogLines != 3 || s.Log[0].Text != "one\ntwo ***\nthree </pre><script>alert(1)</script>" || s.Log[0].Times != "40 40 140" {
		t.Errorf("it uses %v and says %+v", s.Uses, s.Log)
	}
	if b := s.Bars; len(b) != 1 || b[0] != (bar{"16.00%", "80.00%", "run"}) {
		t.Errorf("its bars are %v", b)
	}
	if s := p.named(t, base); s.Spent != "105 ms" || len(s.Bars) != 2 || s.Kind != source {
		t.Errorf("the base: %+v", s)
	}
	if s := p.named(t, copySrc); s.State != cached || s.Spent != "" || len(s.Bars) != 1 || s.Bars[0].Class != "mark" || s.Why != "" {
		t.Errorf("what was cached: %+v", s)
	}
	if s := p.named(t, "pushing image"); len(s.Parts) != 1 || s.Parts[0] != (partRow{"pushing layer sha256:ab", "100B", "20 ms"}) || len(s.Bars) != 2 {
		t.Errorf("the push: %+v", s)
	}
	if len(p.Steps) != 8 || p.Steps[0].Number != 1 || !slices.IsSortedFunc(p.Steps, func(a, b *stepBox) int { return a.from.Compare(b.from) }) {
		t.Errorf("%d steps", len(p.Steps))
	}
	if len(p.Images) != 2 || p.Images[1] != (imageRow{"b:2", "sha256:d1", "sha256:c1", "5MB"}) {
		t.Errorf("%v", p.Images)
	}
	if len(p.Caches) != 2 || p.Caches[1] != (cacheRow{Name: "gha main", Way: "export", Outcome: "failed", Reason: "503 ***", Hint: "wait", Blobs: "0", Bytes: "0B", Spent: "0 ms", Carried: 4}) {
		t.Errorf("%+v", p.Caches)
	}
	if len(p.Lints) != 1 || p.Lints[0].Place != "Dockerfile:1" || len(p.Lints[0].Excerpt) != 1 || p.Lints[0].Excerpt[0].Text != "FROM a as b" {
		t.Errorf("%+v", p.Lints)
	}
	var facts []string
	for _, f := range p.Facts {
		facts = append(facts, f.Name+" "+f.Text+" "+f.URL)
	}
	if want := "repository acme/app https://github.com/acme/app|ref main |commit 5d1c0a |run 7 https://github.com/acme/app/actions/runs/7|job image |build r1 "; strings.Join(facts, "|") != want {
		t.Errorf("%q", facts)
	}
	html := written(t, p)
	if strings.Contains(html, "s3cret") || strings.Count(html, "***") < 4 {
		t.Error("the page has the secret, or does not say where it was")
	}
	if strings.Count(html, "<script") != 1 || strings.Count(html, "<style") != 1 {
		t.Error("what a step printed is a part of the page")
	}
	for _, elsewhere := range []string{`src="`, `url(`, "@import", ` style="`, "javascript:", "ZgotmplZ"} {
		if strings.Contains(html, elsewhere) {
			t.Errorf("the page has %s", elsewhere)
		}
	}
}

// TestPageFailed: a build whose second step fails and takes a third one along.
func TestPageFailed(t *testing.T) {
	s := newStory(redactSecret)
	other := "[other 1/1] RUN sleep 9"
	s.step("importing cache manifest from gha main", 0, 30, errors.New("503"))
	s.step("importing cache manifest from gha next", 0, 30, nil)
	s.step(base, 30, 35, nil)
	s.step(copySrc, 35, 40, nil, base)
	s.step(other, 40, 510, errors.New("signal: killed"), base)
	s.step(compile, 40, 500, errors.New("exit status 2"), copySrc)
	s.log(compile, "why: RUN make: f changed\n", 41)
	s.log(compile, strings.Repeat("line\n", 100)+"s3cret\n", 50)
	s.step("[slow 1/1] RUN x", 60, 0, nil, base)
	s.step("warnings", 70, 70, nil)
	s.log("warnings", "warning: keep results s3cret: no space\n", 70)
	f := &Failure{Text: "exit status 2", Hint: "do it", Step: of(compile), Place: Place{File: "Dockerfile", Start: 3, End: 4, Source: []byte("FROM a\nENV T=s3cret\nRUN \\\r\n  make\nRUN x")}}
	p := s.Page(Build{Ended: at(600), Title: "app", Failure: f})
	if p.State != "failed" || p.Totals != (totals{Steps: 5, Ran: 2, Failed: 1, Other: 2, Pulled: "0B", Pushed: "0B"}) {
		t.Errorf("%s: %+v", p.State, p.Totals)
	}
	for name, want := range map[string]stepState{compile: failed, other: stopped, "[slow 1/1] RUN x": stopped, copySrc: ran} {
		if s := p.named(t, name); s.State != want {
			t.Errorf("%s: %s", name, s.State)
		}
	}
	if s := p.named(t, compile); s.Why != "f changed" || s.LogLines != 101 {
		t.Errorf("%+v", s)
	}
	got := p.Failure
	if got.Place != "Dockerfile:3" || got.Hint != "do it" || got.Step != p.named(t, compile) || len(got.Tail) != failureTail || got.Tail[failureTail-1] != "***" {
		t.Errorf("%+v", got)
	}
	want := []sourceLine{{1, "FROM a", false}, {2, "ENV T=***", false}, {3, `RUN \`, true}, {4, "  make", true}, {5, "RUN x", false}}
	if !slices.Equal(got.Excerpt, want) {
		t.Errorf("%v", got.Excerpt)
	}
	if len(p.Caches) != 2 || p.Caches[0].Outcome != "failed" || p.Caches[0].Reason != "503" || p.Caches[1].Outcome != "done" || p.Caches[1].Bytes != "" {
		t.Errorf("%+v", p.Caches)
	}
	if len(p.Warnings) != 1 || p.Warnings[0] != "keep results ***: no space" {
		t.Errorf("%q", p.Warnings)
	}
	if html := written(t, p); strings.Contains(html, "s3cret") || !strings.Contains(html, "Error at Dockerfile:3") {
		t.Error("the page has the secret, or not the error")
	}
}

// TestPageStopped: what was going on when somebody stopped the build.
func TestPageStopped(t *testing.T) {
	s := newStory(same)
	s.step(copySrc, 0, 40, nil)
	s.step(compile, 40, 500, errors.New("process make did not complete: terminated"), copySrc)
	s.step(final, 45, 0, nil, base)
	p := s.Page(Build{Ended: at(600), Failure: &Failure{Text: "build stopped: terminated", Stopped: true}})
	if p.State != "stopped" || p.named(t, copySrc).State != ran || p.named(t, compile).State != stopped || p.named(t, final).State != stopped || p.named(t, final).Spent != "555 ms" {
		t.Errorf("%s: %+v", p.State, p.Steps)
	}
}

// TestPageEmpty: a build that failed before anything happened.
func TestPageEmpty(t *testing.T) {
	p := NewRecorder(Config{}).Page(Build{Title: "app", Failure: &Failure{Text: "no such file", Stopped: true}})
	if html := written(t, p); p.State != "stopped" || p.Graph != nil || !strings.Contains(html, "no such file") {
		t.Errorf("%+v", p)
	}
}

// TestPageLogs: logs that are too long together lose lines, but the failed
// step's.
func TestPageLogs(t *testing.T) {
	s := story{NewRecorder(Config{Began: began, LogBytes: 10_000})}
	for _, name := range []string{copySrc, compile} {
		s.step(name, 1, 2, nil)
	}
	for n := range 3000 {
		s.log(copySrc, fmt.Sprintf("other %d\n", n), 1)
		if n < 500 {
			s.log(compile, fmt.Sprintf("mine %d\n", n), 1)
		}
	}
	if s.size > 30_000 {
		t.Errorf("%d bytes are kept while the build runs", s.size)
	}
	p := s.Page(Build{Ended: at(2), Failure: &Failure{Step: of(compile)}})
	if got := p.named(t, copySrc); got.LogLines != 3000 || len(got.Log) != 2 || got.Log[1].Missing == 0 || !strings.HasSuffix(got.Log[1].Text, "other 2999") {
		t.Errorf("%d lines in %d chunks", got.LogLines, len(got.Log))
	}
	if !strings.Contains(p.LogNote, "lines in their middle are left out") || len(written(t, p)) > 60_000 {
		t.Errorf("%q", p.LogNote)
	}
}

func TestKind(t *testing.T) {
	for name, want := range map[string]stepKind{
		"[internal] load build definition from Dockerfile": setup, "[linux/arm64 internal] load metadata for x": setup,
		"[internal] load build context": source, "[linux/arm64 1/3] FROM x": source, "docker-image://x": source, "[context a] load from client": source,
		"importing cache manifest from gha": cacheIn, "exporting cache mount x to gha": cacheOut, "exporting to image": export, "pushing image": export,
	} {
		if got := kindOf(&recorded{name: name}); got != want {
			t.Errorf("%s is %s, not %s", name, got, want)
		}
	}
	if got := kindOf(&recorded{name: "[2/3] RUN x", inputs: []digest.Digest{"sha256:a"}}); got != instruction {
		t.Errorf("RUN is %s", got)
	}
}

func TestAxis(t *testing.T) {
	for total, want := range map[time.Duration]string{
		0:                       "",
		9 * time.Millisecond:    "0 2 ms 4 ms 6 ms 8 ms",
		2200 * time.Millisecond: "0 500 ms 1 s 1.5 s 2 s",
		95 * time.Second:        "0 20 s 40 s 1:00 1:20",
		7 * time.Minute:         "0 1 min 2 min 3 min 4 min 5 min 6 min ",
		5 * time.Hour:           "0 60 min 120 min 180 min 240 min ",
	} {
		var got []string
		for _, x := range axis(total) {
			got = append(got, x.Label)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%v: %q", total, got)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 ms", 0: "0 ms", 200 * time.Microsecond: "< 1 ms", 999 * time.Millisecond: "999 ms", 9946 * time.Millisecond: "9.95 s",
		9951 * time.Millisecond: "10.0 s", 61 * time.Second: "1 min 01 s", 119600 * time.Millisecond: "2 min 00 s", 3*time.Hour + 4*time.Minute: "3 h 04 min",
	} {
		if got := duration(d); got != want {
			t.Errorf("%v is %s, not %s", d, got, want)
		}
	}
}

// TestContrast reads the colours of the style: text is to be readable in both
// themes, by WCAG's AA.
func TestContrast(t *testing.T) {
	colours := map[string][2]string{}
	for _, m := range regexp.MustCompile(`--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)`).FindAllStringSubmatch(pageCSS, -1) {
		colours[m[1]] = [2]string{m[2], m[3]}
	}
	for _, text := range []string{"ink", "muted", "link", "t-ran", "t-cached", "t-failed", "t-warn"} {
		for _, ground := range []string{"bg", "panel", "sunk"} {
			for theme, name := range []string{"light", "dark"} {
				if got := contrast(t, colours[text][theme], colours[ground][theme]); got < 4.5 {
					t.Errorf("%s: %s on %s has a contrast of %.2f", name, text, ground, got)
				}
			}
		}
	}
	for _, shape := range []string{"c-ran", "c-cached", "c-failed", "c-source", "c-cache", "c-export"} {
		for theme, name := range []string{"light", "dark"} {
			if got := contrast(t, colours[shape][theme], colours["bg"][theme]); got < 3 {
				t.Errorf("%s: %s has a contrast of %.2f", name, shape, got)
			}
		}
	}
}

func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	light := func(hex string) float64 {
		if len(hex) != 7 {
			t.Fatalf("no colour: %q", hex)
		}
		var sum float64
		for i, weight := range []float64{.2126, .7152, .0722} {
			n, err := strconv.ParseUint(hex[1+2*i:3+2*i], 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			c := float64(n) / 255
			if c <= .04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+.055)/1.055, 2.4)
			}
			sum += weight * c
		}
		return sum
	}
	x, y := light(a), light(b)
	return (max(x, y) + .05) / (min(x, y) + .05)
}
