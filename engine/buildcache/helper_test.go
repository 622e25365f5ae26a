package buildcache

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/content"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/solver"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var longAgo = time.Unix(1_600_000_000, 0)

// A process is the caches of one process that has a state dir open.
type process struct {
	root   string
	layers *layer.Store
	*Local

	mu     sync.Mutex
	warned []error
}

func open(t *testing.T, root string) *process {
	t.Helper()
	tmp := filepath.Join(root, "tmp")
	blobs, err := content.Open(filepath.Join(root, "blobs"), tmp)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{root: root}
	p.layers, err = layer.New(layer.Config{
		Dir: filepath.Join(root, "layers"), Content: blobs,
		Tmp: func() (string, error) { return os.MkdirTemp(tmp, "layer-") },
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Local, err = NewLocal(filepath.Join(root, "keys"), p.layers, func(err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.warned = append(p.warned, err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// file returns parent with a layer on top that has one file.
func (p *process) file(parent *layer.State, name, text string) *layer.State {
	m := fsdiff.NewMem()
	m.Add(fsdiff.Entry{Mode: os.ModeDir | 0o755, ModTime: longAgo})
	m.Add(fsdiff.Entry{Path: name, Mode: 0o644, Size: int64(len(text)), ModTime: longAgo, Content: fsdiff.Bytes([]byte(text))})
	return p.layers.FromDiff(parent, m, layer.Info{Description: "file " + name, Created: longAgo})
}

// save files a result as the solver does, and writes it.
func (p *process) save(t *testing.T, k *solver.Key, s *layer.State) {
	t.Helper()
	if err := p.Save(t.Context(), k, vertex("step"), s); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// found returns the files of what a cache has for a key, by name.
func found(t *testing.T, c solver.Cache[*layer.State], k *solver.Key, names ...string) (texts []string) {
	t.Helper()
	m := c.Find(t.Context(), k)
	if m.Hit == nil {
		return nil
	}
	s, err := m.Hit.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		texts = append(texts, read(t, s, n))
	}
	return texts
}

func read(t *testing.T, s *layer.State, name string) string {
	t.Helper()
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dt, err := v.ReadFile(name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(dt)
}

func wantFound(t *testing.T, c solver.Cache[*layer.State], k *solver.Key, name, want string) {
	t.Helper()
	if got := found(t, c, k, name); !slices.Equal(got, []string{want}) {
		t.Errorf("found %q in %s, want %q", got, name, want)
	}
}

func wantMiss(t *testing.T, c solver.Cache[*layer.State], k *solver.Key) {
	t.Helper()
	if m := c.Find(t.Context(), k); m.Hit != nil {
		t.Errorf("found a result for %s, want none", k.Record)
	}
}

func vertex(name string, inputs ...*llb.Vertex) *llb.Vertex {
	v := &llb.Vertex{Name: name, Digest: digest.FromString(name), Metadata: &pb.OpMetadata{}}
	for _, in := range inputs {
		v.Inputs = append(v.Inputs, llb.Edge{Vertex: in})
	}
	return v
}

// key names an operation by what its inputs are known as.
func key(op string, inputs ...[]solver.Link) *solver.Key {
	return &solver.Key{Record: record(op), Inputs: inputs}
}

func record(op string) digest.Digest { return cachekey.Output(digest.FromString(op), 0) }

func random(op string) *solver.Key {
	return &solver.Key{Record: digest.NewDigestFromEncoded(cachekey.Random, digest.FromString(op).Encoded())}
}

func fresh(k *solver.Key) *solver.Key {
	f := *k
	f.Fresh = true
	return &f
}

func by(k *solver.Key) []solver.Link { return []solver.Link{{Key: k, Selector: "sha256:part"}} }

// content is the record of a content digest.
func contentRecord(text string) digest.Digest { return cachekey.Output(digest.FromString(text), -1) }

// An origin is a remote cache's blobs.
type origin struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
}

func (o *origin) Open(_ context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b, ok := o.blobs[desc.Digest]
	if !ok {
		return nil, content.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(b[off:])), nil
}
func (o *origin) Repository() string { return "" }
func (o *origin) IsCache() bool      { return true }

// take copies the bytes of an export, as uploads do.
func (o *origin) take(t *testing.T, sources map[digest.Digest]Source) {
	t.Helper()
	for d, s := range sources {
		r, err := s.Layer.Open(t.Context(), s.Blob)
		if err != nil {
			t.Fatal(err)
		}
		dt, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		o.mu.Lock()
		o.blobs[d] = dt
		o.mu.Unlock()
	}
}
