package tracing

import (
	"slices"
	"testing"

	digest "github.com/opencontainers/go-digest"
)

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestParse(t *testing.T) {
	p := Parse(parent, "vendor=x")
	if !p.IsValid() || !p.IsRemote() || !p.IsSampled() {
		t.Fatalf("the parent is %v", p)
	}
	if got := Env(p); !slices.Equal(got, []string{"TRACEPARENT=" + parent, "TRACESTATE=vendor=x"}) {
		t.Errorf("the variables are %q", got)
	}
	for _, bad := range []string{"", "x", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"} {
		if p := Parse(bad, ""); p.IsValid() || Env(p) != nil {
			t.Errorf("%q is the parent %v", bad, p)
		}
	}
}

func TestParentOfTheRoot(t *testing.T) {
	f := newFeed(Config{Parent: Parse(parent, "vendor=x")})
	got := f.r.Finish(Result{Ended: *at(1)})
	if got.ID.String() != "4bf92f3577b34da6a3ce929d0e0e4736" || got.Spans[0].Parent.String() != "00f067aa0ba902b7" {
		t.Errorf("the root is in trace %s below %s", got.ID, got.Spans[0].Parent)
	}
	root := got.ReadOnly(nil)[0]
	if !root.Parent().IsRemote() || root.SpanContext().TraceState().String() != "vendor=x" {
		t.Errorf("the parent sent is %v", root.Parent())
	}
	a, b := newFeed(Config{}).r.Finish(Result{}), newFeed(Config{}).r.Finish(Result{})
	if a.ID == b.ID || !a.ID.IsValid() || a.Spans[0].Parent.IsValid() {
		t.Errorf("traces of their own are %s and %s, below %s", a.ID, b.ID, a.Spans[0].Parent)
	}
}

// What a step is told is the span that it gets at the end.
func TestEnvOfAStep(t *testing.T) {
	f := newFeed(Config{Parent: Parse(parent, "")})
	v := vtx("[1/1] RUN make", 1)
	env := f.r.Env(v.Digest)
	f.begin(v, 1)
	f.end(v, 1, 2, "")
	want := "TRACEPARENT=00-4bf92f3577b34da6a3ce929d0e0e4736-" + f.r.Finish(Result{}).Spans[1].ID.String() + "-01"
	if !slices.Equal(env, []string{want}) {
		t.Errorf("the variables are %q, not %s", env, want)
	}
	if other := f.r.Env(digest.FromString("other")); slices.Equal(env, other) {
		t.Errorf("another vertex has the same span: %q", other)
	}
	unsampled := newFeed(Config{Parent: Parse(parent[:len(parent)-1]+"0", "")})
	if env := unsampled.r.Env(v.Digest)[0]; env[len(env)-2:] != "00" {
		t.Errorf("who started the build does not sample: %s", env)
	}
}
