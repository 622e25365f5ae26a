package buildcache

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/remotecache"
)

// A job is a build whose results are exported: base is a source, copied is on
// top of it and known by content too, ran is on top of that.
type job struct {
	*process
	base, copied, ran *solver.Key
	records           []solver.Record[*layer.State]
}

func newJob(t *testing.T) *job {
	p := open(t, t.TempDir())
	j := &job{process: p, base: key("base")}
	j.copied = key("copy", by(j.base), by(random("context"))).WithContent(1, contentRecord("files"))
	j.ran = key("run", by(j.copied))
	base := p.file(nil, "base", "b")
	copied := p.file(base, "copied", "c")
	ran := p.file(copied, "ran", "r")
	vb, vc := vertex("base"), vertex("context")
	vcopy := vertex("copy", vb, vc)
	j.records = []solver.Record[*layer.State]{
		made(vb, j.base, base),
		made(vc, j.copied.Inputs[1][0].Key, p.file(nil, "secret", "context")),
		made(vcopy, j.copied, copied),
		made(vertex("run", vcopy), j.ran, ran),
	}
	return j
}

func made(v *llb.Vertex, k *solver.Key, s *layer.State) solver.Record[*layer.State] {
	return solver.Record[*layer.State]{
		Edge: llb.Edge{Vertex: v}, Key: k, Made: true, At: longAgo,
		Load: func(context.Context) (*layer.State, error) { return s, nil },
	}
}

