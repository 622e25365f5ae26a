package solver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/llb"
)

// A lab solves graphs whose results are strings, and notes what ran.
type lab struct {
	mu     sync.Mutex
	ran    []string
	cached []string
	warned []string
	ops    map[string]*labOp
	cache  *labCache
	solver *Solver[string]
}

type labOp struct {
	lab       *lab
	name      string
	random    bool
	byContent []int
	run       func(ctx context.Context, in []string) (string, error)
}

func (o *labOp) Map(context.Context) (cachekey.Map, error) {
	m := cachekey.Map{Digest: digest.FromString(o.name)}
	if o.random {
		m.Digest = digest.NewDigestFromEncoded(cachekey.Random, m.Digest.Encoded())
	}
	m.Inputs = make([]cachekey.Input, 8)
	for _, i := range o.byContent {
		m.Inputs[i].ByContent = true
	}
	return m, nil
}

func (o *labOp) Content(_ context.Context, _ int, in string) (digest.Digest, error) {
	return digest.FromString("content of " + in), nil
}

func (o *labOp) Run(ctx context.Context, in []string) ([]string, error) {
	o.lab.mu.Lock()
	o.lab.ran = append(o.lab.ran, o.name)
	o.lab.mu.Unlock()
	if o.run != nil {
		out, err := o.run(ctx, in)
		return []string{out}, err
	}
	return []string{o.name + "(" + strings.Join(in, ",") + ")"}, nil
}

func (l *lab) Begin(ctx context.Context, _ *llb.Vertex) context.Context { return ctx }
func (l *lab) End(context.Context, *llb.Vertex, error)                  {}

func (l *lab) Cached(v *llb.Vertex) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cached = append(l.cached, v.Name)
}

func (l *lab) Warn(_ *llb.Vertex, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.warned = append(l.warned, err.Error())
}

// A labCache names keys by their definition and by their content.
type labCache struct {
	mu      sync.Mutex
	results map[string]string
	records map[digest.Digest]bool
	lost    map[string]bool
}

func names(k *Key) (out []string) {
	if k.IsRandom() {
		return nil
	}
	combos := []string{string(k.Record)}
	for _, links := range k.Inputs {
		var next []string
		for _, l := range links {
			if l.Key.Fresh && !l.Content {
				continue
			}
			for _, in := range names(l.Key) {
				for _, c := range combos {
					next = append(next, fmt.Sprintf("%s[%s%s]", c, l.Selector, in))
				}
			}
		}
		combos = next
	}
	return combos
}

func (c *labCache) Knows(record digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.records[record]
}

func (c *labCache) Find(_ context.Context, k *Key) (m Match[string]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range names(k) {
		if r, ok := c.results[n]; ok {
			return Match[string]{Known: true, Hit: &Hit[string]{Cache: "lab", Key: k, Load: func(context.Context) (string, error) { return r, nil }}}
		}
	}
	return m
}

func (c *labCache) save(_ context.Context, k *Key, _ *llb.Vertex, r string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records[k.Record] = true
	for _, n := range names(k) {
		c.results[n] = r
	}
	return nil
}

func newLab(c *labCache) *lab {
	l := &lab{ops: map[string]*labOp{}, cache: c}
	l.solver = New(Config[string]{
		Op:     func(v *llb.Vertex) (Op[string], error) { return l.ops[v.Name], nil },
		Caches: []Cache[string]{c}, Observer: l, Save: c.save,
		Lost: func(err error) bool { return strings.Contains(err.Error(), "lost") },
		Usable: func(r string) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return !c.lost[r]
		},
	})
	return l
}

func newCache() *labCache {
	return &labCache{results: map[string]string{}, records: map[digest.Digest]bool{}, lost: map[string]bool{}}
}

func (l *lab) vertex(op labOp, inputs ...*llb.Vertex) *llb.Vertex {
	op.lab = l
	l.ops[op.name] = &op
	v := &llb.Vertex{Digest: digest.FromString("vertex " + op.name), Name: op.name, Metadata: &pb.OpMetadata{}}
	for _, in := range inputs {
		v.Inputs = append(v.Inputs, llb.Edge{Vertex: in})
	}
	return v
}

func (l *lab) solve(t *testing.T, v *llb.Vertex) string {
	t.Helper()
	r, err := l.solver.Solve(t.Context(), llb.Edge{Vertex: v})
	if err != nil {
		t.Fatal(err)
	}
	l.solver.Wait()
	return r
}

func (l *lab) wantRan(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(l.ran)
	slices.Sort(want)
	if !slices.Equal(l.ran, want) {
		t.Errorf("ran %v, want %v", l.ran, want)
	}
}

