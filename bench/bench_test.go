package main

import (
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	of := func(ms ...int) (out []sample) {
		for _, m := range ms {
			out = append(out, sample{took: time.Duration(m) * time.Millisecond})
		}
		return out
	}
	for _, c := range []struct {
		in   []sample
		want time.Duration
	}{
		{nil, 0}, {of(7), 7 * time.Millisecond}, {of(9, 1, 5), 5 * time.Millisecond}, {of(9, 1, 5, 6), 5500 * time.Microsecond},
	} {
		if got := median(c.in); got != c.want {
			t.Errorf("median of %v is %v, want %v", times(c.in), got, c.want)
		}
	}
}

func TestReport(t *testing.T) {
	r := newReport(options{runs: 3, tools: []string{"buildkit", "mayfly"}})
	w := workload{name: "W9", what: "something", rows: []string{"total", "again"}}
	for _, ms := range []int{300, 100, 200} {
		r.add(w, "buildkit", sample{row: "total", took: time.Duration(ms) * time.Millisecond, requests: 15, peak: 60 << 20})
		r.add(w, "mayfly", sample{row: "total", took: time.Duration(ms) * time.Millisecond / 4, requests: 5, peak: 30 << 20})
	}
	r.add(w, "mayfly", sample{row: "again", took: time.Second})
	var b strings.Builder
	if err := r.write(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| **W9** something | total | 0.200 (0.100–0.300) | 0.050 (0.025–0.075) | **0.25** | 15 / 5 | 0 / 0 | 60 / 30 |\n",
		"|  | again | – | 1.000 (1.000–1.000) | – |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}

func TestContexts(t *testing.T) {
	if n := strings.Count(graph(30, 10), "\nFROM "); n != 301 {
		t.Errorf("graph has %d stages, want 301", n)
	}
	if n := strings.Count(graph(30, 10), "\nCOPY "); n != 610 {
		t.Errorf("graph has %d COPYs, want 610", n)
	}
	if n := strings.Count(sequence(101), "\nRUN "); n != 101 {
		t.Errorf("the sequence has %d RUNs, want 101", n)
	}
	if n := strings.Count(parallel(101), "--mount=type=bind,from=s"); n != 101 {
		t.Errorf("%d stages side by side, want 101", n)
	}
}