// export returns the index of e as one that went over the wire, and its blobs.
func export(t *testing.T, e Exporter) (*remotecache.Index, *origin) {
	t.Helper()
	idx, sources, err := e.Index(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := idx.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, b := range idx.Blobs() {
		if _, ok := sources[b.Digest]; !ok {
			t.Errorf("blob %s has no source", b.Digest)
		}
	}
	var descs []ocispec.Descriptor
	for _, b := range idx.Blobs() {
		descs = append(descs, b.Descriptor())
	}
	dt, err := idx.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if idx, err = remotecache.Decode(dt); err != nil {
		t.Fatal(err)
	}
	if err := idx.Describe(descs); err != nil {
		t.Fatal(err)
	}
	o := &origin{blobs: map[digest.Digest][]byte{}}
	o.take(t, sources)
	return idx, o
}

// imported is the cache that a later job on another machine has of an export.
func imported(t *testing.T, idx *remotecache.Index, o layer.Origin) *Remote {
	t.Helper()
	r := NewRemote("remote", open(t, t.TempDir()).layers)
	if err := r.Loaded([]*remotecache.Index{idx}, o); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRemoteHits(t *testing.T) {
	idx, o := export(t, Exporter{Records: newJob(t).records, Max: true})
	r := imported(t, idx, o)
	if !r.Knows(record("copy")) || r.Knows(record("other")) {
		t.Error("the cache knows copy and nothing else; it says otherwise")
	}
	base := key("base")
	if m := r.Find(t.Context(), base); !m.Known || m.Hit != nil {
		t.Errorf("a source is known and has no result; got %+v", m)
	}
	context := random("context of the later job")
	byDef := key("copy", by(base), by(context))
	if m := r.Find(t.Context(), byDef); m.Known {
		t.Errorf("found through a random input: %+v", m)
	}
	wantMiss(t, r, byDef.WithContent(1, contentRecord("changed files")))
	copied := byDef.WithContent(1, contentRecord("files"))
	wantFound(t, r, copied, "copied", "c")
	wantFound(t, r, copied, "base", "b")
	wantFound(t, r, key("run", by(copied)), "ran", "r")
	wantMiss(t, r, key("run", []solver.Link{{Key: copied, Selector: "sha256:other"}}))
	wantMiss(t, r, key("run", by(byDef)))
	wantMiss(t, r, fresh(copied))
	wantMiss(t, r, key("run", by(fresh(copied))))

	m := r.Find(t.Context(), copied)
	s, err := m.Hit.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info := s.Info(); m.Hit.Cache != "remote" || info.Description != "file copied" || !info.Created.Equal(longAgo) {
		t.Errorf("a hit of %s with history %+v", m.Hit.Cache, info)
	}
}

// mode=min has the keys of all steps, and leads to the last one's result.
func TestRemoteKnownWithoutResult(t *testing.T) {
	j := newJob(t)
	test := made(vertex("test", vertex("in")), key("test", by(j.copied)), j.file(nil, "report", "t")) // on another root
	idx, o := export(t, Exporter{Records: append(j.records[:3:3], test), Results: []llb.Edge{test.Edge}})
	r := imported(t, idx, o)
	copied := key("copy", by(key("base")), by(random("x"))).WithContent(1, contentRecord("files"))
	if m := r.Find(t.Context(), copied); !m.Known || m.Hit != nil {
		t.Errorf("match %+v, want known without a result", m)
	}
	wantFound(t, r, key("test", by(copied)), "report", "t")
}

func TestRemoteLostBlob(t *testing.T) {
	idx, _ := export(t, Exporter{Records: newJob(t).records, Max: true})
	r := imported(t, idx, &origin{})
	copied := key("copy", by(key("base")), by(random("x"))).WithContent(1, contentRecord("files"))
	m := r.Find(t.Context(), copied)
	if m.Hit == nil {
		t.Fatal("no hit: what is at the origin is not known before it is read")
	}
	s, err := m.Hit.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Dirs(t.Context()); !errors.Is(err, layer.ErrLost) {
		t.Fatalf("error %v, want ErrLost", err)
	}
	if _, err := m.Hit.Load(t.Context()); !errors.Is(err, layer.ErrLost) {
		t.Errorf("loading again gives %v, want ErrLost", err)
	}
}

func TestRemoteWithoutIndex(t *testing.T) {
	r := NewRemote("remote", open(t, t.TempDir()).layers)
	asked := make(chan bool)
	go func() { asked <- r.Find(t.Context(), key("base")).Known || r.Knows(record("base")) }()
	select {
	case <-asked:
		t.Fatal("an answer before the import has ended")
	case <-time.After(20 * time.Millisecond):
	}
	if err := r.Loaded(nil, nil); err != nil {
		t.Fatal(err)
	}
	if <-asked {
		t.Error("it knows base")
	}
}

func TestRemoteUnsoundIndex(t *testing.T) {
	r := NewRemote("remote", open(t, t.TempDir()).layers)
	bad := &remotecache.Index{Records: []remotecache.Record{{Digest: record("base"), Results: []remotecache.Result{{Layer: 7}}}}}
	if err := r.Loaded([]*remotecache.Index{bad}, &origin{}); !errors.Is(err, remotecache.ErrCorrupt) {
		t.Errorf("error %v, want ErrCorrupt", err)
	}
	if r.Knows(record("base")) || r.Find(t.Context(), key("base")).Known {
		t.Error("it knows base")
	}
}

// Two imports from one place are one cache.
func TestRemoteSeveralIndexes(t *testing.T) {
	p := open(t, t.TempDir())
	one, o := export(t, Exporter{Records: oneStep(p, "one"), Max: true})
	two, o2 := export(t, Exporter{Records: oneStep(p, "two"), Max: true})
	for d, b := range o2.blobs {
		o.blobs[d] = b
	}
	r := NewRemote("remote", p.layers)
	if err := r.Loaded([]*remotecache.Index{one, two}, o); err != nil {
		t.Fatal(err)
	}
	wantFound(t, r, key("one", by(key("base"))), "f", "one")
	wantFound(t, r, key("two", by(key("base"))), "f", "two")
}

// oneStep is a build of one step on a base.
func oneStep(p *process, name string) []solver.Record[*layer.State] {
	base := vertex("base")
	return []solver.Record[*layer.State]{
		made(base, key("base"), nil),
		made(vertex(name, base), key(name, by(key("base"))), p.file(nil, "f", name)),
	}
}

// results returns the operations that an index has results for.
func results(idx *remotecache.Index, ops ...string) (out []string) {
	for _, op := range ops {
		if slices.ContainsFunc(idx.Records, func(r remotecache.Record) bool {
			return r.Digest == record(op) && len(r.Results)+len(r.Chains) > 0
		}) {
			out = append(out, op)
		}
	}
	return out
}
