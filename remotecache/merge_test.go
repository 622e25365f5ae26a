package remotecache_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/remotecache"
)

// steps returns an Index with one chain of steps; each step made a layer at
// its second after epoch.
func steps(names []string, seconds ...int) *remotecache.Index {
	b := remotecache.NewBuilder()
	n := b.Add(key(names[0]), nil, nil)
	var layers []string
	for i, name := range names[1:] {
		layers = append(layers, name)
		n = b.Add(key(name), [][]link{on(n)}, []remotecache.ResultLayers{made(seconds[i], layers...)})
	}
	return b.Index()
}

// held says which of the named steps an Index has, with "*" where they have
// a result.
func held(t *testing.T, idx *remotecache.Index, names ...string) []string {
	t.Helper()
	if err := idx.Validate(); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, name := range names {
		for _, r := range idx.Records {
			if r.Digest == key(name) {
				if len(r.Results) > 0 {
					name += "*"
				}
				out = append(out, name)
			}
		}
	}
	return out
}

func TestMerge(t *testing.T) {
	now := epoch.Add(time.Hour)
	old := steps([]string{"base", "a", "b", "c"}, 10, 20, 3500)
	names := []string{"base", "a", "b", "c", "x", "y", "root"}
	for _, tt := range []struct {
		name     string
		old, new *remotecache.Index
		limits   remotecache.Limits
		want     []string
		layers   int
	}{
		{"no limits", old, steps([]string{"root", "x"}, 1), remotecache.Limits{Now: now}, []string{"base", "a*", "b*", "c*", "x*", "root"}, 4},
		{"shared", old, steps([]string{"base", "a", "x"}, 3600, 3600), remotecache.Limits{Now: now}, []string{"base", "a*", "b*", "c*", "x*"}, 4},
		{"nothing old", &remotecache.Index{}, old, remotecache.Limits{Now: now}, []string{"base", "a*", "b*", "c*"}, 3},
		{"nothing new", old, &remotecache.Index{}, remotecache.Limits{Now: now}, []string{"base", "a*", "b*", "c*"}, 3},
		// The young result keeps the records it depends on, but not their
		// results; its layers come with it.
		{"age", old, steps([]string{"root", "x"}, 3600), remotecache.Limits{Now: now, MaxAge: 10 * time.Minute}, []string{"base", "a", "b", "c*", "x*", "root"}, 4},
		{"too old", old, steps([]string{"root", "x"}, 3600), remotecache.Limits{Now: now.Add(time.Hour), MaxAge: 10 * time.Minute}, []string{"x*", "root"}, 1},
		{"new ones have no age", old, steps([]string{"root", "x"}, 1), remotecache.Limits{Now: now.Add(time.Hour), MaxAge: 10 * time.Minute}, []string{"x*", "root"}, 1},
		// Four more do not fit, three do.
		{"count", old, steps([]string{"root", "x"}, 3600), remotecache.Limits{Now: now, MaxRecords: 5}, []string{"base", "a*", "b*", "x*", "root"}, 3},
		{"count, all fit", old, steps([]string{"root", "x"}, 3600), remotecache.Limits{Now: now, MaxRecords: 6}, []string{"base", "a*", "b*", "c*", "x*", "root"}, 4},
		{"count, new alone is more", old, steps([]string{"root", "x", "y"}, 1, 1), remotecache.Limits{Now: now, MaxRecords: 2}, []string{"x*", "y*", "root"}, 2},
		{"bytes", old, steps([]string{"root", "x"}, 3600), remotecache.Limits{Now: now, MaxBytes: 3}, []string{"base", "a*", "b*", "x*", "root"}, 3},
		{"bytes, new alone is more", old, steps([]string{"root", "x"}, 3600), remotecache.Limits{Now: now, MaxBytes: 1}, []string{"x*", "root"}, 1},
		// b is used by the new build: its age is that of its use.
		{"touched", steps([]string{"base", "a", "b"}, 10, 20), steps([]string{"base", "a", "b"}, 10, 20), remotecache.Limits{Now: now, MaxAge: time.Minute, Touch: 30 * time.Second}, []string{"base", "a*", "b*"}, 2},
		{"count, shared is free", old, steps([]string{"base", "a", "x"}, 1, 1), remotecache.Limits{Now: now, MaxRecords: 4}, []string{"base", "a*", "b*", "x*"}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := meaning(tt.old)
			got, err := remotecache.Merge(tt.old, tt.new, tt.limits)
			if err != nil {
				t.Fatal(err)
			}
			if h := held(t, got, names...); !slices.Equal(h, tt.want) || len(got.Layers) != tt.layers {
				t.Errorf("%v with %d layers, want %v with %d", h, len(got.Layers), tt.want, tt.layers)
			}
			if len(got.Records) != len(tt.want) {
				t.Errorf("%d records, want %d", len(got.Records), len(tt.want))
			}
			if !slices.Equal(before, meaning(tt.old)) {
				t.Error("the old index is changed")
			}
		})
	}
}

func TestMergeNewestResult(t *testing.T) {
	old, new := steps([]string{"base", "a"}, 100), steps([]string{"base", "a"}, 200)
	for _, pair := range [][2]*remotecache.Index{{old, new}, {new, old}} {
		got, err := remotecache.Merge(pair[0], pair[1], remotecache.Limits{Now: epoch})
		if err != nil {
			t.Fatal(err)
		}
		if r := got.Records[slices.IndexFunc(got.Records, func(r remotecache.Record) bool { return len(r.Results) > 0 })]; !r.Results[0].CreatedAt.Equal(epoch.Add(200 * time.Second)) {
			t.Errorf("the result is of %v", r.Results[0].CreatedAt)
		}
	}
}

