package progress

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// A record is a sink that keeps what it is given. It has no lock: the Stream
// calls it for one event at a time, and the race detector watches.
type record struct{ events []*client.SolveStatus }

func (r *record) sink(st *client.SolveStatus) { r.events = append(r.events, st) }

func TestVertexLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r record
		s := New(r.sink)
		v := s.Vertex(client.Vertex{Digest: digest.FromString("v"), Name: "RUN make", Inputs: []digest.Digest{"in"}})
		began := time.Now()
		v.Begin()
		time.Sleep(3 * time.Second)
		v.End(errors.New("exit code: 2"))
		time.Sleep(time.Second)
		v.Begin()
		v.End(nil)
		if len(r.events) != 4 {
			t.Fatalf("%d events", len(r.events))
		}
		var got []string
		for _, e := range r.events {
			x := e.Vertexes[0]
			ended := "running"
			if x.Completed != nil {
				ended = x.Completed.Sub(began).String()
			}
			got = append(got, fmt.Sprint(x.Started.Sub(began), " ", ended, " ", x.Error))
			if x.Name != "RUN make" || x.Digest != digest.FromString("v") || !slices.Equal(x.Inputs, []digest.Digest{"in"}) {
				t.Errorf("the event describes %v", x)
			}
		}
		want := []string{"0s running ", "0s 3s exit code: 2", "4s running ", "4s 4s "}
		if !slices.Equal(got, want) {
			t.Errorf("started, ended, error:\n%q, not\n%q", got, want)
		}
	})
}

func TestCachedAndNeverBegun(t *testing.T) {
	var r record
	s := New(r.sink)
	s.Step("cached").Cached()
	s.Step("failed early").End(errors.New("no"))
	for i, cached := range []bool{true, false} {
		x := r.events[i].Vertexes[0]
		if x.Started == nil || x.Completed == nil || x.Cached != cached {
			t.Errorf("%s: started %v, completed %v, cached %v", x.Name, x.Started, x.Completed, x.Cached)
		}
	}
	if a, b := r.events[0].Vertexes[0].Digest, r.events[1].Vertexes[0].Digest; a == b || a.Validate() != nil {
		t.Errorf("the steps' digests are %s and %s", a, b)
	}
	if a, b := s.Step("x"), s.Step("x"); a.v.Digest != b.v.Digest {
		t.Error("one name, two digests")
	}
}

func TestEventsReachEverySinkInOrder(t *testing.T) {
	var a, b record
	s := New(a.sink, b.sink)
	var wg sync.WaitGroup
	for i := range 4 {
		v := s.Step(fmt.Sprint(i))
		wg.Go(func() {
			v.Begin()
			for j := range 50 {
				fmt.Fprint(v.Log(1), j)
			}
			v.End(nil)
		})
	}
	wg.Wait()
	if len(a.events) != 4*52 || !slices.Equal(a.events, b.events) {
		t.Fatalf("%d and %d events, or in another order", len(a.events), len(b.events))
	}
	next := map[digest.Digest]int{}
	for _, e := range a.events {
		switch {
		case len(e.Logs) > 0:
			l := e.Logs[0]
			if want := fmt.Sprint(next[l.Vertex] - 1); string(l.Data) != want {
				t.Errorf("%s: line %s comes where %s should", l.Vertex, l.Data, want)
			}
			next[l.Vertex]++
		default:
			x := e.Vertexes[0]
			if n := next[x.Digest]; (x.Completed == nil) != (n == 0) || x.Completed != nil && n != 51 {
				t.Errorf("%s: event %d has completed %v", x.Digest, n, x.Completed)
			}
			next[x.Digest]++
		}
	}
}

func TestLogCopiesItsBytes(t *testing.T) {
	var r record
	v := New(r.sink).Step("x")
	buf := []byte("one")
	for _, stream := range []int{1, 2} {
		if n, err := v.Log(stream).Write(buf); n != 3 || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
	}
	copy(buf, "two")
	for i, e := range r.events {
		if l := e.Logs[0]; string(l.Data) != "one" || l.Stream != i+1 || l.Timestamp.IsZero() {
			t.Errorf("the event has %q of stream %d at %v", l.Data, l.Stream, l.Timestamp)
		}
	}
}

func TestPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r record
		v := New(r.sink).Step("pull")
		began := time.Now()
		p := v.Start("sha256:abc", 1000)
		for range 100 { // 10 bytes every 10 ms: a second
			time.Sleep(10 * time.Millisecond)
			p.Add(10)
		}
		p.Done()
		var last int64
		for i, e := range r.events {
			st := e.Statuses[0]
			if st.ID != "sha256:abc" || st.Vertex != v.v.Digest || st.Total != 1000 || !st.Started.Equal(began) {
				t.Errorf("event %d is of %v", i, st)
			}
			if st.Current < last {
				t.Errorf("event %d goes back from %d to %d", i, last, st.Current)
			}
			last = st.Current
			if isLast := i == len(r.events)-1; (st.Completed != nil) != isLast {
				t.Errorf("event %d of %d: completed %v", i+1, len(r.events), st.Completed)
			}
		}
		if last != 1000 {
			t.Errorf("ends at %d", last)
		}
		if n, most := len(r.events), int(time.Second/partInterval)+3; n < 5 || n > most {
			t.Errorf("%d events in a second, at most %d expected", n, most)
		}
	})
}

func TestWarnings(t *testing.T) {
	var r record
	s := New(r.sink)
	s.Step("x").Warn(client.VertexWarning{Short: []byte("short"), Level: 1})
	s.Warn("sha256:d", 2, "other", [][]byte{[]byte("detail")}, "https://example.com", &pb.SourceInfo{Filename: "Dockerfile"}, nil)
	a, b := r.events[0].Warnings[0], r.events[1].Warnings[0]
	if a.Vertex != s.Step("x").v.Digest || string(a.Short) != "short" || a.Level != 1 {
		t.Errorf("the vertex's warning is %v", a)
	}
	if b.Vertex != "sha256:d" || string(b.Short) != "other" || b.Level != 2 || string(b.Detail[0]) != "detail" || b.SourceInfo.Filename != "Dockerfile" {
		t.Errorf("the stream's warning is %v", b)
	}
}

func TestNoVertex(t *testing.T) {
	v := From(context.Background())
	if v != nil {
		t.Fatalf("a context without a vertex has %v", v)
	}
	v.Begin()
	v.Cached()
	v.End(errors.New("no"))
	v.Warn(client.VertexWarning{})
	if n, err := fmt.Fprint(v.Log(1), "text"); n != 4 || err != nil {
		t.Errorf("Write: %d, %v", n, err)
	}
	p := v.Start("part", 1)
	p.Add(1)
	p.Done()

	var r record
	x := New(r.sink).Step("x")
	if From(With(context.Background(), x)) != x {
		t.Error("the context lost its vertex")
	}
}
