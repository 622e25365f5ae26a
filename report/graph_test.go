package report

import (
	"fmt"
	"strings"
	"testing"
)

func TestGraph(t *testing.T) {
	p := built(same).Page(Build{Ended: at(1000), Result: result()})
	var got []string
	for _, b := range p.Graph.Boxes {
		got = append(got, fmt.Sprintf("%d %s (%s)", b.column, b.Title, b.Sub))
	}
	want := "0 build context (source · ran · 10 ms)|0 docker.io/library/golang:1 (source · ran · 105 ms)|" +
		"1 build (2 steps · 1 cached · 1 ran · 800 ms)|2 stage-1 (1 step · ran · 10 ms)"
	if strings.Join(got, "|") != want {
		t.Errorf("%s", strings.Join(got, "|"))
	}
	if len(p.Graph.Edges) != 4 {
		t.Errorf("%d edges", len(p.Graph.Edges))
	}
	checkPlaces(t, p.Graph)
}

// checkPlaces: no two boxes overlap, and all are within the picture.
func checkPlaces(t *testing.T, g *graph) {
	t.Helper()
	for i, a := range g.Boxes {
		if a.X < 0 || a.Y < 0 || a.X+a.W > g.W || a.Y+a.H > g.H {
			t.Errorf("%s is outside", a.Title)
		}
		for _, b := range g.Boxes[:i] {
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%s is over %s", a.Title, b.Title)
			}
		}
	}
}

// TestGraphHuge: many steps are few boxes; the slowest are named.
func TestGraphHuge(t *testing.T) {
	s := newStory(same)
	s.step("[p0  1/31] FROM x", 0, 1, nil)
	for stage := range 10 {
		before := "[p0  1/31] FROM x"
		for n := range 30 {
			name := fmt.Sprintf("[p%d %2d/31] RUN test %d", stage, n+2, n)
			s.step(name, 10, 11+n, nil, before)
			before = name
		}
		s.step(fmt.Sprintf("[stage-10 %2d/12] COPY --from=p%d / /", stage+2, stage), 50, 51, nil, before)
	}
	p := s.Page(Build{Ended: at(60)})
	if len(p.Graph.Boxes) != 12 {
		t.Fatalf("%d boxes", len(p.Graph.Boxes))
	}
	for _, b := range p.Graph.Boxes {
		if b.Title == "p3" && (len(b.Cells) != 30 || len(b.Lines) != slowest || b.Lines[0].Text != "RUN test 29") {
			t.Errorf("p3 has %d cells and %v", len(b.Cells), b.Lines)
		}
		if b.Title == "stage-10" && (len(b.Cells) != 0 || len(b.Lines) != 10) {
			t.Errorf("the last stage has %d cells and %d lines", len(b.Cells), len(b.Lines))
		}
	}
	checkPlaces(t, p.Graph)
}

// TestGraphShared: two stages that share a step use each other.
func TestGraphShared(t *testing.T) {
	s := newStory(same)
	s.step("[a 1/3] RUN x", 0, 1, nil, "src")
	s.step("src", 0, 1, nil)
	s.step("[b 2/3] RUN y", 1, 2, nil, "[a 1/3] RUN x")
	s.step("[a 3/3] COPY --from=b y y", 2, 3, nil, "[b 2/3] RUN y")
	p := s.Page(Build{Ended: at(3)})
	if len(p.Graph.Boxes) != 3 || len(p.Graph.Edges) != 3 {
		t.Errorf("%d boxes, %d edges", len(p.Graph.Boxes), len(p.Graph.Edges))
	}
	checkPlaces(t, p.Graph)
}

func TestStageName(t *testing.T) {
	for stage, want := range map[string]string{
		"2/5": "", " 2/12": "", "build 2/5": "build", "build  2/15": "build", "linux/arm64 build 2/5": "linux/arm64 build",
		"linux/arm64 2/5": "linux/arm64", "context assets": "context assets", "a/b": "a/b",
	} {
		if got := stageName(stage); got != want {
			t.Errorf("%q is of %q, not %q", stage, got, want)
		}
	}
}
