package solver

import (
	"context"
	"errors"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/llb"
)

func (l *lab) trace(t *testing.T, name string) Trace[string] {
	t.Helper()
	for _, tr := range l.solver.Traces() {
		if tr.Vertex.Name == name {
			return tr
		}
	}
	t.Fatalf("no trace of %s", name)
	panic("unreachable")
}

func TestTrace(t *testing.T) {
	c := newCache()
	first := newLab(c)
	first.solve(t, copyGraph(first, "v1"))
	l := newLab(c)
	l.solve(t, copyGraph(l, "v2"))

	content := cachekey.Output(digest.FromString("content of v2"), -1)
	if tr := l.trace(t, "copy"); !tr.Ran || tr.Content[0] != "" || tr.Content[1] != content || tr.Key == nil || tr.Map.Digest != digest.FromString("copy") || tr.Op == nil {
		t.Errorf("of a step that ran: %+v", tr)
	}
	if tr := l.trace(t, "base"); tr.Ran || tr.Fresh || tr.Lost != nil || tr.Key == nil {
		t.Errorf("of a step that was found: %+v", tr)
	}
	order := map[string]int{}
	for i, tr := range l.solver.Traces() {
		order[tr.Vertex.Name] = i
	}
	if order["copy"] < order["base"] || order["run"] < order["copy"] {
		t.Errorf("inputs do not come first: %v", order)
	}
	if _, ok := l.solver.Trace(&llb.Vertex{Digest: "sha256:unknown"}); ok {
		t.Error("there is a trace of a vertex that nobody came by")
	}

	fresh := newLab(c)
	top := copyGraph(fresh, "v1")
	top.Metadata.IgnoreCache = true
	fresh.solve(t, top)
	if tr := fresh.trace(t, "run"); !tr.Fresh || !tr.Ran {
		t.Errorf("of a step that is to run: %+v", tr)
	}
	// What was found below it was found by content.
	if tr := fresh.trace(t, "copy"); tr.Ran || tr.Content[1] != cachekey.Output(digest.FromString("content of v1"), -1) {
		t.Errorf("of a step found by content: %+v", tr)
	}
}

func TestTraceOfLostResult(t *testing.T) {
	c := newCache()
	first := newLab(c)
	first.solve(t, first.vertex(labOp{name: "base"}))
	l := newLab(c)
	gone := errors.New("blob lost")
	base := l.vertex(labOp{name: "base", run: func(context.Context, []string) (string, error) { return "made again", nil }})
	top := l.vertex(labOp{name: "top", run: func(_ context.Context, in []string) (string, error) {
		if in[0] == "base()" {
			c.mu.Lock()
			c.lost["base()"] = true
			c.mu.Unlock()
			return "", gone
		}
		return "top", nil
	}}, base)
	l.solve(t, top)
	if tr := l.trace(t, "base"); !errors.Is(tr.Lost, gone) || !tr.Ran {
		t.Errorf("of the step whose result was lost: %+v", tr)
	}
	if tr := l.trace(t, "top"); tr.Lost != nil {
		t.Errorf("of the step that met it: %+v", tr)
	}
}