// TestMergeAlternatives: names that only the old index knows for an input stay
// as long as they fit, and leave a sound index when they do not.
func TestMergeAlternatives(t *testing.T) {
	index := func(names ...string) *remotecache.Index {
		b := remotecache.NewBuilder()
		var in []link
		for _, n := range names {
			in = append(in, on(b.Add(key(n), nil, []remotecache.ResultLayers{made(1, n)}))...)
		}
		b.Add(key("run"), [][]link{in}, []remotecache.ResultLayers{made(2, "x")})
		return b.Index()
	}
	old, new := index("def", "content", "content2"), index("def")
	for max, want := range map[int]int{0: 4, 2: 2, 3: 3, 9: 4} {
		got, err := remotecache.Merge(old, new, remotecache.Limits{Now: epoch, MaxRecords: max})
		if err != nil {
			t.Fatal(err)
		}
		if err := got.Validate(); err != nil {
			t.Fatal(err)
		}
		if len(got.Records) != want {
			t.Errorf("of at most %d: %d records, want %d", max, len(got.Records), want)
		}
	}
}

// TestMergeStaysBounded merges a year of nightly builds, one into the next.
func TestMergeStaysBounded(t *testing.T) {
	idx := &remotecache.Index{}
	for day := range 365 {
		now := epoch.Add(time.Duration(day) * 24 * time.Hour)
		s := day * 24 * 3600
		next := steps([]string{"base", "deps", fmt.Sprint("src", day), fmt.Sprint("app", day)}, 0, s, s)
		var err error
		idx, err = remotecache.Merge(idx, next, remotecache.Limits{Now: now, MaxAge: 30 * 24 * time.Hour, MaxRecords: 50})
		if err != nil {
			t.Fatal(err)
		}
		if len(idx.Records) > 50 {
			t.Fatalf("day %d: %d records", day, len(idx.Records))
		}
	}
	if got := held(t, idx, "base", "deps", "app364", "app350", "app300"); !slices.Equal(got, []string{"base", "deps*", "app364*", "app350*"}) {
		t.Errorf("%v", got)
	}
}

func TestMergeCorrupt(t *testing.T) {
	bad := &remotecache.Index{Records: []remotecache.Record{{Digest: key("x"), Inputs: [][]remotecache.Input{{{Link: 0}}}}}}
	good := steps([]string{"base", "a"}, 1)
	for _, pair := range [][2]*remotecache.Index{{bad, good}, {good, bad}} {
		if _, err := remotecache.Merge(pair[0], pair[1], remotecache.Limits{}); err == nil {
			t.Error("no error")
		}
	}
}

func TestJoin(t *testing.T) {
	a, b := steps([]string{"base", "a"}, 1), steps([]string{"root", "x", "y"}, 1, 2)
	b.Records[0].Chains = []remotecache.Chain{{Layers: []int{1, 0}, CreatedAt: epoch}}
	got := remotecache.Join(a, &remotecache.Index{}, b)
	if h := held(t, got, "base", "a", "root", "x", "y"); len(h) != 5 {
		t.Errorf("%v", h)
	}
	want := append(meaning(a), meaning(b)...)
	slices.Sort(want)
	if !slices.Equal(meaning(got), want) {
		t.Errorf("got %v, want %v", meaning(got), want)
	}
	if c := got.Records[len(a.Records)].Chains[0].Layers; got.Layers[c[0]].Digest != b.Layers[1].Digest || got.Layers[c[1]].Digest != b.Layers[0].Digest {
		t.Errorf("chain %v", c)
	}
}

func TestWithout(t *testing.T) {
	b := remotecache.NewBuilder()
	n := b.Add(key("base"), nil, []remotecache.ResultLayers{made(1, "a")})
	n = b.Add(key("one"), [][]link{on(n)}, []remotecache.ResultLayers{made(1, "a", "b")})
	b.Add(key("two"), [][]link{on(n)}, []remotecache.ResultLayers{made(1, "a", "b", "c")})
	b.Add(key("three"), nil, []remotecache.ResultLayers{made(1, "c")})
	idx := b.Index()
	lose := func(names ...string) map[digest.Digest]bool {
		m := map[digest.Digest]bool{}
		for _, n := range names {
			m[digest.FromString(n)] = true
		}
		return m
	}
	for _, tt := range []struct {
		lose   []string
		want   []string
		layers int
	}{
		{nil, []string{"base*", "one*", "two*", "three*"}, 4},
		{[]string{"b"}, []string{"base*", "one", "two", "three*"}, 2},
		{[]string{"c"}, []string{"base*", "one*", "two", "three"}, 2},
		{[]string{"a"}, []string{"base", "one", "two", "three*"}, 1},
		{[]string{"a", "c"}, []string{"base", "one", "two", "three"}, 0},
		{[]string{"z"}, []string{"base*", "one*", "two*", "three*"}, 4},
	} {
		got := idx.Without(lose(tt.lose...))
		if h := held(t, got, "base", "one", "two", "three"); !slices.Equal(h, tt.want) || len(got.Layers) != tt.layers {
			t.Errorf("without %v: %v with %d layers, want %v with %d", tt.lose, h, len(got.Layers), tt.want, tt.layers)
		}
		// What has a result still has the one it had.
		for _, m := range meaning(got) {
			if strings.Contains(m, "=") && !slices.Contains(meaning(idx), m) {
				t.Errorf("without %v: %s", tt.lose, m)
			}
		}
	}
	if len(idx.Layers) != 4 {
		t.Error("the index is changed")
	}
}
