package steplog

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/progress"
)

// TestWatcher reads the stream of a build that has a step of each kind.
func TestWatcher(t *testing.T) {
	var w Watcher
	stream := progress.New(w.Read)
	step := func(name string) *progress.Vertex {
		return stream.Vertex(client.Vertex{Name: name, Digest: digest.FromString(name)})
	}
	copied, run, other := step("[1/3] COPY . ."), step("[2/3] RUN make"), step("[3/3] RUN test")
	copied.Begin()
	copied.Cached()
	run.Begin()
	out := run.Log(1)
	for _, s := range []string{"why: RUN make: a.c changed\n", "one\ntw", "o\n", strings.Repeat("x\n", 30), "why: not again\n", "the en", "d"} {
		if _, err := out.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	other.Begin()
	other.End(errors.New("canceled: context canceled"))
	run.End(errors.New("exit status 2"))
	where := []*pb.Range{{Start: &pb.Position{Line: 3}, End: &pb.Position{Line: 3}}, {Start: &pb.Position{Line: 2}, End: &pb.Position{Line: 2}}}
	for range 2 {
		stream.Warn("", 1, "FromAsCasing: no", [][]byte{[]byte("because")}, "https://docs.test/x", &pb.SourceInfo{Filename: "Dockerfile", Data: []byte("# a\nFROM x as y\nRUN z")}, where)
	}

	all := w.Steps()
	if len(all) != 3 || !all[0].Cached || all[1].Error == "" || !all[2].Cancelled || all[1].Why != "RUN make: a.c changed" {
		t.Fatalf("steps %+v", all)
	}
	if tail := all[1].Tail; len(tail) != tailLines+1 || tail[tailLines] != "the end" || tail[tailLines-1] != "why: not again" {
		t.Errorf("tail %q", tail)
	}
	want := []Warning{{Text: "FromAsCasing: no", Detail: "because", URL: "https://docs.test/x", File: "Dockerfile", Start: 2, End: 3, Source: "FROM x as y\nRUN z"}}
	if got := w.Warnings(); !slices.Equal(got, want) {
		t.Errorf("warnings %+v", got)
	}
	if r := want[0].Rule(); r != "FromAsCasing" {
		t.Errorf("the rule is %q", r)
	}
	if r := (Warning{Text: "this is: no rule"}).Rule(); r != "" {
		t.Errorf("the rule is %q", r)
	}
}

func TestFileOf(t *testing.T) {
	for _, tt := range []struct{ name, dockerfile, want string }{
		{"Dockerfile", "web/Dockerfile", "web/Dockerfile"},
		{"", "web/Dockerfile", "web/Dockerfile"},
		{"./docker/Dockerfile", "web/docker/Dockerfile", "web/docker/Dockerfile"},
		{"other", "web/Dockerfile", "other"},
		{"Dockerfile", "", "Dockerfile"},
	} {
		if got := FileOf(tt.name, tt.dockerfile); got != tt.want {
			t.Errorf("%q of %q is %q, not %q", tt.name, tt.dockerfile, got, tt.want)
		}
	}
}

func TestReason(t *testing.T) {
	for _, tt := range []struct{ name, why, want string }{
		{"[build 2/4] COPY go.mod .", "COPY go.mod .: go.mod changed", "go.mod changed"},
		{"[2/2] RUN a very long text", "RUN a very…: a changed", "a changed"},
		{"[2/2] RUN x", "something else", "something else"},
	} {
		s := Step{Name: tt.name, Why: tt.why}
		if got := s.Reason(); got != tt.want || !s.IsInstruction() {
			t.Errorf("%q of %q is %q, not %q", tt.why, tt.name, got, tt.want)
		}
	}
	for _, name := range []string{"[internal] load x", "[linux/arm64 internal] load metadata for x", "pushing image"} {
		if (Step{Name: name}).IsInstruction() {
			t.Errorf("%s is an instruction", name)
		}
	}
}