// diamond is base → {left, right} → top.
func diamond(l *lab) *llb.Vertex {
	base := l.vertex(labOp{name: "base"})
	return l.vertex(labOp{name: "top"}, l.vertex(labOp{name: "left"}, base), l.vertex(labOp{name: "right"}, base))
}

func TestEqualVerticesRunOnce(t *testing.T) {
	l := newLab(newCache())
	if got := l.solve(t, diamond(l)); got != "top(left(base()),right(base()))" {
		t.Errorf("result %s", got)
	}
	l.wantRan(t, "base", "left", "right", "top")
}

func TestHitByDefinitionRunsNothing(t *testing.T) {
	c := newCache()
	first := newLab(c)
	first.solve(t, diamond(first))
	second := newLab(c)
	if got := second.solve(t, diamond(second)); got != "top(left(base()),right(base()))" {
		t.Errorf("result %s", got)
	}
	second.wantRan(t)
	if len(second.cached) != 4 {
		t.Errorf("cached %v, want all four", second.cached)
	}
}

// copyGraph is (base, files) → copy → run, where files are this client's.
func copyGraph(l *lab, files string) *llb.Vertex {
	local := l.vertex(labOp{name: "local", random: true, run: func(context.Context, []string) (string, error) { return files, nil }})
	cp := l.vertex(labOp{name: "copy", byContent: []int{1}}, l.vertex(labOp{name: "base"}), local)
	return l.vertex(labOp{name: "run"}, cp)
}

func TestHitByContent(t *testing.T) {
	c := newCache()
	first := newLab(c)
	first.solve(t, copyGraph(first, "v1"))
	first.wantRan(t, "base", "copy", "local", "run")

	same := newLab(c)
	same.solve(t, copyGraph(same, "v1"))
	same.wantRan(t, "local")

	changed := newLab(c)
	changed.solve(t, copyGraph(changed, "v2"))
	changed.wantRan(t, "copy", "local", "run")
}

func TestFreshStepIsNotFoundThrough(t *testing.T) {
	c := newCache()
	first := newLab(c)
	first.solve(t, diamond(first))
	l := newLab(c)
	top := diamond(l)
	top.Inputs[0].Vertex.Metadata.IgnoreCache = true
	l.solve(t, top)
	l.wantRan(t, "left", "top")
}

func TestLostResultIsMadeAgain(t *testing.T) {
	c := newCache()
	first := newLab(c)
	base := first.vertex(labOp{name: "base"})
	first.solve(t, base)

	l := newLab(c)
	tries := 0
	base = l.vertex(labOp{name: "base", run: func(context.Context, []string) (string, error) { return "made again", nil }})
	top := l.vertex(labOp{name: "top", run: func(_ context.Context, in []string) (string, error) {
		tries++
		if in[0] == "base()" {
			c.mu.Lock()
			c.lost["base()"] = true
			c.mu.Unlock()
			return "", errors.New("blob lost")
		}
		return "top of " + in[0], nil
	}}, base)
	if got := l.solve(t, top); got != "top of made again" {
		t.Errorf("result %s", got)
	}
	l.wantRan(t, "base", "top", "top")
	if tries != 2 {
		t.Errorf("%d tries", tries)
	}
}

func TestErrorNamesTheStep(t *testing.T) {
	l := newLab(newCache())
	boom := errors.New("boom")
	bad := l.vertex(labOp{name: "bad", run: func(context.Context, []string) (string, error) { return "", boom }})
	_, err := l.solver.Solve(t.Context(), llb.Edge{Vertex: l.vertex(labOp{name: "top"}, bad)})
	var se *StepError
	if !errors.As(err, &se) || se.Vertex.Name != "bad" || !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
	l.wantRan(t, "bad")
}

func TestCancelStops(t *testing.T) {
	l := newLab(newCache())
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	v := l.vertex(labOp{name: "slow", run: func(ctx context.Context, _ []string) (string, error) {
		cancel(stop)
		<-ctx.Done()
		return "", context.Cause(ctx)
	}})
	if _, err := l.solver.Solve(ctx, llb.Edge{Vertex: v}); !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
}

func TestManyStagesAtOnce(t *testing.T) {
	l := newLab(newCache())
	base := l.vertex(labOp{name: "base"})
	var layer []*llb.Vertex
	for i := range 200 {
		layer = append(layer, l.vertex(labOp{name: fmt.Sprint("s", i)}, base))
	}
	op := labOp{name: "all"}
	l.ops["all"] = &op
	op.lab = l
	v := &llb.Vertex{Digest: digest.FromString("all"), Name: "all", Metadata: &pb.OpMetadata{}}
	for _, in := range layer[:8] {
		v.Inputs = append(v.Inputs, llb.Edge{Vertex: in})
	}
	l.solve(t, v)
	if len(l.ran) != 10 {
		t.Errorf("%d ran, want 10", len(l.ran))
	}
}
